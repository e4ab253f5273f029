"""From a source to a task: carve test and valid, choose the forget set, keep byte-identical images together.

Splits depend on the split seed alone. Images are moved in *units* that must not be torn apart: all images of a person
where the data has groups, otherwise all copies of one image.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.engine.streams import seed_for
from harness.errors import UserError, unknown_name
from harness.task import Source, Task
from harness.tasks.index_files import read_indices

RETAIN_SAMPLE = (
    500  # outputs on this many retain images are recorded: enough for an accuracy to ±2 %, small enough to keep
)


def make_task(
    source: Source,
    *,
    forget: Mapping[str, Any],
    split_seed: int,
    train_limit: int | None = None,
    test_limit: int | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.2,
    label_noise: float = 0.0,
    normalise: bool = True,
    classes: Sequence[int] | None = None,
) -> Task:
    """Split ``source`` and choose its forget set.

    forget: ``{"kind": random | class | ..., ...}`` with the kind's own keys (see ``_FORGET``).
    train_limit, test_limit: at most that many images in retain + forget, and in test; None for no limit. Where the data has
    groups, whole groups are taken, so the training set is the largest that does not exceed the limit.
    valid_fraction: of the size of the training set. test_fraction: of all images, where no official test set exists.
    label_noise: the share of *all* images, whatever split they end in, that get a uniformly drawn wrong label.
    normalise: scale every channel to mean 0 and standard deviation 1 over train + valid; otherwise raw values.
    classes: use the images of these classes only, renumbered in the order given; None for all. Index files
    then count the images that are left.

    Raises UserError for an empty retain or forget set and for sizes that cannot be met.
    """
    _check_sizes(train_limit, test_limit, valid_fraction, test_fraction)
    if classes is not None:
        source = _only(source, classes)
    rng = np.random.default_rng(seed_for("split", split_seed, source.name))
    kind = str(forget.get("kind"))
    if kind not in _FORGET:
        raise unknown_name("forget set", kind, _FORGET)
    options = {key: value for key, value in forget.items() if key != "kind"}
    copies = _copies(source.images) if source.alike is None else source.alike
    labels = _with_label_noise(source.labels, source.classes, label_noise, copies, rng)
    if kind == "file":  # read first: images that the user wants forgotten must be trained on
        options = {"chosen": read_indices(options.get("path"), len(labels))}

    if source.official_splits is not None:
        official = source.official_splits
        train, valid = _limited(official["train"], train_limit), official["valid"]
        test = _limited(official["test"], test_limit)
    else:
        listed = options["chosen"] if kind == "file" else None
        train, valid, test = _split(source, copies, rng, listed, train_limit, test_limit, valid_fraction, test_fraction)
    sizes = len(valid), len(test)
    if source.official_splits is None:  # splits of people, or of labels, may still hold copies of one image
        valid = _without_copies(valid, train, copies)
        if source.official_test is None:
            test = _without_copies(test, np.concatenate([train, valid]), copies)
    candidates = _Candidates(train, labels, source, copies, rng)
    try:
        inspect.signature(_FORGET[kind]).bind(candidates, **options)
    except TypeError as error:
        raise UserError(f"forget={kind}: {error}") from error
    chosen, labels = _FORGET[kind](candidates, **options)
    is_forget = np.zeros(len(labels), bool)
    is_forget[chosen] = True
    retain = train[~is_forget[train]]
    twins = np.isin(copies[retain], copies[chosen])  # copies of forget images under another class or person
    if kind != "official":
        retain = retain[~twins]
    if not len(chosen) or not len(retain):
        empty = "retain" if len(chosen) else "forget"
        raise UserError(
            f"forget={kind} leaves the {empty} set empty: {len(train)} training images, {len(chosen)} chosen"
        )
    if not len(valid) or not len(test):
        raise UserError(
            f"the valid ({len(valid)}) and test ({len(test)}) sets must not be empty: raise their fractions"
        )

    mean, std = _moments(source.images[np.concatenate([train, valid])]) if normalise else _raw(source.images.shape[-1])
    notes = {
        **source.notes,
        "copies_across_official_test": int(np.isin(copies[test], copies[np.concatenate([train, valid])]).sum()),
        "copies_left_out_of_retain" if kind != "official" else "copies_across_official_forget": int(twins.sum()),
        "copies_left_out_of_valid": sizes[0] - len(valid),
        "copies_left_out_of_test": sizes[1] - len(test),
    }
    if source.official_splits is not None:
        notes["copies_across_official_valid"] = int(np.isin(copies[valid], copies[train]).sum())
    splits = {"retain": retain, "forget": np.asarray(chosen), "valid": valid, "test": test}
    return _compact(source, labels, splits, mean, std, kind, notes, rng)


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


def _split(
    source: Source,
    copies: np.ndarray,
    rng: np.random.Generator,
    trained_on: np.ndarray | None,
    train_limit: int | None,
    test_limit: int | None,
    valid_fraction: float,
    test_fraction: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Train, valid and test from whole units. trained_on: images that, with the rest of their units, must be in train."""
    units = _units(copies if source.groups is None else source.groups)
    if source.official_test is not None:
        test = _limited(rng.permutation(np.flatnonzero(source.official_test)), test_limit)
        units = [kept for unit in units if len(kept := unit[~source.official_test[unit]])]
    units = [units[i] for i in rng.permutation(len(units))]
    held = []
    if trained_on is not None:
        wanted_in = np.zeros(len(copies), bool)
        wanted_in[trained_on] = True
        held = [unit for unit in units if wanted_in[unit].any()]
        units = [unit for unit in units if not wanted_in[unit].any()]
    if source.official_test is None:
        size = round(test_fraction * len(copies)) if test_limit is None else test_limit
        test, units = _take(units, size, exact=source.groups is None)
    room = sum(map(len, units)) + sum(map(len, held))
    wanted = min(room, train_limit * (1 + valid_fraction)) if train_limit else room
    valid, units = _take(units, round(wanted * valid_fraction / (1 + valid_fraction)), exact=source.groups is None)
    train, _ = _take(held + units, train_limit or room, exact=source.groups is None)
    return train, valid, test


class _Candidates:
    """What a forget-set rule may look at."""

    def __init__(
        self, train: np.ndarray, labels: np.ndarray, source: Source, copies: np.ndarray, rng: np.random.Generator
    ) -> None:
        self.train, self.labels, self.source, self.copies, self.rng = train, labels, source, copies, rng


def _forget_random(of: _Candidates, *, n: int) -> tuple[np.ndarray, np.ndarray]:
    """``forget.n`` training images, copies of one image together."""
    _check_size("forget.n", n, len(of.train), "training images")
    units = _units(of.copies[of.train])
    chosen, _ = _take([of.train[units[i]] for i in of.rng.permutation(len(units))], n, exact=True)
    return chosen, of.labels


def _forget_class(of: _Candidates, *, label: int) -> tuple[np.ndarray, np.ndarray]:
    """All training images of class ``forget.label``."""
    if not _is_whole(label) or not 0 <= label < of.source.classes:
        raise UserError(f"forget.label={label}: expected a class from 0 to {of.source.classes - 1}")
    return of.train[of.labels[of.train] == label], of.labels


def _forget_class_part(of: _Candidates, *, label: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """``forget.n`` training images of class ``forget.label``, copies of one image together."""
    whole, _ = _forget_class(of, label=label)
    _check_size("forget.n", n, len(whole), f"training images of class {label}")
    chosen, _ = _forget_random(_Candidates(whole, of.labels, of.source, of.copies, of.rng), n=n)
    return chosen, of.labels


def _forget_groups(
    of: _Candidates, *, n: int | None = None, ids: Sequence[int] | int | None = None, fraction: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All training images of ``forget.n`` people drawn at random, of a fraction of the people, or of those in ``forget.ids``."""
    if of.source.groups is None:
        raise UserError(f"forget=groups needs data with group ids (writers, subjects); '{of.source.name}' has none")
    groups = of.source.groups[of.train]
    present = np.unique(groups)
    people = [ids] if isinstance(ids, int) else ids
    if people is None:
        if fraction is not None:
            if not 0 < fraction < 1:
                raise UserError(f"forget.fraction={fraction}: expected a share between 0 and 1")
            n = max(1, round(fraction * len(present)))
        if n is None:
            raise UserError("forget=groups needs forget.n, forget.fraction or forget.ids")
        _check_size("forget.n", n, len(present), "groups in the training set")
        people = of.rng.choice(present, n, replace=False).tolist()
    elif missing := sorted(set(people) - set(present.tolist())):
        raise UserError(
            f"forget.ids: no training images of groups {missing[:10]} (data.train_limit leaves {len(present)})"
        )
    return of.train[np.isin(groups, list(people))], of.labels


def _forget_listed(of: _Candidates, *, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images with the given numbers in the source."""
    outside = np.setdiff1d(chosen, of.train)
    if len(outside):
        raise UserError(
            f"forget: {len(outside)} of the {len(chosen)} listed images are not training images (they belong to an official "
            f"valid or test set, or data.train_limit={len(of.train)} leaves no room), such as {outside[:5].tolist()}"
        )
    return chosen, of.labels


def _forget_memorised(of: _Candidates, *, chosen: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The images that ``harness.draws.memorisation`` found; before it has, all copies of one image, so that there is a task."""
    if chosen is None:
        return of.train[of.copies[of.train] == of.copies[of.train[0]]], of.labels
    return _forget_listed(of, chosen=chosen)


def _forget_official(of: _Candidates) -> tuple[np.ndarray, np.ndarray]:
    """The forget set that the data come with."""
    official = of.source.official_splits or {}
    if "forget" not in official:
        raise UserError(f"forget=official needs data that come with a forget set; '{of.source.name}' do not")
    return of.train[np.isin(of.train, official["forget"])], of.labels


def _forget_mislabelled(of: _Candidates, *, n: int) -> tuple[np.ndarray, np.ndarray]:
    """``forget.n`` training images given a wrong label, drawn uniformly; that label is the one trained on and scored."""
    chosen, labels = _forget_random(of, n=n)
    labels = labels.copy()
    true = of.source.labels[chosen]  # not the label after noise: a second change could put it right again
    labels[chosen] = (true + of.rng.integers(1, of.source.classes, len(chosen))) % of.source.classes
    return chosen, labels


_FORGET: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "random": _forget_random,
    "class": _forget_class,
    "class_part": _forget_class_part,
    "groups": _forget_groups,
    "mislabelled": _forget_mislabelled,
    "official": _forget_official,
    "file": _forget_listed,
    "memorised": _forget_memorised,
}


def _check_size(key: str, n: int, available: int, what: str) -> None:
    if available < 2:
        raise UserError(f"{key}={n}: there are only {available} {what}; the data is too small for these splits")
    if not _is_whole(n) or not 0 < n < available:
        raise UserError(f"{key}={n}: expected a whole number from 1 to {available - 1} (there are {available} {what})")


def _check_sizes(train_limit: Any, test_limit: Any, valid_fraction: Any, test_fraction: Any) -> None:
    for key, limit in (("train_limit", train_limit), ("test_limit", test_limit)):
        if limit is not None and not (_is_whole(limit) and limit > 0):
            raise UserError(f"data.{key}={limit}: expected a whole number from 1, or null for no limit")
    if not _is_number(valid_fraction) or not 0 < valid_fraction < np.inf:
        raise UserError(f"data.valid_fraction={valid_fraction}: expected a number above 0, a share of the training set")
    if not _is_number(test_fraction) or not 0 < test_fraction < 1:
        raise UserError(f"data.test_fraction={test_fraction}: expected a share between 0 and 1")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _without_copies(indices: np.ndarray, others: np.ndarray, copies: np.ndarray) -> np.ndarray:
    return indices[~np.isin(copies[indices], copies[others])]


def _copies(images: np.ndarray) -> np.ndarray:
    """For each image, the index of the first one that is byte-identical with it, int64 [n]."""
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    digests = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in flat]
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, i) for i, digest in enumerate(digests)], np.int64)


def _units(keys: np.ndarray) -> list[np.ndarray]:
    """Positions that share a key, one array per key."""
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1) if len(order) else []


def _take(units: list[np.ndarray], wanted: float, *, exact: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    """Whole units from the front, at most ``wanted`` images; with ``exact``, units that no longer fit are skipped."""
    taken: list[np.ndarray] = []
    left: list[np.ndarray] = []
    size = 0
    for position, unit in enumerate(units):
        if size + len(unit) <= wanted:
            taken.append(unit)
            size += len(unit)
        elif exact and size < wanted:
            left.append(unit)
        else:
            left.extend(units[position:])
            break
    return (np.concatenate(taken) if taken else np.array([], np.int64)), left


def _limited(indices: np.ndarray, limit: int | None) -> np.ndarray:
    return indices if limit is None else indices[:limit]


def _with_label_noise(
    labels: np.ndarray, classes: int, share: float, copies: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    if not _is_number(share) or not 0 <= share < 1:
        raise UserError(f"data.label_noise={share}: expected a share from 0 up to, but not including, 1")
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
