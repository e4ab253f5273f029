"""Doing nothing: the original models as they are. The floor every method is read against."""

from __future__ import annotations

from harness.engine.batches import Data
from harness.engine.ensemble import Ensemble
from harness.engine.streams import Rng


class Identity:
    reference = "floor"

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        pass
