"""Bring your own arrays: one .npz file.

Keys: ``train_images`` [n, H, W] or [n, H, W, C], uint8 or floating point, and ``train_labels`` [n], integers from 0;
optionally ``train_groups`` [n], integer ids of the people the images show; ``test_images``, ``test_labels`` and
``test_groups`` for an official test set (without one, a test set is split off).
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from harness.errors import UserError
from harness.task import Source


def npz(path: str | None = None) -> Source:
    """Read ``path``. Raises UserError naming the array that is missing or malformed and what was expected."""
    if not path:
        raise UserError("data=npz needs data.path=FILE.npz")
    file = Path(str(path)).expanduser()
    if not file.is_file():
        raise UserError(f"data.path={path}: no such file")
    try:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(f"data.path={path}: a single array; expected an .npz with train_images and train_labels")
        with archive:
            present = sorted(archive.files)
            arrays = {name: _array(archive, name, file) for name in _ARRAYS if name in present}
    except _UNREADABLE as error:
        raise UserError(f"data.path={path}: not a readable .npz file ({error})") from error
    for name in ("train_images", "train_labels"):
        if name not in arrays:
            raise UserError(f"{file}: array '{name}' is missing; found {', '.join(present) or 'nothing'}")
    return _source(arrays, file)


_ARRAYS = tuple(f"{part}_{what}" for part in ("train", "test") for what in ("images", "labels", "groups"))
_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


def _array(archive: np.lib.npyio.NpzFile, name: str, file: Path) -> np.ndarray:
    try:
        return archive[name]
    except _UNREADABLE as error:
        raise UserError(f"{file}: {name} cannot be read ({error})") from error


def _source(arrays: dict[str, np.ndarray], file: Path) -> Source:
    if ("test_images" in arrays) != ("test_labels" in arrays):
        raise UserError(f"{file}: test_images and test_labels must come together")
    parts = ["train", "test"] if "test_images" in arrays else ["train"]
    images = [_images(arrays[f"{part}_images"], f"{file}: {part}_images") for part in parts]
    if len({(x.shape[1:], x.dtype) for x in images}) > 1:
        shapes = " and ".join(f"{x.shape[1:]} {x.dtype}" for x in images)
        raise UserError(f"{file}: train_images and test_images differ in shape or type: {shapes}")
    labels = [
        _integers(arrays[f"{part}_labels"], len(x), f"{file}: {part}_labels")
        for part, x in zip(parts, images, strict=True)
    ]
    classes = int(labels[0].max()) + 1
    if classes < 2:
        raise UserError(f"{file}: train_labels holds a single class; expected at least two")
    if classes > len(images[0]):
        raise UserError(
            f"{file}: train_labels goes up to {classes - 1} for {len(images[0])} images; expected integers from 0 to "
            "the number of classes - 1"
        )
    if labels[-1].max() >= classes:
        raise UserError(f"{file}: test_labels goes up to {labels[-1].max()}, train_labels only to {classes - 1}")
    groups = None
    if "train_groups" in arrays:
        if missing := [part for part in parts if f"{part}_groups" not in arrays]:
            raise UserError(f"{file}: {missing[0]}_groups is missing although train_groups is there")
        groups = np.concatenate(
            [
                _integers(arrays[f"{part}_groups"], len(x), f"{file}: {part}_groups")
                for part, x in zip(parts, images, strict=True)
            ]
        )
    official = np.concatenate([np.full(len(x), part == "test") for part, x in zip(parts, images, strict=True)])
    return Source(
        name=file.stem,
        images=np.concatenate(images),
        labels=np.concatenate(labels),
        classes=classes,
        groups=groups,
        official_test=official if len(parts) == 2 else None,
    )


def _images(array: np.ndarray, what: str) -> np.ndarray:
    if array.ndim not in (3, 4) or not len(array) or (array.ndim == 4 and array.shape[-1] > 16):
        raise UserError(f"{what} has shape {array.shape}; expected [n, H, W] or [n, H, W, channels], n > 0")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise UserError(f"{what} holds NaN or infinite values")
        array = array.astype(np.float32)
    elif array.dtype != np.uint8:
        raise UserError(f"{what} has type {array.dtype}; expected uint8 or floating point")
    return array if array.ndim == 4 else array[..., None]


def _integers(array: np.ndarray, n: int, what: str) -> np.ndarray:
    if array.shape != (n,):
        raise UserError(f"{what} has shape {array.shape}; expected ({n},), one for each image")
    if not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{what} has type {array.dtype}; expected integers")
    if array.min() < 0:
        raise UserError(f"{what} holds {array.min()}; expected integers from 0")
    return array.astype(np.int64)
