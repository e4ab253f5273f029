"""Images move between splits in units that must not be torn apart: all of a person's, or all copies of one image."""

from __future__ import annotations

import hashlib

import numpy as np


def copies_of(images: np.ndarray) -> np.ndarray:
    """For each image, the index of the first one that is byte-identical with it, int64 [n]."""
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    digests = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in flat]
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, i) for i, digest in enumerate(digests)], np.int64)


def units_of(keys: np.ndarray) -> list[np.ndarray]:
    """Positions that share a key, one array per key."""
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1) if len(order) else []


def take(units: list[np.ndarray], wanted: float, *, exact: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    """Whole units from the front, at most ``wanted`` images, and the units that are left.

    exact: units that no longer fit are skipped; otherwise the first of them ends the taking.
    """
    taken: list[np.ndarray] = []
    left: list[np.ndarray] = []
    size = 0
    for position, unit in enumerate(units):
        if size + len(unit) <= wanted:
            taken.append(unit)
            size += len(unit)
        elif exact and size < wanted:
            left.append(unit)
        else:
            left.extend(units[position:])
            break
    return (np.concatenate(taken) if taken else np.array([], np.int64)), left


def without_copies(indices: np.ndarray, others: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Those of ``indices`` of which no copy is among ``others``."""
    return indices[~np.isin(copies[indices], copies[others])]
