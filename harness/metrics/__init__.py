"""Metrics: what unlearned models say compared with what retrained models say."""

from harness.metrics.base import Column, Draws, Metric, available, get_metrics
from harness.metrics.kl import gaussian_kl
from harness.metrics.ks import ks_test
from harness.metrics.official import confidences, forgetting_quality, official_epsilons

__all__ = [
    "Column",
    "Draws",
    "Metric",
    "available",
    "confidences",
    "forgetting_quality",
    "gaussian_kl",
    "get_metrics",
    "ks_test",
    "official_epsilons",
]
