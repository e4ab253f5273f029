"""U-LiRA: a likelihood-ratio attack on each example, unlearned against retrained (Hayes et al. 2024, arXiv 2403.01218).

The attacker sees one confidence and must say which kind of model gave it. For every example it fits a Gaussian to the unlearned
and one to the retrained confidences. Every draw is attacked by Gaussians fitted to the *other* draws, so none is
used to recognise itself; all N leave-one-out fits are differences of two sums.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import rankdata

from harness.metrics.base import Column, Outputs, metric
from harness.metrics.kl import VARIANCE_FLOOR, fit
from harness.metrics.samples import Floats

__all__ = ["lira_scores", "u_lira"]

FALSE_POSITIVES = 0.01
SMALLEST = 3  # draws: two to fit, one to attack


def lira_scores(*, unlearned: Any, retrained: Any) -> tuple[Floats, Floats]:
    """Log likelihood ratios ln p(c | unlearned) − ln p(c | retrained) of every draw, itself left out of the fit.

    Args:
        unlearned, retrained: confidences [N, S] and [M, S] (or [N] and [M] for one example).

    Returns:
        Scores of the unlearned draws [N, S] and of the retrained draws [M, S]; above 0: taken for unlearned. Variances are
        maximum-likelihood and at least 1e-6.

    Raises:
        ValueError: shapes that do not fit, fewer than 3 draws, or values that are not finite.
    """
    everyone_u, everyone_r = fit(unlearned, "unlearned"), fit(retrained, "retrained")
    u, r = (np.asarray(values, dtype=np.float64) for values in (unlearned, retrained))
    u, r = (values[:, None] if values.ndim == 1 else values for values in (u, r))
    if u.shape[1] != r.shape[1]:
        raise ValueError(f"unlearned and retrained must cover the same examples, got S = {u.shape[1]} and {r.shape[1]}")
    if min(len(u), len(r)) < SMALLEST:
        raise ValueError(f"a draw can be left out of {SMALLEST} or more, got {len(u)} and {len(r)}")
    return (
        _log_density(u, *_without_each(u)) - _log_density(u, *everyone_r),
        _log_density(r, *everyone_u) - _log_density(r, *_without_each(r)),
    )


def _without_each(sample: Floats) -> tuple[Floats, Floats]:
    """Mean and floored variance [N, S] of the sample without each of its draws."""
    n = len(sample)
    centred = sample - sample.mean(axis=0)  # else the difference of sums cancels
    mean = -centred / (n - 1)
    variance = ((centred**2).sum(axis=0) - centred**2) / (n - 1) - mean**2
    return mean + sample.mean(axis=0), np.maximum(variance, VARIANCE_FLOOR)


def _log_density(x: Floats, mean: Floats, variance: Floats) -> Floats:
    return np.asarray(-0.5 * (np.log(variance) + (x - mean) ** 2 / variance))


def _auc(u: Floats, r: Floats) -> Floats:
    """Area under the ROC curve [S], ties counted half."""
    ranks = rankdata(np.concatenate([u, r]), axis=0)[: len(u)].sum(axis=0)
    return np.asarray((ranks - len(u) * (len(u) + 1) / 2) / (len(u) * len(r)))


@metric(
    name="u_lira",
    needs={"confidences"},
    columns=(
        Column(
            name="u_lira_auc",
            direction="closer",
            ideal=None,
            range=(0.0, 1.0),
            meaning="AUC of U-LiRA, mean over the forget set; ideal: its null, below 0.5 because draws are left out",
        ),
        Column(
            name="u_lira_accuracy",
            direction="lower",
            ideal=0.5,
            range=(0.0, 1.0),
            meaning="balanced accuracy of U-LiRA at likelihood ratio 1",
        ),
        Column(
            name="u_lira_tpr",
            direction="lower",
            ideal=FALSE_POSITIVES,
            range=(0.0, 1.0),
            meaning="share of unlearned confidences U-LiRA finds at 1 % false positives, all forget examples pooled",
        ),
    ),
)
def u_lira(*, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """AUC, balanced accuracy, TPR at 1 % FPR; NaN below 3 draws."""
    if min(unlearned.n, retrained.n) < SMALLEST:
        return dict.fromkeys(("u_lira_auc", "u_lira_accuracy", "u_lira_tpr"), math.nan)
    u, r = lira_scores(unlearned=unlearned.confidences, retrained=retrained.confidences)
    allowed = math.floor(FALSE_POSITIVES * r.size)  # retrained scores above the threshold
    threshold = np.partition(r.ravel(), r.size - 1 - allowed)[r.size - 1 - allowed]
    return {
        "u_lira_auc": float(_auc(u, r).mean()),
        "u_lira_accuracy": 0.5 * float((u > 0).mean() + (r <= 0).mean()),
        "u_lira_tpr": float((u > threshold).mean()),
    }
