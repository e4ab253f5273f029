"""Every random number of a benchmark comes from a seed made here, from words and integers that say what it is for.

Seeds of different purposes never meet: the role of a draw is part of its seed, so original 3 and retrained 3 share
nothing, and a draw's seed does not depend on how many others there are or where it is computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def seed_for(*parts: str | int) -> int:
    """A 63-bit seed, a pure function of ``parts`` (SHA-256 of their spelling), the same on every machine."""
    digest = hashlib.sha256("\x1f".join(f"{type(part).__name__}:{part}" for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Run a block with torch's and NumPy's global generators (and ``random``'s) set to ``seed``, then put them back.

    This is what lets surgery on weights, and code written elsewhere, use ordinary calls such as
    ``layer.reset_parameters()`` or ``torch.randn_like`` and still be reproducible model by model.
    """
    import random

    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


class Rng:
    """One independent random stream per model of an ensemble.

    ``lead`` is the shape in front of every result: ``(M,)`` for a stack of M models, ``()`` for a single one. The
    streams live on the CPU, so a model's numbers do not depend on its device or on its place in the stack.
    """

    stacked: bool
    """Whether ``lead`` is ``(M,)``, as of the ensemble."""

    def __init__(self, seeds: Sequence[int], *, stacked: bool) -> None:
        if not stacked and len(seeds) != 1:
            raise ValueError(f"an unstacked stream has exactly one seed, not {len(seeds)}")
        self.stacked = stacked
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __len__(self) -> int:
        """How many models there are."""
        return len(self._generators)

    def seeds(self) -> list[int]:
        """A fresh seed for each model."""
        return [int(torch.randint(2**62, (), generator=g)) for g in self._generators]

    def permutation(self, n: int) -> Tensor:
        """A random order of ``range(n)`` for each model, int64 [*lead, n]."""
        return self._each(lambda g: torch.randperm(n, generator=g))

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1) for each model, float32 [*lead, *shape]."""
        return self._each(lambda g: torch.rand(shape, generator=g))

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers in [0, high) for each model, int64 [*lead, *shape]."""
        return self._each(lambda g: torch.randint(high, shape, generator=g))

    def _each(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        if not self.stacked:
            return draw(self._generators[0])
        return torch.stack([draw(g) for g in self._generators])
