"""What keeps an eraser from drifting when requests follow each other: additions to any of them.

Lee et al. 2026, arXiv 2511.07970: penalties on the way from where a request began (L1-SP, L2-SP), steps of the weights
that the request needs most (SelFT), and keys and values that answer other prompts as before (gradient projection).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import nn

from strategies.parts.diffusion.parts import is_in_part
from strategies.parts.model import FlatModel


def pull(parameters: torch.Tensor, start: torch.Tensor, l1: float, l2: float, count: int) -> torch.Tensor:
    """Return the gradient of l1 mean |theta - start| + l2 mean (theta - start)^2, ``[P]``; the means are over `count`.

    >>> pull(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 0.0]), 1.0, 2.0, 2)
    tensor([4.5000, 0.0000])
    """
    change = parameters - start
    return (l1 * change.sign() + 2 * l2 * change) / count


def most_moved(gradient: torch.Tensor, movable: torch.Tensor, share: float) -> torch.Tensor:
    """Return which share of the movable weights have the largest gradients, bool ``[P]``; at least one."""
    count = max(round(share * int(movable.sum())), 1)
    chosen = torch.zeros_like(movable)
    chosen[gradient.abs().masked_fill(~movable, -1.0).topk(count).indices] = True
    return chosen


def directions(rows: torch.Tensor) -> torch.Tensor:
    """Return an orthonormal basis of what rows ``[n, d]`` span, ``[r, d]``, in double precision."""
    _, sizes, basis = torch.linalg.svd(rows.double(), full_matrices=False)
    return basis[sizes > 1e-6 * sizes.max()]


@final
class Shield:
    """Layers that must answer some inputs as they did: their changes have no component along what those span.

    The published code projects gradients, which Adam, dividing each by its own size, turns back towards what was to be
    left alone; and it leaves biases free. Here the change since the beginning is projected after every step, bias
    included, which holds for any optimizer.
    """

    def __init__(self, model: FlatModel, inputs: dict[str, torch.Tensor]) -> None:
        """Shield layers, by name, on inputs ``[n, d]``; their weights are as they are to be compared with."""
        self._model = model
        self._layers = [(name, *self._at(name, rows)) for name, rows in inputs.items()]

    @property
    def free(self) -> float:
        """The least share of directions in which the inputs of a layer can be answered in another way, 0 to 1."""
        return min((1 - len(basis) / basis.shape[1] for _, _, basis in self._layers), default=1.0)

    def hold(self) -> None:
        """Take out of every layer's change what would be seen on the inputs."""
        for name, start, basis in self._layers:
            change = self._matrix(name).double() - start
            self._put(name, start + change - (change @ basis.t()) @ basis)

    def _at(self, name: str, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if f"{name}.bias" in self._model.slices:
            rows = torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
        return self._matrix(name).double(), directions(rows)

    def _matrix(self, name: str) -> torch.Tensor:
        """Return a layer's weights ``[out, d]``, with the bias as the last column if there is one."""
        slices, parameters = self._model.slices, self._model.parameters
        bias = slices.get(f"{name}.bias")
        weight = parameters[slices[f"{name}.weight"]]
        if bias is None:
            return weight.view(self._outputs(name), -1)
        return torch.cat([weight.view(bias.stop - bias.start, -1), parameters[bias].unsqueeze(1)], 1)

    def _put(self, name: str, matrix: torch.Tensor) -> None:
        slices, parameters = self._model.slices, self._model.parameters
        bias = slices.get(f"{name}.bias")
        if bias is not None:
            parameters[bias] = matrix[:, -1].to(parameters)
            matrix = matrix[:, :-1]
        parameters[slices[f"{name}.weight"]] = matrix.reshape(-1).to(parameters)

    def _outputs(self, name: str) -> int:
        layer = self._model.network.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        return layer.out_features


def readers(model: FlatModel) -> list[str]:
    """Return the names of the layers that read the prompt: keys and values, or `read` of `mlp-denoiser`."""
    names = [name for name in model.slices if name.endswith(".weight") and is_in_part(name, "key-value")]
    return [name.removesuffix(".weight") for name in names]


@contextmanager
def read_by(model: FlatModel, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Note what layers read while this is open: rows ``[n, d]`` of the last call of each."""
    read: dict[str, torch.Tensor] = {}

    def note(name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            read[name] = inputs[0].detach().reshape(-1, inputs[0].shape[-1])

        return hook

    handles = [model.network.get_submodule(name).register_forward_pre_hook(note(name)) for name in names]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()
