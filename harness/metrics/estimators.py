"""The ε estimators behind one interface: any of them can rank a board, and no board mixes two.

As metrics (``metrics=[exact]``) they have columns with names of their own. As ``estimator=exact`` one takes the place of the
official ε in forgetting quality, median ε and score; results made so are kept on boards of their own.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from harness.metrics.attacks import official_epsilons
from harness.metrics.base import FunctionMetric, Metric
from harness.metrics.certified import certified_epsilons
from harness.metrics.exact import exact_epsilons
from harness.metrics.gaussian import gaussian_epsilons
from harness.metrics.official import official, scored

__all__ = ["ESTIMATORS", "ranked_by", "ranking"]

ESTIMATORS = {
    "official": official_epsilons,
    "exact": exact_epsilons,
    "gaussian": gaussian_epsilons,
    "certified": certified_epsilons,
}


def ranking(estimator: str) -> FunctionMetric:
    """Forgetting quality, median ε and score by this estimator, under the columns' usual names."""
    if estimator == "official":
        return official
    columns = tuple(replace(column, meaning=f"{column.meaning} ({estimator} ε)") for column in official.columns)
    return replace(official, columns=columns, function=partial(scored, ESTIMATORS[estimator]))


def ranked_by(estimator: str, metrics: list[Metric]) -> list[Metric]:
    """``metrics`` with the official ε, where it is among them, replaced by this estimator."""
    return [ranking(estimator) if metric.name == "official" else metric for metric in metrics]
