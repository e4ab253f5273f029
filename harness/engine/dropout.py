"""Give the dropout of every model of an ensemble a random stream of its own."""

from __future__ import annotations

import torch

from harness.engine.ensemble import Ensemble
from harness.models import Dropout
from harness.streams import Rng


def use_streams(models: Ensemble, rng: Rng) -> None:
    """Start the streams of all dropout layers, each model's and each layer's its own, from ``rng``."""
    for name, module in models.template.named_modules():
        if isinstance(module, Dropout):
            prefix = f"{name}." if name else ""
            seeds = (torch.tensor(rng.seeds()) & 0xFFFFFFFF).reshape(models.lead)
            models.assign({prefix + "stream": seeds, prefix + "calls": torch.zeros_like(seeds)})
