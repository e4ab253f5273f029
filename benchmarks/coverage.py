"""How often the 95 % intervals hold the truth, on simulated pools whose truth is known; prints the table of docs/intervals.md.

    python benchmarks/coverage.py [--pools 200] [--n 32 64] [--workers 2]

Confidences are Gaussian. What one model does to all examples at once (one is more confident, one has learned a
direction of the data less well) is a random effect of the model with its own strength on every example, so examples are
correlated and only draws are independent. The unlearned models are: ``null`` the same; ``shift`` half a standard deviation
more confident; ``memorised`` two on a third of the examples; ``narrow`` with 0.7 of the spread; ``far`` 1.2 more confident.

The truth is the mean of a number over many fresh pairs of pools of the same N. Coverage is the share of pairs whose interval
holds it; ``width`` is the mean half-width over 1.96 true standard deviations (1 = as wide as it must be).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from harness.metrics import Outputs, available, get_metrics
from harness.scores.intervals import intervals

KINDS = ("null", "shift", "memorised", "narrow", "far")
EXAMPLES = 30


@dataclass(frozen=True)
class Coverage:
    """Of one column in one setting. width: mean half-width / (1.96 true sd); share: of intervals that hold the truth."""

    truth: float
    sd: float
    width: float
    share: float


class World:
    """A fixed forget set (and retain and test images): how confident models are on each, how much they differ."""

    def __init__(self, examples: int = EXAMPLES, *, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.examples = examples
        size = 3 * examples
        self.mean, self.spread = rng.normal(2, 2, size), rng.uniform(0.6, 1.8, size)
        self.common = rng.normal(0.5, 0.3, size).clip(-0.9, 0.9)  # weight of the model's own effect

    def pool(self, kind: str, n: int, rng: np.random.Generator) -> Outputs:
        """N draws. Logits are (c, 0): two classes, so that the confidence is c."""
        noise = self.common * rng.normal(size=(n, 1))
        noise = noise + np.sqrt(1 - self.common**2) * rng.normal(size=(n, len(self.mean)))
        forget = np.arange(len(self.mean)) < self.examples
        memorised = np.arange(len(self.mean)) < self.examples // 3
        shift = {"shift": 0.5 * forget, "memorised": 2.0 * memorised, "far": 1.2 * forget}.get(kind, 0.0)
        scale = np.where(forget & (kind == "narrow"), 0.7, 1.0)
        c = self.mean + self.spread * (shift + scale * noise)
        parts = dict(zip(("forget", "retain", "test"), np.split(c, 3, axis=1), strict=True))
        return Outputs(
            confidences=parts["forget"],
            logits=np.stack([parts["forget"], np.zeros_like(parts["forget"])], axis=2),
            accuracy={part: (values > 0).mean(axis=1) for part, values in parts.items()},
            test_confidences=parts["test"],
            features=self._features(kind, n, rng.spawn(1)[0]),
        )

    def _features(self, kind: str, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """One picture for all models, seen with noise, mixed with a second one in a strength of each model's own."""
        common, other, changed = np.random.default_rng(1).normal(size=(3, self.examples, 4))
        changed[self.examples // 3 :] *= kind != "memorised"
        strength = {"shift": 0.3, "memorised": 1.0, "far": 0.8}.get(kind, 0.0)
        noise = (0.7 if kind == "narrow" else 1.0) * rng.normal(size=(n, self.examples, 4))
        return np.asarray(common + strength * changed + 0.3 * rng.normal(size=(n, 1, 1)) * other + 0.5 * noise)

    def pair(self, kind: str, n: int, seed: int) -> tuple[Outputs, Outputs]:
        rng = np.random.default_rng([seed, n, KINDS.index(kind)])
        return self.pool(kind, n, rng), self.pool("null", n, rng)


def values_and_intervals(
    names: Sequence[str], kind: str, n: int, seed: int, subsets: int, examples: int = EXAMPLES
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Every column of one fresh pair of pools; with ``subsets`` > 0 also its interval."""
    metrics = get_metrics(names)
    unlearned, retrained = World(examples).pair(kind, n, seed)
    values: dict[str, float] = {}
    for metric in metrics:
        values |= metric.compute(unlearned=unlearned, retrained=retrained)
    if not subsets:
        return values, {}
    return values, intervals(metrics, unlearned=unlearned, retrained=retrained, seed=seed, subsets=subsets)


def coverage(
    names: Sequence[str],
    kind: str,
    n: int,
    *,
    pools: int,
    truths: int,
    subsets: int,
    examples: int = EXAMPLES,
    workers: int = 1,
) -> dict[str, Coverage]:
    """Coverage of every column, from ``pools`` pairs with an interval and ``truths`` more without."""
    tasks = [(names, kind, n, seed, subsets if seed < pools else 0, examples) for seed in range(pools + truths)]
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
            found = list(executor.map(values_and_intervals, *zip(*tasks, strict=True), chunksize=10))
    else:
        found = [values_and_intervals(*task) for task in tasks]
    table = {}
    for column in found[0][0]:
        every = np.array([values[column] for values, _ in found])
        ends = np.array([ends[column] for _, ends in found[:pools]])
        truth, sd = float(every.mean()), float(every.std(ddof=1))
        held = (ends[:, 0] - 1e-12 <= truth) & (truth <= ends[:, 1] + 1e-12)
        width = float((ends[:, 1] - ends[:, 0]).mean() / 2 / (1.96 * sd)) if sd > 0 else 1.0
        table[column] = Coverage(truth, sd, width, float(held.mean()))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=int, default=200)
    parser.add_argument("--truths", type=int, default=1000)
    parser.add_argument("--subsets", type=int, default=100)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--n", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--metrics", nargs="+", default=available())
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    for n in options.n:
        found = {
            kind: coverage(
                options.metrics, kind, n,
                pools=options.pools, truths=options.truths, subsets=options.subsets, examples=options.examples,
                workers=options.workers,
            )
            for kind in options.kinds
        }  # fmt: skip
        print(f"\nN = {n}: coverage in %, and (width)\n\n| column | {' | '.join(found)} |")
        print(f"|---|{'---:|' * len(found)}")
        for column in found[options.kinds[0]]:
            cells = [f"{100 * t[column].share:.0f} ({t[column].width:.2f})" for t in found.values()]
            print(f"| {column} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
