"""Which training images are forgotten, one rule for each kind of forget set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.errors import UserError
from harness.task import Source
from harness.tasks.options import ClassPart, ForgetOptions, Groups, Mislabelled, Random, WholeClass
from harness.tasks.units import take, units_of


@dataclass(frozen=True)
class Candidates:
    """What a rule may look at.

    train: the training images' numbers in the source, int64. labels: of all images, after label noise. listed: the images that
    a file or an estimate names, None where there is no such list.
    """

    source: Source
    train: np.ndarray
    labels: np.ndarray
    copies: np.ndarray
    rng: np.random.Generator
    listed: np.ndarray | None = None


def choose(of: Candidates, options: ForgetOptions) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the images to forget, and the labels of all images, which only ``mislabelled`` changes.

    Raises UserError where the data do not allow the choice.
    """
    return _RULES[options.kind](of, options)


def _random(of: Candidates, options: Random | ClassPart | Mislabelled) -> tuple[np.ndarray, np.ndarray]:
    """Copies of one image together."""
    _check_size("forget.n", options.n, len(of.train), "training images")
    units = units_of(of.copies[of.train])
    chosen, _ = take([of.train[units[i]] for i in of.rng.permutation(len(units))], options.n, exact=True)
    return chosen, of.labels


def _whole_class(of: Candidates, options: WholeClass | ClassPart) -> tuple[np.ndarray, np.ndarray]:
    if not 0 <= options.label < of.source.classes:
        raise UserError(f"forget.label={options.label}: expected a class from 0 to {of.source.classes - 1}")
    return of.train[of.labels[of.train] == options.label], of.labels


def _class_part(of: Candidates, options: ClassPart) -> tuple[np.ndarray, np.ndarray]:
    whole, _ = _whole_class(of, options)
    _check_size("forget.n", options.n, len(whole), f"training images of class {options.label}")
    return _random(replace(of, train=whole), options)


def _groups(of: Candidates, options: Groups) -> tuple[np.ndarray, np.ndarray]:
    if of.source.groups is None:
        raise UserError(f"forget=groups needs data with group ids (writers, subjects); '{of.source.name}' has none")
    groups = of.source.groups[of.train]
    present = np.unique(groups)
    if options.ids is not None:
        people = [options.ids] if isinstance(options.ids, int) else options.ids
        if missing := sorted(set(people) - set(present.tolist())):
            raise UserError(
                f"forget.ids: no training images of groups {missing[:10]} (data.train_limit leaves {len(present)})"
            )
    else:
        n = options.n if options.fraction is None else max(1, round(options.fraction * len(present)))
        if n is None:
            raise UserError("forget=groups needs forget.n, forget.fraction or forget.ids")
        _check_size("forget.n", n, len(present), "groups in the training set")
        people = of.rng.choice(present, n, replace=False).tolist()
    return of.train[np.isin(groups, people)], of.labels


def _listed(of: Candidates, options: ForgetOptions) -> tuple[np.ndarray, np.ndarray]:
    assert of.listed is not None
    outside = np.setdiff1d(of.listed, of.train)
    if len(outside):
        raise UserError(
            f"forget: {len(outside)} of the {len(of.listed)} listed images are not training images (they belong to an "
            f"official valid or test set, or data.train_limit={len(of.train)} leaves no room), such as {outside[:5].tolist()}"
        )
    return of.listed, of.labels


def _memorised(of: Candidates, options: ForgetOptions) -> tuple[np.ndarray, np.ndarray]:
    """Before memorisation is known, all copies of one image, so that there is a task to estimate it on."""
    if of.listed is None:
        return of.train[of.copies[of.train] == of.copies[of.train[0]]], of.labels
    return _listed(of, options)


def _official(of: Candidates, options: ForgetOptions) -> tuple[np.ndarray, np.ndarray]:
    official = of.source.official_splits or {}
    if "forget" not in official:
        raise UserError(f"forget=official needs data that come with a forget set; '{of.source.name}' do not")
    return of.train[np.isin(of.train, official["forget"])], of.labels


def _mislabelled(of: Candidates, options: Mislabelled) -> tuple[np.ndarray, np.ndarray]:
    chosen, labels = _random(of, options)
    labels = labels.copy()
    true = of.source.labels[chosen]  # not the label after noise: a second change could put it right again
    labels[chosen] = (true + of.rng.integers(1, of.source.classes, len(chosen))) % of.source.classes
    return chosen, labels


_RULES: dict[str, Callable[[Candidates, Any], tuple[np.ndarray, np.ndarray]]] = {
    "random": _random,
    "class": _whole_class,
    "class_part": _class_part,
    "groups": _groups,
    "mislabelled": _mislabelled,
    "official": _official,
    "file": _listed,
    "memorised": _memorised,
}


def _check_size(key: str, n: int, available: int, what: str) -> None:
    if available < 2:
        raise UserError(f"{key}={n}: there are only {available} {what}; the data is too small for these splits")
    if not 0 < n < available:
        raise UserError(f"{key}={n}: expected a whole number from 1 to {available - 1} (there are {available} {what})")
