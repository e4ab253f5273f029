"""From stored outputs to the numbers of a cell: confidences and accuracies, every metric, its null value."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from harness.draws.stages import EVALUATED, Stage, evaluation_index
from harness.draws.store import Store
from harness.metrics import Metric, Outputs, confidences
from harness.scores.intervals import ends, resampled
from harness.scores.results import Null, Value, as_number
from harness.streams import seed_for
from harness.task import Task

_NAN_SHARE_ALLOWED = 0.1
NULL_RESPLITS = 200
WORST_CONFIDENCE = -103.61632918473205  # where the logit-scaled confidence saturates: the true class has probability 0


@dataclass(frozen=True)
class Loaded:
    """The draws of one stage, and what making them cost.

    nan_draws: how many had NaN outputs; chosen: what the method said it chose, for every draw if for any.
    """

    outputs: Outputs
    nan_draws: int
    chosen: tuple[dict[str, Any], ...] = ()

    def __getitem__(self, chosen: slice) -> Loaded:
        return Loaded(self.outputs.take(chosen), self.nan_draws, self.chosen[chosen])

    @property
    def seconds(self) -> np.ndarray:
        """[N]"""
        assert self.outputs.cost is not None
        return self.outputs.cost


@dataclass(frozen=True)
class Stored:
    """A stage of which only the address is known."""

    key: str


def load(store: Store, stage: Stage | Stored, draws: Sequence[int], task: Task) -> Loaded:
    """Read the outputs of ``draws``.

    A draw with NaN or infinite logits counts as wrong on every example: sure of another class, with the lowest confidence.

    Raises Damaged if a stored draw cannot be trusted any more (it has been set aside: fill the pool again).
    """
    loaded = [store.get(stage.key, draw, prefix=("logits/", "features/")) for draw in draws]
    logits = {name: np.stack([tensors[f"logits/{name}"].numpy() for tensors, _ in loaded]) for name in EVALUATED}
    broken = np.any([~np.isfinite(values).all((1, 2)) for values in logits.values()], axis=0)  # [N]
    accuracy = {}
    for name, values in logits.items():
        index = evaluation_index(task, name)
        scored = np.isin(index, task.scored_test()) if name == "test" else np.ones(len(index), bool)
        right = values[:, scored].argmax(-1) == task.labels[index[scored]]
        accuracy[name] = np.where(broken, 0.0, right.mean(-1))
    usable = {name: _replaced(logits[name], broken, task.labels[task.splits[name]]) for name in ("forget", "test")}
    confidence = {
        name: np.where(broken[:, None], WORST_CONFIDENCE, confidences(values, task.labels[task.splits[name]]))
        for name, values in usable.items()
    }
    features = [tensors.get("features/forget") for tensors, _ in loaded]
    scored = np.isin(task.splits["test"], task.scored_test())
    return Loaded(
        Outputs(
            confidences=confidence["forget"],
            logits=usable["forget"],
            accuracy=accuracy,
            test_confidences=confidence["test"][:, scored],
            features=_stacked(features, broken),
            cost=np.array([facts["seconds"] for _, facts in loaded]),
        ),
        int(broken.sum()),
        tuple(facts["chosen"] for _, facts in loaded if "chosen" in facts),
    )


def _replaced(logits: np.ndarray, broken: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float32 [N, S, C], with another class than the labels [S] in the broken draws."""
    classes = logits.shape[-1]
    wrong = 100.0 * (np.arange(classes) == (labels[:, None] + 1) % classes)
    return np.where(broken[:, None, None], wrong, logits).astype(np.float32)


def _stacked(features: Sequence[Tensor | None], broken: np.ndarray) -> np.ndarray | None:
    """[N, S, D] float32, zeros for broken draws; None where a draw has none."""
    known = [tensor.numpy() for tensor in features if tensor is not None]
    if not known or len(known) < len(features):
        return None
    return np.where(broken[:, None, None], np.float32(0), np.stack(known))


def unusable(outputs: Loaded) -> bool:
    """Whether more than 10 % of the draws have NaN outputs."""
    return outputs.nan_draws > _NAN_SHARE_ALLOWED * outputs.outputs.n


def score(metrics: Sequence[Metric], *, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """All columns of all metrics."""
    return {
        column: value
        for metric in metrics
        for column, value in metric.compute(unlearned=unlearned, retrained=retrained).items()
    }


def null_values(metrics: Sequence[Metric], first: Outputs, second: Outputs, *, seed: int) -> dict[str, Null]:
    """What the metrics say of two pools of retrained models: the 2N draws re-split at random, N against N.

    The re-splits share draws, so the band describes these 2N models. For a column that compares two samples it is about as
    wide as that of fresh pools; for one that describes the unlearned models alone (an accuracy) about 0.7 times as wide.
    """
    both = first.joined(second)
    rng = np.random.default_rng(seed_for("null", seed))
    columns = [c.name for metric in metrics for c in metric.columns if c.null]
    values: dict[str, list[float]] = {name: [] for name in columns}
    for _ in range(NULL_RESPLITS):
        order = rng.permutation(both.n)
        scores = score(metrics, unlearned=both.take(order[: first.n]), retrained=both.take(order[first.n :]))
        for name in columns:
            values[name].append(scores[name])
    return {name: _null(np.array(resplit)) for name, resplit in values.items()}


def in_words(chosen: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What a method chose over its draws: each value with its count, most frequent first; of numbers the median."""
    words = {}
    for name in dict.fromkeys(name for facts in chosen for name in facts):
        values = [facts[name] for facts in chosen if name in facts]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            words[name] = f"{np.median(values):.4g} (median)"
        else:
            words[name] = ", ".join(f"{value} ({count}x)" for value, count in Counter(map(str, values)).most_common())
    return words


def sanity_warnings(task: Task, retrained: Outputs) -> list[str]:
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


def values(
    scores: Mapping[str, float], nulls: Mapping[str, Null], intervals: Mapping[str, tuple[float, float]] | None = None
) -> dict[str, Value]:
    """What a result file says of every column; ``intervals`` holds NaN where there is none."""
    table = {}
    for name, value in scores.items():
        low, high = (intervals or {}).get(name, (math.nan, math.nan))
        interval = (low, high) if math.isfinite(low) and math.isfinite(high) else None
        table[name] = Value(value=as_number(value), null=nulls.get(name), interval=interval)
    return table


def evaluate(
    metrics: Sequence[Metric], *, unlearned: Outputs, retrained: Outputs, nulls: Mapping[str, Null], seed: int
) -> tuple[dict[str, Value], list[float]]:
    """Every column with its null and its interval; and the score on subsets of the draws, empty where there is none."""
    subsets = resampled(metrics, unlearned=unlearned, retrained=retrained, seed=seed)
    table = values(subsets.values, nulls, ends(metrics, subsets))
    on_subsets = subsets.columns.get("score", np.array([np.nan]))
    return table, [] if np.isnan(on_subsets).any() else [float(f"{value:.7g}") for value in on_subsets]


def _null(resplit: np.ndarray) -> Null:
    if np.isnan(resplit).any():
        return Null(mean=None, low=None, high=None)
    low, high = np.quantile(resplit, [0.025, 0.975])
    return Null(mean=float(resplit.mean()), low=float(low), high=float(high))
