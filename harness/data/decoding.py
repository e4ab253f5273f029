"""Decode and resize image files, once: in parallel, and kept in the store under everything the result depends on."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track

from harness.errors import UserError
from harness.files import default_root, key_of, write_atomically

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
T = TypeVar("T")
R = TypeVar("R")
_VERSION = 1  # raised by hand when the same files would be decoded to other pixels


def folder(root: str | None, *, data: str, where_to_get: str) -> Path:
    """``data.root`` as an existing directory; raises UserError saying where the data come from and where to put them."""
    if not root:
        raise UserError(f"data={data} needs data.root=DIRECTORY. {where_to_get}")
    base = Path(str(root)).expanduser()
    if not base.is_dir():
        raise UserError(f"data.root={root}: no such directory. {where_to_get}")
    return base


def images_below(base: Path) -> list[Path]:
    """All image files below ``base``, in the order of their paths."""
    return sorted(file for file in base.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def decode(files: Sequence[Path], *, size: int, grey: bool = False) -> np.ndarray:
    """The images as uint8 [n, size, size, 3], or [n, size, size, 1] in grey; bilinear with antialiasing.

    Raises UserError naming the first files that cannot be decoded.
    """

    def make() -> np.ndarray:
        done = in_parallel(lambda file: _decode(file, size, grey), files, "decoding images")
        if bad := [str(result) for result in done if isinstance(result, UserError)]:
            raise UserError("; ".join(bad[:5]) + (f"; and {len(bad) - 5} more" if len(bad) > 5 else ""))
        return np.stack([result for result in done if not isinstance(result, UserError)])

    return cached({"what": "decoded", "size": size, "grey": grey}, files, make)


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 [n, H, W, 3] to [n, size, size, 3], as :func:`decode` resizes."""
    from PIL import Image

    return np.stack(
        in_parallel(
            lambda pixels: np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)),
            list(images),
            "resizing images",
        )
    )


def cached(options: dict[str, Any], files: Iterable[Path], make: Callable[[], np.ndarray]) -> np.ndarray:
    """``make()``, or what it returned before for the same ``options`` and unchanged ``files`` (names, sizes, times)."""
    seen = [[str(file.absolute()), (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files]
    path = default_root() / "images" / f"{key_of({'version': _VERSION, **options, 'files': seen})}.npy"
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # not there, or damaged: make it again
        array = make()
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(path, buffer.getvalue())
    return array


def in_parallel(work: Callable[[T], R], items: Sequence[T], title: str) -> list[R]:
    """``work`` on every item, in order; image code releases the interpreter lock, so threads do. A bar on a terminal."""
    console = Console(stderr=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(work, items)
        if not console.is_terminal:
            return list(results)
        return list(track(results, title, total=len(items), console=console, transient=True))


def _decode(file: Path, size: int, grey: bool) -> np.ndarray | UserError:
    from PIL import Image

    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L" if grey else "RGB").resize((size, size), Image.Resampling.BILINEAR))
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        return UserError(f"{file}: cannot be decoded ({error})")
    return pixels[..., None] if grey else pixels
