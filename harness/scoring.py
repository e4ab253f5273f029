"""From stored outputs to the numbers of a cell: confidences and accuracies, every metric, its null value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.metrics import Draws, Metric, confidences
from harness.results import Null, Value, as_number
from harness.seeds import seed_for
from harness.stages import EVALUATED, Stage, evaluation_index
from harness.store import Store
from harness.task import Task

NAN_SHARE_ALLOWED = 0.1
NULL_RESPLITS = 40
WORST_CONFIDENCE = -103.61632918473205  # where the logit-scaled confidence saturates: the true class has probability 0


@dataclass(frozen=True)
class Outputs:
    """The draws of one stage, and what making them cost. seconds: [N]; nan_draws: how many had NaN outputs."""

    draws: Draws
    seconds: np.ndarray
    nan_draws: int

    def __getitem__(self, chosen: slice) -> Outputs:
        draws = self.draws
        part = Draws(
            confidences=draws.confidences[chosen],
            logits=None if draws.logits is None else draws.logits[chosen],
            accuracy={name: values[chosen] for name, values in draws.accuracy.items()},
        )
        return Outputs(part, self.seconds[chosen], self.nan_draws)


def load(store: Store, stage: Stage, draws: Sequence[int], task: Task) -> Outputs:
    """Read the outputs of ``draws``. A draw with NaN or infinite logits counts as wrong on every example, with the lowest confidence.

    Raises Damaged if a stored draw cannot be trusted any more (it has been set aside: fill the pool again).
    """
    loaded = [store.get(stage.key, draw, prefix="logits/") for draw in draws]
    logits = {name: np.stack([tensors[f"logits/{name}"].numpy() for tensors, _ in loaded]) for name in EVALUATED}
    broken = np.any([~np.isfinite(values).all((1, 2)) for values in logits.values()], axis=0)  # [N]
    accuracy = {}
    for name, values in logits.items():
        index = evaluation_index(task, name)
        scored = np.isin(index, task.scored_test()) if name == "test" else np.ones(len(index), bool)
        right = values[:, scored].argmax(-1) == task.labels[index[scored]]
        accuracy[name] = np.where(broken, 0.0, right.mean(-1))
    labels = task.labels[task.splits["forget"]]
    usable = np.where(broken[:, None, None], 0.0, logits["forget"]).astype(np.float32)
    confidence = np.where(broken[:, None], WORST_CONFIDENCE, confidences(usable, labels))
    return Outputs(
        Draws(confidences=confidence, logits=usable, accuracy=accuracy),
        np.array([facts["seconds"] for _, facts in loaded]),
        int(broken.sum()),
    )


def score(metrics: Sequence[Metric], *, unlearned: Draws, retrained: Draws) -> dict[str, float]:
    """All columns of all metrics."""
    return {
        column: value
        for metric in metrics
        for column, value in metric.compute(unlearned=unlearned, retrained=retrained).items()
    }


def null_values(metrics: Sequence[Metric], first: Draws, second: Draws, *, seed: int) -> dict[str, Null]:
    """What the metrics say of two pools of retrained models: the 2N draws re-split at random, N against N.

    The re-splits share draws, so their spread describes this set of 2N models and is a little narrower than that of
    fresh pools.
    """
    both = _concatenated(first, second)
    rng = np.random.default_rng(seed_for("null", seed))
    columns = [c.name for metric in metrics for c in metric.columns if c.null]
    values: dict[str, list[float]] = {name: [] for name in columns}
    for _ in range(NULL_RESPLITS):
        order = rng.permutation(both.n)
        scores = score(metrics, unlearned=_take(both, order[: first.n]), retrained=_take(both, order[first.n :]))
        for name in columns:
            values[name].append(scores[name])
    return {name: _null(np.array(found)) for name, found in values.items()}


def sanity_warnings(task: Task, retrained: Draws) -> list[str]:
    """On a random or group forget set a model that never saw it must do there about as well as on test."""
    if task.forget_kind not in ("random", "groups"):
        return []
    forget, test = (float(retrained.accuracy[name].mean()) for name in ("forget", "test"))
    sizes = len(task.splits["forget"]), len(task.scored_test())
    allowed = 0.05 + 2 * float(np.sqrt(test * (1 - test) * sum(1 / n for n in sizes)))
    if abs(forget - test) <= allowed:
        return []
    return [
        f"SANITY CHECK FAILED: the retrained models' forget accuracy is {forget:.1%} but their test accuracy {test:.1%} "
        f"(allowed difference {allowed:.1%}); on a {task.forget_kind} forget set they must agree. Scores are not to be trusted: "
        "look for leaked copies, a test set of another kind, or mislabelled data."
    ]


def values(scores: dict[str, float], nulls: dict[str, Null]) -> dict[str, Value]:
    return {name: Value(value=as_number(score), null=nulls.get(name)) for name, score in scores.items()}


def _null(found: np.ndarray) -> Null:
    if np.isnan(found).any():
        return Null(mean=None, low=None, high=None)
    low, high = np.quantile(found, [0.025, 0.975])
    return Null(mean=float(found.mean()), low=float(low), high=float(high))


def _concatenated(first: Draws, second: Draws) -> Draws:
    logits = None if first.logits is None or second.logits is None else np.concatenate([first.logits, second.logits])
    return Draws(
        confidences=np.concatenate([first.confidences, second.confidences]),
        logits=logits,
        accuracy={name: np.concatenate([first.accuracy[name], second.accuracy[name]]) for name in first.accuracy},
    )


def _take(draws: Draws, index: np.ndarray) -> Draws:
    return Draws(
        confidences=draws.confidences[index],
        logits=None if draws.logits is None else draws.logits[index],
        accuracy={name: fractions[index] for name, fractions in draws.accuracy.items()},
    )
