"""What a metric is: a name, columns for the board, and a function of the draws of two kinds of model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Column", "Examples", "FunctionMetric", "Metric", "Outputs", "metric"]


_NEEDS = frozenset({"confidences", "logits", "accuracy", "test_confidences", "features", "cost"})

OPTIONAL = {
    "logits": "the logits of the forget set",
    "test_confidences": "confidences on the test set",
    "features": "features of the forget set",
    "cost": "the time of every draw",
}


@dataclass(frozen=True)
class Outputs:
    """What N draws of one kind of model (unlearned, retrained, original) say.

    Attributes:
        confidences: [N, S] float64, logit-scaled confidence of the true class of every forget example.
        logits: [N, S, C] on the forget set, or None where they were not kept.
        accuracy: per part of the data (``retain``, ``forget``, ``test``, ``valid``) an array [N] of fractions.
        test_confidences: [N, T] on the test set, or None where they were not kept.
        features: [N, S, D], what enters the head on the forget set, or None where it was not kept.
        cost: [N], seconds that making each draw took, without loading and evaluating; or None where that is not known.

    Raises:
        ValueError: the arrays do not speak of the same number of draws or examples.
    """

    confidences: NDArray[np.float64]
    logits: NDArray[np.floating] | None
    accuracy: Mapping[str, NDArray[np.float64]]
    test_confidences: NDArray[np.float64] | None = None
    features: NDArray[np.floating] | None = None
    cost: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.confidences.ndim != 2:
            raise ValueError(f"confidences must have shape [N, S], got {list(self.confidences.shape)}")
        if self.logits is not None and (self.logits.ndim != 3 or self.logits.shape[:2] != self.confidences.shape):
            raise ValueError(
                f"logits must have shape [N, S, C] with [N, S] = {list(self.confidences.shape)}, "
                f"got {list(self.logits.shape)}"
            )
        test = self.test_confidences
        if test is not None and (test.ndim != 2 or len(test) != self.n):
            raise ValueError(f"test_confidences must have shape [{self.n}, T], got {list(test.shape)}")
        features = self.features
        if features is not None and (features.ndim != 3 or features.shape[:2] != self.confidences.shape):
            raise ValueError(
                f"features must have shape [N, S, D] with [N, S] = {list(self.confidences.shape)}, got {list(features.shape)}"
            )
        if self.cost is not None and np.shape(self.cost) != (self.n,):
            raise ValueError(f"cost must have shape [{self.n}], got {list(np.shape(self.cost))}")
        for part, fractions in self.accuracy.items():
            if np.shape(fractions) != (self.n,):
                raise ValueError(f"accuracy[{part!r}] must have shape [{self.n}], got {list(np.shape(fractions))}")

    @property
    def n(self) -> int:
        """Number of draws, N."""
        return len(self.confidences)

    def take(self, index: NDArray[np.intp] | slice) -> Outputs:
        """The draws chosen by ``index``."""
        return Outputs(
            confidences=self.confidences[index],
            logits=None if self.logits is None else self.logits[index],
            accuracy={part: fractions[index] for part, fractions in self.accuracy.items()},
            test_confidences=None if self.test_confidences is None else self.test_confidences[index],
            features=None if self.features is None else self.features[index],
            cost=None if self.cost is None else self.cost[index],
        )

    def joined(self, other: Outputs) -> Outputs:
        """These draws and then the other ones; a part that either lacks is lacking."""

        def both(first: NDArray[Any] | None, second: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if first is None or second is None else np.concatenate([first, second])

        return Outputs(
            confidences=np.concatenate([self.confidences, other.confidences]),
            logits=both(self.logits, other.logits),
            accuracy={part: np.concatenate([values, other.accuracy[part]]) for part, values in self.accuracy.items()},
            test_confidences=both(self.test_confidences, other.test_confidences),
            features=both(self.features, other.features),
            cost=both(self.cost, other.cost),
        )


@dataclass(frozen=True)
class Column:
    """One number of a metric, as the board prints and explains it.

    Attributes:
        name: column name, unique on a board.
        direction: which way is better; ``closer`` = closer to the ideal, or to the retrained models' value.
        ideal: the value of a perfect method, or None where it must be measured (meaning says how).
        range: smallest and largest possible value.
        meaning: one line for the reader of the board.
        null: whether a null value (retrained against retrained) is worth printing beside it.
        interval: whether it has an interval over draws; not, if it says nothing about them.
        share: whether it is a share of the examples, those whose statistic passes a bar. Such a number jumps, and its interval
            needs the statistic: its metric must have a ``summary``.
    """

    name: str
    direction: Literal["higher", "lower", "closer"]
    ideal: float | None
    range: tuple[float, float]
    meaning: str
    null: bool = True
    interval: bool = True
    share: bool = False


class Metric(Protocol):
    """Anything with these four attributes is a metric; :func:`metric` makes one of a function."""

    @property
    def name(self) -> str: ...

    @property
    def columns(self) -> tuple[Column, ...]: ...

    @property
    def needs(self) -> frozenset[str]:
        """Which fields of :class:`Outputs` are read: of confidences, logits, accuracy, test_confidences, features, cost."""
        ...

    def compute(self, *, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
        """One value per column, keyed by the column's name; NaN where this N does not allow one."""
        ...


Examples = Mapping[str, NDArray[np.float64]]  # by name one number per example: [..., S]


class _Function(Protocol):
    def __call__(self, *, unlearned: Outputs, retrained: Outputs) -> dict[str, Any]: ...


class _Summary(Protocol):
    def __call__(self, examples: Examples, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class FunctionMetric:
    """A metric made of one function, or of one that looks at every example and one that sums up; see :func:`metric`."""

    name: str
    needs: frozenset[str]
    columns: tuple[Column, ...]
    function: _Function
    summary: _Summary | None = None

    def compute(self, *, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
        """Call the function, sum up, and check that this fills exactly the declared columns."""
        return self.detailed(unlearned=unlearned, retrained=retrained)[1]

    def detailed(self, *, unlearned: Outputs, retrained: Outputs) -> tuple[Examples, dict[str, float]]:
        """:meth:`compute`, and before it what ``summary`` sums up, by name [S] each (nothing without a summary)."""
        for need, what in OPTIONAL.items():
            if need in self.needs and (getattr(unlearned, need) is None or getattr(retrained, need) is None):
                raise ValueError(f"metric {self.name!r} needs {what}, which were not kept")
        results = self.function(unlearned=unlearned, retrained=retrained)
        examples, values = ({}, results) if self.summary is None else (results, self.summary(results))
        declared = {column.name for column in self.columns}
        if set(values) != declared:
            raise ValueError(f"metric {self.name!r} declares columns {sorted(declared)} but gave {sorted(values)}")
        return examples, {name: float(value) for name, value in values.items()}


def metric(
    *, name: str, needs: Iterable[str], columns: Sequence[Column], summary: _Summary | None = None
) -> Callable[[_Function], FunctionMetric]:
    """Declare a function ``f(*, unlearned: Outputs, retrained: Outputs) -> dict[str, float]`` as a metric.

    With a ``summary`` the function gives arrays [S] instead, one number per example, and
    ``summary(examples: Mapping[str, array [..., S]]) -> dict[str, array [...]]`` makes the columns of them, for any leading axes.
    Columns that are shares of the examples need that.

    Raises:
        ValueError: an unknown need, two columns of one name, or a share without a summary.
    """
    unknown = set(needs) - _NEEDS
    if unknown:
        raise ValueError(f"metric {name!r} needs {sorted(unknown)}; draws have {sorted(_NEEDS)}")
    names = [column.name for column in columns]
    if len(set(names)) != len(names):
        raise ValueError(f"metric {name!r} declares a column twice: {names}")
    shares = [column.name for column in columns if column.share]
    if shares and summary is None:
        raise ValueError(f"metric {name!r} has shares of the examples ({', '.join(shares)}): give it a summary")

    def declare(function: _Function) -> FunctionMetric:
        return FunctionMetric(
            name=name, needs=frozenset(needs), columns=tuple(columns), function=function, summary=summary
        )

    return declare
