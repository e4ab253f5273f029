"""A folder with one sub-folder of images per class: ``root/CLASS/*.png``, or ``root/train/CLASS`` and ``root/test/CLASS``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.data.decoding import SUFFIXES, decode, folder, images_below
from harness.errors import UserError
from harness.task import Source


def image_folder(root: str | None = None, size: int = 32, grey: bool = False) -> Source:
    """Read every image below ``root``, resized to ``size`` × ``size``; classes are the sub-folders in alphabetical order.

    Raises UserError naming the folder that is missing or empty, or the first images that cannot be decoded.
    """
    base = folder(root, data="image_folder", where_to_get="It holds one sub-folder of images per class.")
    official = (base / "train").is_dir() and (base / "test").is_dir()
    parts = [base / "train", base / "test"] if official else [base]
    names = _class_folders(parts[0])
    if len(names) < 2:
        raise UserError(f"{parts[0]}: expected at least two class folders, found {', '.join(names) or 'none'}")
    if unknown := sorted(set(_class_folders(parts[-1])) - set(names)):
        raise UserError(f"{parts[-1] / unknown[0]}: class '{unknown[0]}' is not in {parts[0]}")
    files = [[(f, c) for c, name in enumerate(names) for f in images_below(part / name)] for part in parts]
    for part, items in zip(parts, files, strict=True):
        if not items:
            raise UserError(f"{part}: no images ({', '.join(SUFFIXES)}) in its class folders")
    filled = {c for _, c in files[0]}
    if empty := [name for c, name in enumerate(names) if c not in filled]:
        raise UserError(f"{parts[0] / empty[0]}: a class folder without images ({', '.join(SUFFIXES)})")
    flat = [item for items in files for item in items]
    return Source(
        name=base.resolve().name,
        images=decode([file for file, _ in flat], size=size, grey=grey),
        labels=np.array([c for _, c in flat], np.int64),
        classes=len(names),
        official_test=np.repeat([False, True], [len(items) for items in files]) if official else None,
    )


def _class_folders(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
