"""Images that nearly repeat one another: found by a small fingerprint, so that a split need not tear them apart."""

from __future__ import annotations

import numpy as np

_BLOCK = 1024


def near_duplicates(images: np.ndarray, *, distance: int) -> np.ndarray:
    """For each image the index of the first of its cluster, int64 [n].

    The fingerprint is the difference hash: the picture in grey, averaged to 8 rows of 9 cells, says with 64 bits whether each
    cell is brighter than its right neighbour. Images at most ``distance`` bits apart are joined, and so are their clusters.

    images: uint8 [n, H, W, C]
    """
    prints = _fingerprints(images)
    root = np.arange(len(images))
    for start in range(0, len(images), _BLOCK):
        apart = np.bitwise_count(prints[start : start + _BLOCK, None] ^ prints[None, start:])
        for i, j in zip(*np.nonzero(apart <= distance), strict=True):
            a, b = _find(root, start + int(i)), _find(root, start + int(j))
            root[max(a, b)] = min(a, b)
    return np.array([_find(root, i) for i in range(len(root))], np.int64)


def _fingerprints(images: np.ndarray) -> np.ndarray:
    """uint64 [n]"""
    rows = np.array_split(np.arange(images.shape[1]), 8)
    columns = np.array_split(np.arange(images.shape[2]), 9)
    grey = images.mean(-1, dtype=np.float32)
    cells = np.stack([np.stack([grey[:, r][:, :, c].mean((1, 2)) for c in columns], -1) for r in rows], 1)  # [n, 8, 9]
    bits = (cells[..., :-1] > cells[..., 1:]).reshape(len(images), 64)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _find(root: np.ndarray, i: int) -> int:
    while root[i] != i:
        root[i] = root[root[i]]
        i = int(root[i])
    return i
