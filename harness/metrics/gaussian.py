"""ε of Gaussians fitted to the confidences: what an attacker could reach who knew both distributions.

Of two distributions P and Q, δ(ε) = max over both orders of P(L > ε) − e^ε Q(L > ε) with L = log(p/q) (Neyman–Pearson);
ε is where δ(ε) falls to the prescribed δ. For Gaussians L is a quadratic, the region {L > ε} an interval, its complement
or a half-line, and both probabilities are closed; ε itself is found by bisection.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import log_ndtr

from harness.metrics.attacks import DELTA, EPSILON_CAP
from harness.metrics.base import Column, Outputs, metric
from harness.metrics.kl import fit
from harness.metrics.official import SMALLEST_N, forgetting_quality
from harness.metrics.samples import Floats

__all__ = ["gaussian", "gaussian_epsilons"]

_BISECTIONS = 50  # 50 / 2^50: below the rounding of ε


def gaussian_epsilons(*, unlearned: Any, retrained: Any, delta: float = DELTA) -> Floats:
    """ε of every example, from Gaussian fits (maximum likelihood, variances at least 1e-6), clipped to [0, 50].

    Args:
        unlearned, retrained: confidences [N, S] and [M, S] (or [N] and [M] for one example).
        delta: δ of (ε, δ)-unlearning, above 0.

    Returns:
        [S]; a shift of half a standard deviation gives 1.99, of one 4.38 (δ = 1e-5). Symmetric under exchange.

    Raises:
        ValueError: shapes that do not fit, fewer than 2 draws, values that are not finite, or δ outside (0, 1).
    """
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta must lie in (0, 1), got {delta}")
    mean_u, var_u = fit(unlearned, "unlearned")
    mean_r, var_r = fit(retrained, "retrained")
    if mean_u.shape != mean_r.shape:
        raise ValueError(
            f"unlearned and retrained must cover the same examples, got S = {len(mean_u)} and {len(mean_r)}"
        )
    shift = mean_u - mean_r
    forward = (shift / np.sqrt(var_r), np.sqrt(var_u / var_r))
    reverse = (-shift / np.sqrt(var_u), np.sqrt(var_r / var_u))
    low, high = np.zeros(len(shift)), np.full(len(shift), EPSILON_CAP)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        above = np.maximum(_excess(middle, *forward), _excess(middle, *reverse)) > delta
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    at_zero = np.maximum(_excess(np.zeros_like(low), *forward), _excess(np.zeros_like(low), *reverse))
    return np.asarray(np.where(at_zero > delta, high, 0.0))


def _excess(epsilon: Floats, mean: Floats, std: Floats) -> Floats:
    """δ(ε) [S] of P = N(mean, std²) against Q = N(0, 1)."""
    # L(x) > ε is a x² + b x + c > 0; roots by the form that does not cancel, so that a → 0 sends one to infinity.
    a = 0.5 * (1.0 - 1.0 / std**2)
    b = mean / std**2
    c = -0.5 * (mean / std) ** 2 - np.log(std) - epsilon
    discriminant = b * b - 4 * a * c
    q = -0.5 * (b + np.copysign(np.sqrt(np.maximum(discriminant, 0.0)), b))
    with np.errstate(divide="ignore", invalid="ignore"):
        roots = np.sort(np.stack([q / a, c / q]), axis=0)
    inside = _interval(roots[0], roots[1], mean, std, epsilon)
    outside = _tails(roots[0], roots[1], mean, std, epsilon)
    # Opening upwards: outside the roots. Downwards: between them, or nowhere.
    everywhere = 1.0 - np.exp(epsilon)
    result = np.where(a > 0, np.where(discriminant > 0, outside, everywhere), np.where(discriminant > 0, inside, 0.0))
    # Equal spreads: a half-line, and the infinite root may carry either sign.
    result = np.where(a == 0, _half_line(epsilon, np.abs(mean)), result)
    return np.asarray(np.maximum(np.nan_to_num(result), 0.0))


def _interval(low: Floats, high: Floats, mean: Floats, std: Floats, epsilon: Floats) -> Floats:
    p = _between((low - mean) / std, (high - mean) / std, 0.0)
    return np.asarray(p - _between(low, high, epsilon))


def _tails(low: Floats, high: Floats, mean: Floats, std: Floats, epsilon: Floats) -> Floats:
    p = np.exp(log_ndtr((low - mean) / std)) + np.exp(log_ndtr(-(high - mean) / std))
    return np.asarray(p - np.exp(epsilon + log_ndtr(low)) - np.exp(epsilon + log_ndtr(-high)))


def _half_line(epsilon: Floats, shift: Floats) -> Floats:
    """Balle & Wang (2018), the Gaussian mechanism: Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = epsilon / shift
    result = np.exp(log_ndtr(shift / 2 - ratio)) - np.exp(epsilon + log_ndtr(-shift / 2 - ratio))
    return np.where(shift > 0, result, 0.0)


def _between(low: Floats, high: Floats, log_factor: Any) -> Floats:
    """exp(log_factor) · (Φ(high) − Φ(low)), taken on the side of 0 where nothing cancels."""
    flip = low > 0
    below, above = np.where(flip, -high, low), np.where(flip, -low, high)
    return np.asarray(np.exp(log_factor + log_ndtr(above)) - np.exp(log_factor + log_ndtr(below)))


@metric(
    name="gaussian",
    needs={"confidences"},
    columns=(
        Column(
            name="gaussian_forgetting_quality",
            direction="higher",
            ideal=None,
            range=(0.0, 1.0),
            meaning="forgetting quality from ε between Gaussian fits; the reachable best is the value of the retrain row",
        ),
        Column(
            name="gaussian_epsilon_median",
            direction="lower",
            ideal=0.0,
            range=(0.0, EPSILON_CAP),
            meaning="median over the forget set of ε between Gaussian fits",
        ),
    ),
)
def gaussian(*, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """Forgetting quality (NaN below 8 draws) and median ε."""
    epsilons = gaussian_epsilons(unlearned=unlearned.confidences, retrained=retrained.confidences)
    n = min(unlearned.n, retrained.n)
    return {
        "gaussian_forgetting_quality": forgetting_quality(epsilons, n=n) if n >= SMALLEST_N else math.nan,
        "gaussian_epsilon_median": float(np.median(epsilons)),
    }
