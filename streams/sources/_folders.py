"""Read a folder of images, for the source `arrays`: decoded once, kept in the cache, and mapped from there.

Every process that reads the folder shares the pages of that file. Its name says where the folder is and what is in it:
when an image has changed the folder is decoded again, and the older copy is removed. Whether one has changed is told by
the names, sizes and times of the files; only where these are others are the files read.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import torch

from streams.errors import DataError
from streams.files import cache_folder, remembered, write_cached
from streams.inputs import scale
from streams.sources._files import Table

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

logger = logging.getLogger(__name__)

_SIXTEEN_BITS = ("PNG", "PPM")  # what these formats open as whole numbers goes up to 65,535
IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def read_folder(path: Path, size: int, grayscale: bool) -> Table:
    """Read images resized to ``[C, size, size]``; see `streams.sources.arrays` for the layout.

    Raises:
        DataError: no classes, a class without images, or an image that cannot be read.
    """
    parts = _parts(path)
    files: list[tuple[Path, str]] = []
    counts = []
    for part in parts:
        part_files = _class_files(part)
        files += part_files
        counts.append(len(part_files))
    x, cached = _decoded(path, [file for file, _ in files], size, grayscale)
    return Table(
        path,
        torch.from_numpy(x),
        np.array([name for _, name in files]),
        test=np.repeat([False, True], counts) if len(parts) == 2 else None,
        notes=(f"images: resized to {size}x{size}, {'gray' if grayscale else 'RGB'}, scaled to [0, 1]",),
        scale=scale() if x.dtype == np.uint8 else None,
        cached=cached,
    )


def _decoded(folder: Path, files: Sequence[Path], size: int, grayscale: bool) -> tuple[np.ndarray, Path | None]:
    """Return all images, and the file of the cache that they are mapped from (None where the disk takes none).

    Returns:
        uint8 ``[N, C, size, size]``, or float32 in [0, 1] where an image has 16 bits.
    """
    shape = (len(files), 1 if grayscale else 3, size, size)
    place = hashlib.blake2b(repr((str(folder.resolve()), shape[1:])).encode(), digest_size=8).hexdigest()
    folder_of_cache = cache_folder() / "images"
    content = _known_content(files, folder_of_cache / f"{place}.stamp")
    cached = folder_of_cache / f"{place}-{content}.npy"
    x = _mapped(cached, shape)
    if x is not None:
        return x, cached
    logger.info("Decoding %d images of %s, once.", len(files), folder)
    try:
        write_cached(cached, lambda handle: _write(handle, files, shape))
        for older in cached.parent.glob(f"{place}-*"):
            if not older.name.startswith(cached.stem):
                older.unlink(missing_ok=True)
        x = _mapped(cached, shape)
    except OSError as error:
        logger.warning("%s cannot be written (%s); set LIFELONG_CACHE to a folder that can.", cached, error)
    return (np.stack(list(_pixels(files, shape, _dtype_of(files, shape)))), None) if x is None else (x, cached)


_SETTLED_S = 2.0
"""A file that was written so shortly before it was read may be written again at what is the same time to the system."""


# Why: docs/decisions.md#whether-images-have-changed-is-told-by-their-times
def _known_content(files: Sequence[Path], kept: Path) -> str:
    """Return what `_content_of` returns, from a file that says of which names, sizes and times it is the content.

    Args:
        files: all images.
        kept: that file; it is written anew where names, sizes or times are others.
    """
    started = time.time()
    stamp, newest = _stamp_of(files)

    def is_settled() -> bool:
        return newest < started - _SETTLED_S and _stamp_of(files)[0] == stamp

    return remembered(kept, stamp, lambda: _content_of(files), is_settled)


def _stamp_of(files: Sequence[Path]) -> tuple[str, float]:
    """Return a hash of names, sizes and times of change, and of what decodes; and the latest of the times, in seconds.

    The time at which the system changed what it knows of a file cannot be set back, as that of its content can.
    """
    h, newest = _hash_of_decoder(), 0
    for file in files:
        try:
            status = os.stat(file)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error}). Replace or remove it.") from error
        h.update(f"{file}|{status.st_ino}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}\n".encode())
        newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
    return h.hexdigest(), newest / 1e9


def _hash_of_decoder() -> hashlib.blake2b:
    import PIL

    return hashlib.blake2b(PIL.__version__.encode() + Path(__file__).read_bytes(), digest_size=16)


def _content_of(files: Sequence[Path]) -> str:
    """Return a hash of the content of all images, and of what decodes them (hex, 32 characters)."""
    h = _hash_of_decoder()
    for file in files:
        try:
            h.update(hashlib.blake2b(file.read_bytes()).digest())
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error}). Replace or remove it.") from error
    return h.hexdigest()


def _mapped(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return what a file holds, read as it is used, or None if there is none or it is damaged.

    Writing to the array changes this process's copy of a page, never the file.
    """
    try:
        x: np.ndarray = np.load(file, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        logger.warning("%s cannot be read (%s); decoding again.", file, error)
        return None
    return x if x.shape == shape and x.dtype in (np.uint8, np.float32) else None


def _write(handle: IO[bytes], files: Sequence[Path], shape: tuple[int, ...]) -> None:
    """Write an .npy file image by image: no more than one is in memory."""
    dtype = _dtype_of(files, shape)
    np.lib.format.write_array_header_1_0(handle, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    for pixels in _pixels(files, shape, dtype):
        handle.write(pixels.tobytes())


def _dtype_of(files: Sequence[Path], shape: tuple[int, ...]) -> np.dtype:
    """Return float32 if some image has 16 bits, else uint8; images are opened for it, not decoded."""
    from PIL import Image

    for file in files:
        try:
            with Image.open(file) as image:
                if _is_deep(image):
                    return np.dtype(np.float32)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # decoding it says what is wrong
    return np.dtype(np.uint8)


def _pixels(files: Sequence[Path], shape: tuple[int, ...], dtype: np.dtype) -> Iterator[np.ndarray]:
    """Yield ``[C, size, size]`` of each image, bytes as they are or floats in [0, 1]."""
    for file in files:
        pixels = _image(file, shape[-1], shape[1] == 1).transpose(2, 0, 1)
        yield pixels if dtype == np.uint8 else pixels.astype(np.float32) / np.float32(255)


def _is_deep(image: Picture) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BITS)


def _parts(folder: Path) -> list[Path]:
    """Return the folders that hold classes: train and test only if there is nothing else (a class may be a train)."""
    match sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        case ["test", "train"]:
            return [folder / "train", folder / "test"]
        case ["train"]:
            return [folder / "train"]
        case ["test"]:
            raise DataError(f"{folder}: has a folder test but none called train. Add it.")
    return [folder]


def _class_files(folder: Path) -> list[tuple[Path, str]]:
    """Return images and their class, ordered by class and then by path: by code point, the same everywhere."""
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise DataError(f"{folder}: has no sub-folders. Put the images of each class in a folder named after it.")
    labelled_files = []
    for name in classes:
        class_files = sorted(
            p.as_posix() for p in (folder / name).rglob("*") if p.suffix.lower() in IMAGES and p.is_file()
        )
        if not class_files:
            raise DataError(f"{folder / name}: holds no image ({', '.join(IMAGES)}). Add some or remove the folder.")
        labelled_files += [(Path(p), name) for p in class_files]
    return labelled_files


def _image(path: Path, size: int, grayscale: bool) -> np.ndarray:
    """Return uint8 ``[size, size, C]``, or float32 from 0 to 255 of an image with 16 bits."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if _is_deep(image):
                return _deep(image, size, 1 if grayscale else 3)
            if image.mode in ("I", "F"):
                raise DataError(
                    f"{path}: its pixels are {'whole' if image.mode == 'I' else 'real'} numbers of 32 bits, of which "
                    f"nobody says which is white. Save it with 8 or 16 bits, or use an .npz file."
                )
            pixels = np.asarray(image.convert("L" if grayscale else "RGB").resize((size, size)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: is not an image that can be read ({error}). Replace or remove it.") from error
    return pixels[:, :, None] if grayscale else pixels


def _deep(image: Picture, size: int, channels: int) -> np.ndarray:
    """Return an image of 16 bits as float32 ``[size, size, channels]`` from 0 to 255: converted, it would be white."""
    from PIL import Image

    values = np.asarray(image).astype(np.float32) / 257.0
    resized = np.asarray(Image.fromarray(values).resize((size, size))).clip(0, 255)
    return np.repeat(resized[:, :, None], channels, axis=2)
