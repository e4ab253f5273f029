"""Accuracy of the unlearned models, to be read against that of the retrained ones."""

from __future__ import annotations

import numpy as np

from harness.metrics.base import Column, Outputs, metric

__all__ = ["accuracy"]

_PARTS = ("retain", "forget", "test")


def _column(part: str) -> Column:
    return Column(
        name=f"{part}_accuracy",
        direction="closer",
        ideal=None,
        range=(0.0, 1.0),
        meaning=f"mean accuracy of the unlearned models on the {part} set; ideal: that of the retrained models",
    )


def _gap(part: str) -> Column:
    return Column(
        name=f"{part}_accuracy_gap",
        direction="lower",
        ideal=0.0,
        range=(0.0, 1.0),
        meaning=f"|{part} accuracy of the unlearned − of the retrained models|, means over draws",
    )


@metric(
    name="accuracy",
    needs={"accuracy"},
    columns=(
        _column("retain"),
        _column("forget"),
        _column("test"),
        _gap("forget"),
        _gap("retain"),
        _gap("test"),
    ),
)
def accuracy(*, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """Means over draws, fractions in [0, 1].

    Raises:
        KeyError: a part of the data is missing from the accuracies.
    """
    values = {f"{part}_accuracy": float(np.mean(unlearned.accuracy[part])) for part in _PARTS}
    for part in _PARTS:
        values[f"{part}_accuracy_gap"] = abs(values[f"{part}_accuracy"] - float(np.mean(retrained.accuracy[part])))
    return values
