"""What goes into an autoencoder and comes out of it, with one that can be computed by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from strategies.parts.diffusion import checkpoint


class Doubling:
    """Encodes to twice the image, and decodes to half of the latents."""

    config = SimpleNamespace(scaling_factor=0.5)

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def to(self, device: Any) -> Doubling:
        return self

    def encode(self, images: torch.Tensor) -> Any:
        self.sizes.append(len(images))
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=2 * images))

    def decode(self, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        self.sizes.append(len(latents))
        return (latents / 2,)


def test_latents_by_hand() -> None:
    """Images are stretched to [-1, 1], latents scaled, and at most 16 pass at once."""
    images = torch.linspace(0, 1, 20 * 3 * 4).view(20, 3, 2, 2)
    vae = Doubling()
    latents = checkpoint.encoded(vae, images)
    torch.testing.assert_close(latents, (2 * images - 1) * 2 * 0.5)
    torch.testing.assert_close(checkpoint.decoded(vae, latents), images)
    assert vae.sizes == [16, 4] * 2


def test_decoded_images_are_between_black_and_white() -> None:
    latents = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).view(1, 1, 1, 5)
    assert checkpoint.decoded(Doubling(), latents).flatten().tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_texts_are_filled_and_cut_to_what_the_encoder_reads(monkeypatch: Any) -> None:
    def tokenizer(texts: list[str], **options: Any) -> Any:
        assert options == {
            "padding": "max_length",
            "max_length": 5,
            "truncation": True,
            "return_tensors": "pt",
        }
        return SimpleNamespace(input_ids=torch.zeros(len(texts), 5, dtype=torch.int64))

    tokenizer.model_max_length = 5  # type: ignore[attr-defined]
    monkeypatch.setattr(checkpoint, "part_of", lambda name, part: tokenizer if part == "tokenizer" else None)
    assert checkpoint.tokens_of("somewhere", ["a", "b c"]).shape == (2, 5)
