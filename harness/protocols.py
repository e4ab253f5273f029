"""Which draws are compared: how many, from which originals, and what is reused (see ``docs/metrics.md``)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from harness.errors import UserError, unknown_name

Kind = Literal["full", "reuse_n_n", "reuse_n_1"]


@dataclass(frozen=True)
class Protocol:
    """N draws of each kind, in one experiment or, under ``full``, in several that share nothing.

    full: every experiment has N fresh originals and N fresh retrained models.
    reuse_n_n: N originals and N retrained, drawn once; one unlearned model from each original, for every method.
    reuse_n_1: one original; N unlearned models from it, by different seeds; N retrained, drawn once.
    """

    kind: Kind
    n: int
    experiments: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise unknown_name("protocol", self.kind, get_args(Kind))
        if not isinstance(self.n, int) or self.n < 2:
            raise UserError(f"protocol.n={self.n}: expected a whole number, at least 2 (scores need at least 8)")
        whole = isinstance(self.experiments, int)
        if not whole or self.experiments < 1 or (self.kind != "full" and self.experiments != 1):
            raise UserError(f"protocol.experiments={self.experiments}: only protocol=full repeats, at least once")

    @property
    def source(self) -> Literal["paired", "single"]:
        """Whether unlearned draw i starts from original i, or every draw from original 0."""
        return "single" if self.kind == "reuse_n_1" else "paired"

    @property
    def originals(self) -> tuple[int, ...]:
        return (0,) if self.source == "single" else self.draws

    @property
    def draws(self) -> tuple[int, ...]:
        """The retrained, and the unlearned, draws of all experiments."""
        return tuple(range(self.n * self.experiments))

    def of_experiment(self, experiment: int) -> tuple[int, ...]:
        return self.draws[experiment * self.n : (experiment + 1) * self.n]

    @classmethod
    def from_config(cls, node: dict[str, Any]) -> Protocol:
        known = [field.name for field in fields(cls)]
        for key in node:
            if key not in known:
                raise unknown_name("key protocol", key, known)
        return cls(**node)
