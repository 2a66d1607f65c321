"""What convolutions look like as linear layers, and that nothing stays in a network that was listened to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from strategies.parts.weights.recording import has_patches, patches, recorded


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "dilation": 2},
        {"kernel_size": 3, "padding": 2, "stride": 2},
        {"kernel_size": (2, 3), "padding": (0, 1), "stride": (1, 2), "dilation": (2, 1)},
        {"kernel_size": 1},
    ],
)
def test_a_convolution_is_a_linear_layer_on_its_patches(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(3, 4, **options), torch.randn(2, 3, 9, 8)
    assert has_patches(layer)
    y = layer(x)
    rows, deltas = patches(layer, x, y)
    assert layer.bias is not None
    torch.testing.assert_close(rows @ layer.weight.flatten(1).T + layer.bias, deltas)
    assert torch.equal(deltas.transpose(1, 2).reshape(y.shape), y)


def test_other_layers_have_no_patches() -> None:
    assert not has_patches(nn.Conv2d(4, 4, 3, groups=2))
    assert not has_patches(nn.Conv2d(4, 4, 3, padding="same"))
    assert not has_patches(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    assert not has_patches(nn.Linear(4, 4))


def test_calls_are_collected_in_order_and_only_inside() -> None:
    first, second = nn.Linear(2, 3), nn.Linear(3, 1)
    network, x = nn.Sequential(first, nn.ReLU(), second), torch.ones(1, 2)
    with recorded([second, first]) as calls:
        network(x)
        network(x)
    network(x)
    assert [module for module, _, _ in calls] == [first, second, first, second]
    assert torch.equal(calls[0][1], x)
    assert torch.equal(calls[1][2], second(first(x).relu()))
    assert not any(m._forward_hooks for m in network.modules())
    with pytest.raises(ZeroDivisionError), recorded([first]):
        _ = 1 / 0
    assert not first._forward_hooks
