"""The competition's own numbers: logit-scaled confidence, hypothesis-test ε, forgetting quality F, score.

Source: the organisers' evaluator (google-deepmind/unlearning_evaluation, commit ffae0ff) and their note
"Evaluation for the NeurIPS Machine Unlearning Competition" (2023). The ε are those of :mod:`harness.metrics.attacks`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from harness.metrics.attacks import EPSILON_CAP, official_epsilons
from harness.metrics.base import Column, Outputs, metric
from harness.metrics.samples import Floats, as_numpy

__all__ = ["competition_score", "confidences", "forgetting_quality", "official", "points"]

BIN_WIDTH = 0.5
SMALLEST_N = 8  # below this the bins say nothing

TINY = 1e-45  # added to both probabilities before the logarithm; saturates at ±103.616


def confidences(logits: Any, labels: Any) -> Floats:
    """Logit-scaled confidence of the true class, log(p + 1e-45) − log(q + 1e-45).

    p is the softmax probability of the true class and q the sum of the *other* probabilities, summed directly:
    1 − p would lose all precision near p = 1. Dimensionless (natural logarithm), saturates at ±103.616.

    Args:
        logits: [N, S, C] or [S, C], NumPy array or torch tensor. Exponentials are taken in its own precision, as the
            evaluator does (16-bit logits are widened to float32 first), everything after that in float64.
        labels: [S] integers in 0..C−1.

    Returns:
        [N, S] or [S], float64. NaN where a row of logits is not finite.

    Raises:
        ValueError: a shape does not fit, or a label is out of range.

    Source: the organisers' evaluator (google-deepmind/unlearning_evaluation, commit ffae0ff).
    """
    z = as_numpy(logits)
    y = as_numpy(labels)
    if z.ndim not in (2, 3):
        raise ValueError(f"logits must have shape [N, S, C] or [S, C], got {list(z.shape)}")
    n_examples, n_classes = z.shape[-2:]
    if n_classes < 2:
        raise ValueError(f"logits must have at least 2 classes in the last axis, got shape {list(z.shape)}")
    if y.shape != (n_examples,):
        raise ValueError(f"labels must have shape [{n_examples}] to fit logits {list(z.shape)}, got {list(y.shape)}")
    if y.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, got dtype {y.dtype}")
    wrong = np.flatnonzero((y < 0) | (y >= n_classes))
    if wrong.size:
        raise ValueError(
            f"labels must lie in 0..{n_classes - 1}; labels[{wrong[0]}] = {y[wrong[0]]} (and {wrong.size - 1} more)"
        )
    if z.dtype not in (np.float32, np.float64):
        z = z.astype(np.float32 if z.dtype.kind == "f" else np.float64)

    with np.errstate(invalid="ignore"):  # inf − inf: the row becomes NaN, as documented
        probabilities = np.exp(z - z.max(axis=-1, keepdims=True)).astype(np.float64)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    examples = np.arange(n_examples)
    true = probabilities[..., examples, y]
    probabilities[..., examples, y] = 0.0
    others = probabilities.sum(axis=-1)
    return np.asarray(np.log(true + TINY) - np.log(others + TINY))


def points(epsilons: Any, *, n: int) -> Floats:
    """Points of each ε: 1, 1/2, 1/4, … for the bins [0, 0.5), [0.5, 1), …; 0 beyond the last bin.

    The bins end at ceil(ln(n − 1)): a larger ε cannot be told from n draws. 14 bins at n = 512.

    Args:
        epsilons: any shape.
        n: number of draws.

    Raises:
        ValueError: n < 8, or an ε that is NaN or negative.
    """
    if n < SMALLEST_N:
        raise ValueError(
            f"forgetting quality needs at least {SMALLEST_N} draws: with n = {n} there are no usable bins, "
            "hardly any ε can be told from another"
        )
    eps = np.asarray(epsilons, dtype=np.float64)
    if not np.all(eps >= 0):
        raise ValueError("epsilons must be non-negative numbers")
    n_bins = int(math.ceil(math.log(n - 1)) / BIN_WIDTH)
    bins = np.floor(eps / BIN_WIDTH)
    return np.asarray(np.where(bins < n_bins, np.exp2(-np.minimum(bins, n_bins)), 0.0))


def forgetting_quality(epsilons: Any, *, n: int) -> float:
    """Forgetting quality F: mean points over the forget set, in [0, 1].

    A perfect method does not reach 1: ε is a maximum over very many attacks, so independent samples of one distribution
    differ too. The reachable best depends on the task and on n and has to be measured on retrained models.

    Args:
        epsilons: [S], from :func:`official_epsilons`.
        n: number of draws of each kind.

    Raises:
        ValueError: n < 8, no examples, or an ε that is NaN or negative.
    """
    scored = points(epsilons, n=n)
    if scored.size == 0:
        raise ValueError("epsilons must hold at least one example")
    return float(scored.mean())


def competition_score(quality: float, *, unlearned: Mapping[str, Floats], retrained: Mapping[str, Floats]) -> float:
    """The competition's score F × (RA_U / RA_R) × (TA_U / TA_R), not capped at 1.

    Ratios of means over draws, not means of ratios: the draws are not paired.

    Args:
        quality: forgetting quality F.
        unlearned, retrained: accuracies per draw, fractions, with keys ``retain`` and ``test``, each [N].

    Returns:
        The score, or NaN where the retrained models have no accuracy to compare with.
    """
    score = quality
    for part in ("retain", "test"):
        reference = float(np.mean(retrained[part]))
        score *= float(np.mean(unlearned[part])) / reference if reference > 0 else math.nan
    return score


@metric(
    name="official",
    needs={"confidences", "accuracy"},
    columns=(
        Column(
            name="forgetting_quality",
            direction="higher",
            ideal=None,
            range=(0.0, 1.0),
            meaning="mean points of ε over the forget set; the reachable best is the value of the retrain row",
        ),
        Column(
            name="epsilon_median",
            direction="lower",
            ideal=0.0,
            range=(0.0, EPSILON_CAP),
            meaning="median over the forget set of the official ε",
        ),
        Column(
            name="score",
            direction="higher",
            ideal=None,
            range=(0.0, math.inf),
            meaning="forgetting quality × retain accuracy ratio × test accuracy ratio, to the retrained models",
        ),
    ),
)
def official(*, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """Forgetting quality, median ε and score; the first and last are NaN below 8 draws (smoke runs)."""
    return scored(official_epsilons, unlearned=unlearned, retrained=retrained)


def scored(epsilons_of: Callable[..., Floats], *, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """The columns of ``official``, from the ε of any estimator."""
    epsilons = epsilons_of(unlearned=unlearned.confidences, retrained=retrained.confidences)
    n = min(unlearned.n, retrained.n)
    quality = forgetting_quality(epsilons, n=n) if n >= SMALLEST_N else math.nan
    return {
        "forgetting_quality": quality,
        "epsilon_median": float(np.median(epsilons)),
        "score": competition_score(quality, unlearned=unlearned.accuracy, retrained=retrained.accuracy),
    }


# --- input ------------------------------------------------------------------------------------------------------------
