"""From a source to a task: carve test and valid, choose the forget set, keep byte-identical images together.

Splits depend on the split seed alone. Images are moved in *units* that must not be torn apart: all images of a person
where the data has groups, otherwise all copies of one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.errors import UserError
from harness.streams import seed_for
from harness.task import Source, Task
from harness.tasks.forget_sets import Candidates, choose
from harness.tasks.index_files import read_indices
from harness.tasks.options import ForgetOptions, Listed, SplitOptions, forget_options
from harness.tasks.units import copies_of, take, units_of, without_copies

RETAIN_SAMPLE = 500  # outputs on this many retain images are recorded: an accuracy to ±2 %, small enough to keep


def make_task(
    source: Source,
    *,
    forget: Mapping[str, Any] | ForgetOptions,
    split_seed: int,
    chosen: np.ndarray | None = None,
    **options: Any,
) -> Task:
    """Split ``source`` and choose its forget set.

    forget: ``{"kind": random | class | ..., ...}`` with the kind's own keys (tasks/options.py).
    chosen: numbers in the source of the images to forget, int64 [n], where something else than a rule chose them
    (memorisation). options: those of SplitOptions.

    Raises UserError for options that are wrong, an empty retain or forget set, and sizes that cannot be met.
    """
    split = SplitOptions.read(options, "data")
    kind = forget_options(forget) if isinstance(forget, Mapping) else forget
    source = source if split.classes is None else _only(source, split.classes)
    rng = np.random.default_rng(seed_for("split", split_seed, source.name))
    copies = copies_of(source.images) if source.alike is None else source.alike
    labels = _with_label_noise(source.labels, source.classes, split.label_noise, copies, rng)
    if isinstance(kind, Listed):  # read first: images that the user wants forgotten must be trained on
        chosen = read_indices(kind.path, len(labels))

    parts = _divided(source, split, copies, rng, chosen if isinstance(kind, Listed) else None)
    forgotten, labels = choose(Candidates(source, parts.train, labels, copies, rng, chosen), kind)
    retain, twins = _retain(parts.train, forgotten, copies, keep_twins=kind.kind == "official")
    _check_not_empty(kind.kind, parts, retain, forgotten)

    trained = np.concatenate([parts.train, parts.valid])
    mean, std = _moments(source.images[trained]) if split.normalise else _raw(source.images.shape[-1])
    splits = {"retain": retain, "forget": forgotten, "valid": parts.valid, "test": parts.test}
    notes = _notes(source, parts, copies, kind.kind, twins)
    return _compact(source, labels, splits, mean, std, kind.kind, notes, rng)


@dataclass(frozen=True)
class _Parts:
    """Index sets into the source; and how many images valid and test lost to copies elsewhere."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    left_out_of_valid: int = 0
    left_out_of_test: int = 0


def _divided(
    source: Source, split: SplitOptions, copies: np.ndarray, rng: np.random.Generator, trained_on: np.ndarray | None
) -> _Parts:
    """Train (retain + forget), valid and test: the publisher's, or our own without copies across them."""
    if source.official_splits is not None:
        official = source.official_splits
        train, test = _limited(official["train"], split.train_limit), _limited(official["test"], split.test_limit)
        return _Parts(train, official["valid"], test)
    train, valid, test = _own_splits(source, split, copies, rng, trained_on)
    sizes = len(valid), len(test)
    valid = without_copies(valid, train, copies)  # splits of people, or of labels, may still hold copies of one image
    if source.official_test is None:
        test = without_copies(test, np.concatenate([train, valid]), copies)
    return _Parts(train, valid, test, sizes[0] - len(valid), sizes[1] - len(test))


def _retain(
    train: np.ndarray, forgotten: np.ndarray, copies: np.ndarray, *, keep_twins: bool
) -> tuple[np.ndarray, int]:
    """The training images that stay, and how many of them are copies of forget images under another class or person.

    keep_twins: only count them; otherwise they are left out of both sets.
    """
    retain = train[~np.isin(train, forgotten)]
    twins = np.isin(copies[retain], copies[forgotten])
    return retain if keep_twins else retain[~twins], int(twins.sum())


def _check_not_empty(kind: str, parts: _Parts, retain: np.ndarray, forgotten: np.ndarray) -> None:
    if not len(forgotten) or not len(retain):
        empty = "retain" if len(forgotten) else "forget"
        raise UserError(
            f"forget={kind} leaves the {empty} set empty: {len(parts.train)} training images, {len(forgotten)} chosen"
        )
    if not len(parts.valid) or not len(parts.test):
        raise UserError(
            f"the valid ({len(parts.valid)}) and test ({len(parts.test)}) sets must not be empty: raise their fractions"
        )


def _notes(source: Source, parts: _Parts, copies: np.ndarray, kind: str, twins: int) -> dict[str, Any]:
    """What a reader of the results should know of copies of one image in several splits."""
    trained = np.concatenate([parts.train, parts.valid])
    notes = {
        **source.notes,
        "copies_across_official_test": int(np.isin(copies[parts.test], copies[trained]).sum()),
        "copies_across_official_forget" if kind == "official" else "copies_left_out_of_retain": twins,
        "copies_left_out_of_valid": parts.left_out_of_valid,
        "copies_left_out_of_test": parts.left_out_of_test,
    }
    if source.official_splits is not None:
        notes["copies_across_official_valid"] = int(np.isin(copies[parts.valid], copies[parts.train]).sum())
    return notes


def _only(source: Source, classes: Sequence[int]) -> Source:
    """The images of some classes. Raises UserError for classes there are not."""
    if len(classes) < 2 or len(set(classes)) != len(classes) or not set(classes) <= set(range(source.classes)):
        raise UserError(f"data.classes={list(classes)}: expected at least two different classes below {source.classes}")
    if source.official_splits is not None:
        raise UserError(f"data.classes: '{source.name}' comes with splits of its own")
    kept = np.flatnonzero(np.isin(source.labels, list(classes)))
    number = {label: i for i, label in enumerate(classes)}
    if source.alike is not None:
        _, first, clusters = np.unique(source.alike[kept], return_index=True, return_inverse=True)
    return replace(
        source,
        images=source.images[kept],
        labels=np.array([number[label] for label in source.labels[kept].tolist()], np.int64),
        classes=len(classes),
        groups=None if source.groups is None else source.groups[kept],
        official_test=None if source.official_test is None else source.official_test[kept],
        alike=None if source.alike is None else first[clusters],
    )


def _own_splits(
    source: Source, options: SplitOptions, copies: np.ndarray, rng: np.random.Generator, trained_on: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Train, valid and test from whole units. trained_on: images that, with the rest of their units, must be in train."""
    units = units_of(copies if source.groups is None else source.groups)
    if source.official_test is not None:
        test = _limited(rng.permutation(np.flatnonzero(source.official_test)), options.test_limit)
        units = [kept for unit in units if len(kept := unit[~source.official_test[unit]])]
    units = [units[i] for i in rng.permutation(len(units))]
    held = []
    if trained_on is not None:
        wanted_in = np.zeros(len(copies), bool)
        wanted_in[trained_on] = True
        held = [unit for unit in units if wanted_in[unit].any()]
        units = [unit for unit in units if not wanted_in[unit].any()]
    if source.official_test is None:
        size = round(options.test_fraction * len(copies)) if options.test_limit is None else options.test_limit
        test, units = take(units, size, exact=source.groups is None)
    room = sum(map(len, units)) + sum(map(len, held))
    wanted = min(room, options.train_limit * (1 + options.valid_fraction)) if options.train_limit else room
    valid, units = take(
        units, round(wanted * options.valid_fraction / (1 + options.valid_fraction)), exact=source.groups is None
    )
    train, _ = take(held + units, options.train_limit or room, exact=source.groups is None)
    return train, valid, test


def _limited(indices: np.ndarray, limit: int | None) -> np.ndarray:
    return indices if limit is None else indices[:limit]


def _with_label_noise(
    labels: np.ndarray, classes: int, share: float, copies: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    if share == 0:
        return labels
    noisy = rng.random(len(labels)) < share
    shift = rng.integers(1, classes, len(labels))
    return np.where(noisy[copies], (labels + shift[copies]) % classes, labels)  # copies of an image change alike


def _moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = images.reshape(-1, images.shape[-1])
    mean, std = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    # Rounded so that the task hash does not depend on a machine's order of summation.
    return np.round(mean, 4).astype(np.float32), np.round(np.maximum(std, 1e-3), 4).astype(np.float32)


def _raw(channels: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(channels, np.float32), np.ones(channels, np.float32)


def _compact(
    source: Source,
    labels: np.ndarray,
    splits: dict[str, np.ndarray],
    mean: np.ndarray,
    std: np.ndarray,
    kind: str,
    notes: dict[str, Any],
    rng: np.random.Generator,
) -> Task:
    """Keep only the images that are in a split, and renumber."""
    splits = {name: np.sort(indices) for name, indices in splits.items()}
    used = np.sort(np.concatenate(list(splits.values())))
    splits = {name: np.searchsorted(used, indices) for name, indices in splits.items()}
    sample = np.sort(rng.permutation(splits["retain"])[:RETAIN_SAMPLE])
    return Task(
        name=source.name,
        forget_kind=kind,
        classes=source.classes,
        images=source.images[used],
        labels=labels[used].astype(np.int64),
        groups=None if source.groups is None else source.groups[used],
        splits=splits,
        retain_sample=sample,
        mean=mean,
        std=std,
        source_index=used,
        notes=notes,
    )
