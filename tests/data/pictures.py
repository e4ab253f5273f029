"""Small picture files, each another colour."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(path: Path, seed: int, side: int = 12) -> Path:
    """Coarse random blocks, so that JPEG and resizing leave different pictures different."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    Image.fromarray(blocks.repeat(side // 3, 0).repeat(side // 3, 1)).save(path, quality=95)
    return path


def casia_surf_folder(root: Path, people: int = 18, each: int = 6, side: int = 12) -> Path:
    """The layout of CASIA-SURF with ages; person i is 20 + i years old; two parts, as in the original."""
    root.mkdir(parents=True, exist_ok=True)
    names = [f"CLKJ_AS{i:04d}" for i in range(1, people + 1)]
    lines = [f"{name} {20 + i} {'MF'[i % 2]}" for i, name in enumerate(names)]
    (root / "Age_Gender.txt").write_text("\n".join(reversed(lines)) + "\n")  # the order of lines must not matter
    for i, name in enumerate(names):
        color = root / "WBackground" / ("train" if i % 3 else "dev") / name / "real.rssdk" / "color"
        for k in range(each):
            picture(color / f"{k}.jpg", 1000 * i + k, side)
    return root


def utkface_folder(root: Path, n: int = 120, side: int = 12) -> Path:
    for i in range(n):
        picture(root / f"{i % 60 + 1}_{i % 2}_{i % 5}_201701161745{i:05d}.jpg.chip.jpg", i, side)
    return root
