"""Which training images are memorised: the subset estimator of Feldman and Zhang (2020).

Models are trained on random subsets of the training set. An image's memorisation is the share of models that are right about
it among those that saw it, less that share among those that did not. The models are a pool of their own: their role is part
of their seeds, and nothing of them is ever scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.draws.executor import Pool
from harness.draws.stages import FinishedDraw, Training, one_by_one, timed
from harness.draws.store import Damaged, Missing, Store
from harness.engine.batches import Images, Split
from harness.engine.training import train
from harness.errors import UserError
from harness.streams import Rng
from harness.task import Task
from harness.tasks.options import Memorised

_EVALUATION_BATCH = 1024


@dataclass(frozen=True)
class SubsetTraining(Training):
    """Models trained on a random ``share`` of retain + forget, each its own; kept is who saw what and was right about it."""

    share: float

    @cached_property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "share": self.share}

    def make(self, draws: Sequence[int], store: Store) -> list[FinishedDraw]:
        task, images, models, order = self._begin(draws, store)
        everything = torch.from_numpy(training_images(task))
        seen = self._rng("subset", draws).permutation(len(everything))[..., : round(self.share * len(everything))]
        data = _Subset(images, everything, seen, order)
        valid = Split(images, torch.from_numpy(task.splits["valid"]), order)
        seconds = timed(self.engine, lambda: train(models, data, valid, task.classes, self.options), models)
        parts = torch.split(everything.to(images.device), _EVALUATION_BATCH)
        right = [models.logits(images.gather(part)).argmax(-1) == images.labels[part] for part in parts]
        correct = torch.cat(right, -1).to("cpu", torch.uint8)
        member = torch.zeros_like(correct).scatter(-1, seen, 1)
        return one_by_one(models, draws, {"correct": correct, "member": member}, seconds)


class _Subset(Split):
    """Each model's own part of the training set. Classes are weighted by their counts in the whole: the same for all models."""

    def __init__(self, images: Images, everything: Tensor, seen: Tensor, rng: Rng) -> None:
        super().__init__(images, everything[seen], rng)
        self._whole = Split(images, everything, rng)

    def label_counts(self, classes: int) -> Tensor:
        return self._whole.label_counts(classes)


def training_images(task: Task) -> np.ndarray:
    """Retain and forget together: the order in which memorisation is given."""
    return np.sort(np.concatenate([task.splits["retain"], task.splits["forget"]]))


def estimate(pool: Pool, store: Store) -> np.ndarray | None:
    """Memorisation of every training image, float [n] in -1..1; NaN for one that all models saw, or none.

    None where draws of the pool are missing.
    """
    if store.missing(pool.stage.key, pool.draws):
        return None
    try:
        stored = [store.get(pool.stage.key, draw)[0] for draw in pool.draws]
    except (Missing, Damaged):
        return None
    correct, member = (np.stack([draw[name].numpy() for draw in stored]).astype(bool) for name in ("correct", "member"))
    return memorisation(correct=correct, member=member)


def memorisation(*, correct: np.ndarray, member: np.ndarray) -> np.ndarray:
    """correct, member: bool [models, n]"""
    with np.errstate(invalid="ignore"):
        inside = (correct & member).sum(0) / member.sum(0)
        outside = (correct & ~member).sum(0) / (~member).sum(0)
    return np.asarray(inside - outside)


def choose(scores: np.ndarray, *, which: str, n: int) -> np.ndarray:
    """Positions of the ``n`` images with the ``highest``, the ``lowest``, or the memorisation nearest to one half (``middle``).

    Of equals the first is taken; images without an estimate never are.
    """
    distance = {"highest": -scores, "lowest": scores, "middle": np.abs(scores - 0.5)}[which]
    usable = int((~np.isnan(scores)).sum())
    if n > usable:
        raise UserError(f"forget.n={n}: memorisation is known for {usable} images only; raise forget.models")
    return np.asarray(np.sort(np.argsort(distance, kind="stable")[:n]))  # NaN sorts last


def pool(options: Memorised, like: Training) -> Pool:
    """The pool that the estimate needs; its models are trained as ``like``'s are."""
    stage = SubsetTraining(like.task_hash, like.model, like.options, "subset", like.seed, like.engine, options.share)
    return Pool(stage, tuple(range(options.models)))


def images(options: Memorised, base: Task, pool: Pool, store: Store) -> np.ndarray:
    """Source numbers of the images to forget; while draws of ``pool`` are missing, as many others. Raises UserError."""
    trained: np.ndarray = base.source_index[training_images(base)]
    if options.n >= len(trained):
        raise UserError(
            f"forget.n={options.n}: expected 1 to {len(trained) - 1} (there are {len(trained)} training images)"
        )
    scores = estimate(pool, store)
    return trained[: options.n] if scores is None else trained[choose(scores, which=options.which, n=options.n)]
