"""Task data on a device, and the batches that a training or an unlearning method draws from it.

Images stay on the device as they were read; a batch is one index gather, scaled to the model's range. Every model of an
ensemble draws its own order (and its own augmentation) from its own stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor

from harness.engine.training_options import TrainingOptions
from harness.streams import Rng
from harness.task import Task


@dataclass(frozen=True)
class Augment:
    """Random horizontal flips, and random crops after zero-padding by ``crop`` pixels; each image its own."""

    flip: bool = False
    crop: int = 0

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """x: [*lead, B, H, W, C], values where 0 is the padding."""
        lead_and_batch = x.shape[:-3]
        if self.flip:
            flips = rng.uniform(lead_and_batch[-1]).to(x.device) < 0.5
            x = torch.where(flips[..., None, None, None], x.flip(-2), x)
        if self.crop:
            height, width = x.shape[-3:-1]
            padded = torch.nn.functional.pad(x, (0, 0, self.crop, self.crop, self.crop, self.crop)).flatten(0, -4)
            offsets = rng.integers(2 * self.crop + 1, lead_and_batch[-1], 2).to(x.device).reshape(-1, 2)
            rows = offsets[:, :1] + torch.arange(height, device=x.device)
            columns = offsets[:, 1:] + torch.arange(width, device=x.device)
            image = torch.arange(len(padded), device=x.device)[:, None, None]
            x = padded[image, rows[:, :, None], columns[:, None, :]].reshape(x.shape)
        return x


@dataclass(frozen=True)
class GaussianNoise:
    """Independent N(0, std²) on every value of every image, in the models' input units."""

    std: float

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """x: [*lead, B, H, W, C]."""
        shape = x.shape[1:] if rng.stacked else x.shape
        uniform = rng.uniform(*shape).to(x.device, x.dtype).clamp(min=2**-25)  # multiples of 2^-24, 0 among them
        normal: Tensor = torch.special.ndtri(uniform)
        return x + self.std * normal


Transform = Callable[[Tensor, Rng], Tensor]  # (images [*lead, B, H, W, C], streams) -> images of that shape


class Images:
    """A task's tensors on one device: images [n, H, W, C] as stored, labels int64 [n]."""

    def __init__(self, task: Task, *, device: torch.device, dtype: torch.dtype) -> None:
        self.pixels = torch.from_numpy(task.images).to(device)
        self.labels = torch.from_numpy(task.labels).to(device)
        self.mean = torch.from_numpy(task.mean).to(device, dtype)
        self.scale = 1 / torch.from_numpy(task.std).to(device, dtype)
        self.device, self.dtype = device, dtype

    def gather(self, index: Tensor, augment: Transform | None = None, rng: Rng | None = None) -> Tensor:
        """Scaled images [*index.shape, C, H, W] (channels-last in memory)."""
        x = (self.pixels[index].to(self.dtype) - self.mean) * self.scale
        if augment is not None and rng is not None:
            x = augment(x, rng)
        x = x.movedim(-1, -3)
        return x if index.ndim == 1 else x.contiguous()  # in a stack, layouts by channel cost more than they save


class Split:
    """One index set of a task, drawn from in batches."""

    def __init__(self, images: Images, index: Tensor, rng: Rng) -> None:
        """index: int64 [*lead, n] or [n]; rng: the streams of the models that will see the batches."""
        self._images, self._rng = images, rng
        self._index = index.to(images.device)

    def __len__(self) -> int:
        """How many images there are."""
        return self._index.shape[-1]

    def steps(self, size: int) -> int:
        """How many batches of ``size`` one pass has."""
        return len(_bounds(len(self), size))

    def batches(
        self, size: int, *, shuffle: bool = True, augment: Transform | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass: x [*lead, B, C, H, W] and y [*lead, B]. A last batch of one image is merged into the one before."""
        order = self._shuffled() if shuffle else self._expanded()
        for start, stop in _bounds(len(self), size):
            chosen = order[..., start:stop]
            yield self._images.gather(chosen, augment, self._rng), self._images.labels[chosen]

    def first_batches(self, steps: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As many passes as it takes to yield ``steps`` batches."""
        endless = (batch for _ in count() for batch in self.batches(size))
        return islice(endless, steps)

    def random_subset(self, n: int) -> Split:
        """``n`` images at random, each model its own."""
        return Split(self._images, self._shuffled()[..., :n], self._rng)

    def of_classes(self, classes: Tensor) -> Split:
        """The images whose class is marked in ``classes``, bool [classes]. Raises ValueError as ``label_counts``."""
        if self._index.ndim != 1:
            raise ValueError("each model has its own subset here, so there is no one selection")
        labels = self._images.labels[self._index]
        chosen = torch.isin(labels, classes.to(labels.device).nonzero().flatten())
        return Split(self._images, self._index[chosen], self._rng)

    def random_of_each_class(self, n: int) -> Split:
        """At most ``n`` images of every class at random, each model its own. Raises ValueError as ``label_counts``."""
        present: Tensor = torch.unique(self._images.labels[self._index])
        marks = torch.arange(int(present.max()) + 1, device=present.device)
        parts = [self.of_classes(marks == label).random_subset(n)._index for label in present]
        return Split(self._images, torch.cat(parts, dim=-1), self._rng)

    def mixed_with(self, other: Split, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One pass over both splits shuffled together: x, y and whether an image is of this one, bool [*lead, B]."""
        order = self._rng.permutation(len(self) + len(other)).to(self._images.device)
        lead = max(self._index.shape[:-1], other._index.shape[:-1], key=len)
        index = torch.cat([split._index.expand(*lead, len(split)) for split in (self, other)], dim=-1)
        for start, stop in _bounds(index.shape[-1], size):
            place = order[..., start:stop]
            chosen = index[place] if index.ndim == 1 else index.gather(-1, place)
            yield self._images.gather(chosen), self._images.labels[chosen], place < len(self)

    def label_counts(self, classes: int) -> Tensor:
        """Images per class, float [classes]. Raises ValueError where the models hold different subsets."""
        if self._index.ndim != 1:
            raise ValueError("each model has its own subset here, so there is no one count")
        return torch.bincount(self._images.labels[self._index], minlength=classes).to(self._images.dtype)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Everything at once, in index order: x [n, C, H, W], y [n] (shared by all models)."""
        return self._images.gather(self._index), self._images.labels[self._index]

    def _shuffled(self) -> Tensor:
        order = self._rng.permutation(len(self)).to(self._images.device)
        return self._index[order] if self._index.ndim == 1 else self._index.gather(-1, order)

    def _expanded(self) -> Tensor:
        lead = (len(self._rng),) if self._rng.stacked and self._index.ndim == 1 else ()
        return self._index.expand(*lead, *self._index.shape)


@dataclass(frozen=True)
class Data:
    """What a method may see: no test data, no retrained model."""

    retain: Split
    """The training images that are kept."""

    forget: Split
    """The training images to forget."""

    valid: Split
    """Images that were not trained on."""

    classes: int
    """How many classes there are."""

    training: TrainingOptions
    """How retrained models are trained: the options of the group ``train``."""

    @property
    def forgotten_class(self) -> int | None:
        """The class that is forgotten as a whole (all of forget has it, nothing in retain does), or None."""
        present = self.forget.label_counts(self.classes).nonzero().flatten().tolist()
        if len(present) == 1 and self.retain.label_counts(self.classes)[present[0]] == 0:
            return int(present[0])
        return None


def method_data(task: Task, images: Images, rng: Rng, options: TrainingOptions) -> Data:
    """The method's view of ``task``, batches ordered by ``rng``."""
    retain, forget, valid = (Split(images, _index(task.splits[name]), rng) for name in ("retain", "forget", "valid"))
    return Data(retain=retain, forget=forget, valid=valid, classes=task.classes, training=options)


def split_of(task: Task, images: Images, rng: Rng, *names: str) -> Split:
    """One split, or the union of several, for the harness itself."""
    return Split(images, _index(np.concatenate([task.splits[name] for name in names])), rng)


def _index(indices: np.ndarray) -> Tensor:
    return torch.from_numpy(indices)


def _bounds(n: int, size: int) -> list[tuple[int, int]]:
    if size < 1:
        raise ValueError(f"batch size {size}: expected at least 1")
    starts = list(range(0, n, size))
    if len(starts) > 1 and n - starts[-1] == 1:  # batch norm cannot normalise a single example
        starts.pop()
    return list(zip(starts, [*starts[1:], n], strict=True))
