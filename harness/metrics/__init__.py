"""Metrics: what unlearned models say compared with what retrained models say."""

from harness.metrics.attacks import official_epsilons
from harness.metrics.base import Column, Metric, Outputs, metric
from harness.metrics.certified import certified_epsilons
from harness.metrics.exact import exact_epsilons
from harness.metrics.gaussian import gaussian_epsilons
from harness.metrics.kl import gaussian_kl
from harness.metrics.ks import ks_test
from harness.metrics.official import confidences, forgetting_quality
from harness.metrics.registry import all_columns, available, get_metrics

__all__ = [
    "Column",
    "Metric",
    "Outputs",
    "all_columns",
    "available",
    "certified_epsilons",
    "confidences",
    "exact_epsilons",
    "forgetting_quality",
    "gaussian_epsilons",
    "gaussian_kl",
    "get_metrics",
    "ks_test",
    "metric",
    "official_epsilons",
]
