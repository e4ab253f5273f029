"""Divergence between the mean predictive distributions over classes of unlearned and retrained models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import rel_entr, softmax

from harness.metrics.base import Column, Outputs, metric
from harness.metrics.samples import Floats

__all__ = ["class_divergences", "class_kl"]

_FLOOR = 1e-30  # a mean probability that underflowed; keeps the divergence finite


def class_divergences(*, unlearned: Any, retrained: Any) -> tuple[Floats, Floats, Floats]:
    """KL in both directions, and Jensen–Shannon, between the classes' probabilities averaged over draws; in nats.

    Blind to spread: a method whose draws scatter twice as far around the same mean prediction gives 0.

    Args:
        unlearned, retrained: logits [N, S, C] and [M, S, C].

    Returns:
        KL(unlearned‖retrained), KL(retrained‖unlearned), JS; [S] each. JS is symmetric and at most ln 2.

    Raises:
        ValueError: shapes that do not fit, or logits that are not finite.
    """
    u, r = _mean_prediction(unlearned, "unlearned"), _mean_prediction(retrained, "retrained")
    if u.shape != r.shape:
        raise ValueError(
            f"unlearned and retrained must cover the same examples and classes, got {u.shape} and {r.shape}"
        )
    middle = 0.5 * (u + r)
    js = 0.5 * (rel_entr(u, middle) + rel_entr(r, middle)).sum(axis=1)
    return rel_entr(u, r).sum(axis=1), rel_entr(r, u).sum(axis=1), js


def _mean_prediction(logits: Any, what: str) -> Floats:
    z = np.asarray(logits)
    if z.ndim != 3 or z.shape[0] < 1:
        raise ValueError(f"{what} must have shape [N, S, C] with at least 1 draw, got {list(z.shape)}")
    if not np.isfinite(z).all():
        raise ValueError(f"{what} holds logits that are not finite")
    total = np.zeros(z.shape[1:])
    for draw in z:  # one at a time: the whole in float64 would be large
        total += softmax(draw.astype(np.float64), axis=-1)
    mean = np.maximum(total / len(z), _FLOOR)
    return np.asarray(mean / mean.sum(axis=-1, keepdims=True))


def _column(name: str, what: str, largest: float) -> Column:
    meaning = f"mean over the forget set of {what} between mean predictions over classes, in nats"
    return Column(name=name, direction="lower", ideal=0.0, range=(0.0, largest), meaning=meaning)


@metric(
    name="class_kl",
    needs={"logits"},
    columns=(
        _column("class_kl", "KL(unlearned‖retrained)", math.inf),
        _column("class_kl_reverse", "KL(retrained‖unlearned)", math.inf),
        _column("class_js", "the Jensen–Shannon divergence", math.log(2)),
    ),
)
def class_kl(*, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """Means over the forget set."""
    forward, reverse, js = class_divergences(unlearned=unlearned.logits, retrained=retrained.logits)
    means = [float(values.mean()) for values in (forward, reverse, js)]
    return dict(zip(("class_kl", "class_kl_reverse", "class_js"), means, strict=True))
