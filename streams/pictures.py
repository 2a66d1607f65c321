"""Pictures: images that lie in files and are read when a batch needs them; no data set has to fit into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch

from streams.errors import DataError

Aspect = Literal["pad", "stretch"]
"""How an image becomes a square: with margins of CLIP's mean colour, as LLaVA 1.5 does, or stretched."""
_MARGIN = (122, 116, 104)


@final
class Pictures:
    """The images that rows of text speak of, uint8 ``[N, M, C, S, S]``; as far as it is used, what a tensor does.

    Attributes:
        files: all of them, each once.
        places: int64 ``[N, M]`` into the files, -1 where a row has fewer than M images.
        shape: see above.
    """

    dtype = torch.uint8

    def __init__(self, files: Sequence[Path], places: np.ndarray, channels: int, size: int, aspect: Aspect) -> None:
        """Take where they lie; nothing is read yet."""
        self.files, self.places, self._aspect = tuple(files), places, aspect
        self.shape = torch.Size([*places.shape, channels, size, size])

    def __len__(self) -> int:
        return len(self.places)

    def index_select(self, dim: int, rows: torch.Tensor) -> torch.Tensor:
        """Return the images of some rows ``[B, M, C, S, S]``, read from their files, on the device of `rows`.

        Raises:
            DataError: a file is gone, or is no image.
        """
        places = self.places[rows.cpu().numpy()]
        result = torch.zeros(len(places), *self.shape[1:], dtype=self.dtype)
        for row, column in zip(*np.nonzero(places >= 0), strict=True):
            result[row, column] = self._read(self.files[places[row, column]])
        return result.to(rows.device)

    def exchanged(self, ids: np.ndarray, others: np.ndarray) -> Pictures:
        """Return the same, but the rows `ids` have the images of the rows `others`."""
        places = self.places.copy()
        places[ids] = self.places[others]
        return Pictures(self.files, places, int(self.shape[2]), int(self.shape[3]), self._aspect)

    def digests(self) -> list[bytes]:
        """Return a hash of what is in each file."""
        found = []
        for path in self.files:
            try:
                with path.open("rb") as content:
                    found.append(hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).digest())
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}.") from error
        return found

    def contents(self) -> list[bytes]:
        """Return, for each row, what tells its images from those of another."""
        digests = [*self.digests(), b""]
        how = f"{tuple(self.shape[2:])} {self._aspect}".encode()
        return [b"|".join([how, *(digests[place] for place in row)]) for row in self.places]

    def _read(self, path: Path) -> torch.Tensor:
        from PIL import Image, UnidentifiedImageError

        channels, size, _ = self.shape[2:]
        try:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(f"{path} cannot be read as an image ({error}). Put it back, or leave it out.") from error
        if self._aspect == "pad" and image.width != image.height:
            longer = max(image.size)
            square = Image.new("RGB", (longer, longer), _MARGIN)
            square.paste(image, ((longer - image.width) // 2, (longer - image.height) // 2))
            image = square
        image = image.resize((size, size), Image.Resampling.BICUBIC)
        pixels = np.asarray(image.convert("L") if channels == 1 else image)
        return torch.from_numpy(pixels.copy()).reshape(size, size, channels).permute(2, 0, 1)
