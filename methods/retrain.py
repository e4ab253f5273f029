"""Retraining from scratch on the retain set, as a method: an independent pool of retrained models.

Scored against the reference pool it shows what a perfect method gets with N draws; its time is what the others save.
"""

from __future__ import annotations

from harness import Data, Ensemble, Rng, train


class Retrain:
    reference = "ceiling"  # the best a method can get

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        models.reinitialise(rng)
        train(models, data.retain, data.valid, data.classes, data.training)
