"""Which draws are compared: how many, from which originals, and what is reused (see ``docs/protocols.md``)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from harness.validation import Options

Kind = Literal["full", "reuse_n_n", "reuse_n_1"]


class Protocol(Options):
    """N draws of each kind, in one experiment or, under ``full``, in several that share nothing.

    full: every experiment has N fresh originals and N fresh retrained models.
    reuse_n_n: N originals and N retrained, drawn once; one unlearned model from each original, for every method.
    reuse_n_1: one original; N unlearned models from it, by different seeds; N retrained, drawn once.
    """

    kind: Kind
    n: Annotated[int, Field(ge=2, description="a whole number, at least 2 (scores need at least 8)")]
    experiments: Annotated[int, Field(ge=1, description="a whole number, at least 1 (only protocol=full repeats)")] = 1

    @field_validator("experiments")
    @classmethod
    def _only_full_repeats(cls, experiments: int, others: ValidationInfo) -> int:
        if experiments != 1 and others.data.get("kind") != "full":
            raise ValueError("only protocol=full repeats")
        return experiments

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
