"""A folder with one sub-folder of images per class: ``root/CLASS/*.png``, or ``root/train/CLASS`` and ``root/test/CLASS``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from harness.errors import UserError
from harness.task import Source

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def image_folder(root: str | None = None, size: int = 32, grey: bool = False) -> Source:
    """Read every image below ``root``, resized to ``size`` × ``size``; classes are the sub-folders in alphabetical order.

    Raises UserError naming the folder that is missing or empty, or the first images that cannot be decoded.
    """
    if not root:
        raise UserError("data=image_folder needs data.root=DIRECTORY")
    base = Path(root).expanduser()
    if not base.is_dir():
        raise UserError(f"data.root={root}: no such directory")
    official = (base / "train").is_dir() and (base / "test").is_dir()
    parts = [base / "train", base / "test"] if official else [base]
    names = sorted(folder.name for folder in parts[0].iterdir() if folder.is_dir())
    if len(names) < 2:
        raise UserError(f"{parts[0]}: expected at least two class folders, found {names}")
    files = [[(f, c) for c, name in enumerate(names) for f in _images_in(part / name)] for part in parts]
    for part, found in zip(parts, files, strict=True):
        if not found:
            raise UserError(f"{part}: no images ({', '.join(sorted(SUFFIXES))}) in its class folders")
    flat = [item for found in files for item in found]
    with ThreadPoolExecutor() as pool:
        decoded = list(pool.map(lambda item: _decode(item[0], size, grey), flat))
    if bad := [str(d) for d in decoded if isinstance(d, UserError)]:
        raise UserError("; ".join(bad[:5]) + (f"; and {len(bad) - 5} more" if len(bad) > 5 else ""))
    return Source(
        name=base.resolve().name,
        images=np.stack([d for d in decoded if not isinstance(d, UserError)]),
        labels=np.array([c for _, c in flat], np.int64),
        classes=len(names),
        official_test=np.repeat([False, True], [len(found) for found in files]) if official else None,
    )


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)


def _decode(file: Path, size: int, grey: bool) -> np.ndarray | UserError:
    from PIL import Image

    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L" if grey else "RGB").resize((size, size), Image.Resampling.BILINEAR))
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        return UserError(f"{file}: cannot be decoded ({error})")
    return pixels[..., None] if grey else pixels
