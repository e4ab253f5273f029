"""Doing nothing: the original models as they are. The floor every method is read against."""

from __future__ import annotations

from harness import Data, Ensemble, Rng


class Identity:
    reference = "floor"

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        pass
