"""Ages in years to classes."""

from __future__ import annotations

import numpy as np

from harness.errors import UserError, unknown_name

BINNINGS = ("width", "count")


def age_bins(ages: np.ndarray, *, bins: int, binning: str) -> tuple[np.ndarray, int]:
    """Labels int64 [n], and the number of classes.

    ``width``: ``bins`` intervals of equal width from the youngest age to the oldest plus one (some may hold nobody), as
    in the competition. ``count``: about equally many in each; one age is never torn, so there may be fewer bins.
    """
    if binning not in BINNINGS:
        raise unknown_name("data.binning", binning, BINNINGS)
    if bins < 2:
        raise UserError(f"data.bins={bins}: expected at least 2")
    if binning == "width":
        return np.digitize(ages, np.linspace(ages.min(), ages.max() + 1, bins + 1)).astype(np.int64) - 1, bins
    edges = np.quantile(ages, np.linspace(0, 1, bins + 1)[1:-1], method="higher")
    present, labels = np.unique(np.searchsorted(np.unique(edges), ages, side="right"), return_inverse=True)
    if len(present) < 2:
        raise UserError(f"data.binning=count: {len(ages)} ages ({ages.min()} to {ages.max()}) give one bin only")
    return labels.astype(np.int64), len(present)
