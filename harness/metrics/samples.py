"""What all estimators on confidences begin with: two samples per example, checked and laid out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["count_below", "two_samples"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


def two_samples(*, unlearned: Any, retrained: Any, smallest: int = 2) -> tuple[Floats, Floats]:
    """Confidences [N, S] and [M, S] (or [N] and [M] for one example) as [S, N] and [S, M], each row ascending.

    Raises:
        ValueError: shapes that do not fit, fewer than ``smallest`` draws, or values that are not finite.
    """
    u, r = _checked(unlearned, "unlearned", smallest), _checked(retrained, "retrained", smallest)
    if u.shape[1] != r.shape[1]:
        raise ValueError(f"unlearned and retrained must cover the same examples, got S = {u.shape[1]} and {r.shape[1]}")
    return np.sort(np.ascontiguousarray(u.T), axis=1), np.sort(np.ascontiguousarray(r.T), axis=1)


def count_below(sample: Floats, points: Floats, *, inclusive: bool = False) -> Ints:
    """How many of each ascending row of ``sample`` [B, N] lie below (or at) each of ``points`` [B, K]; [B, K]."""
    side = "right" if inclusive else "left"
    counts = np.empty(points.shape, dtype=np.intp)
    for row, (values, at) in enumerate(zip(sample, points, strict=True)):
        counts[row] = values.searchsorted(at, side=side)
    return counts


def _checked(values: Any, what: str, smallest: int) -> Floats:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim == 1:
        sample = sample[:, None]
    if sample.ndim != 2:
        raise ValueError(f"{what} must have shape [N, S] (draws, examples), got {list(sample.shape)}")
    if sample.shape[0] < smallest:
        raise ValueError(f"{what} must hold at least {smallest} draws, got {sample.shape[0]}")
    if not np.isfinite(sample).all():
        raise ValueError(f"{what} holds values that are not finite")
    return sample


def as_numpy(array: Any) -> NDArray[Any]:
    """A NumPy view of an array or a torch tensor (without importing torch)."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        if array.is_floating_point() and array.element_size() < 4:  # bfloat16 does not exist in NumPy
            array = array.float()
        array = array.numpy()
    return np.asarray(array)
