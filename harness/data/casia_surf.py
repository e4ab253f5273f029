"""CASIA-SURF with ages: the data of the first unlearning competition, split as its organisers' evaluator splits them.

Layout: ``Age_Gender.txt`` with a line ``PERSON AGE GENDER`` for each person, and the pictures in
``WBackground/PART/PERSON/real.rssdk/color/*.jpg``. The label is the person's age in ten bins of equal width over the
people in the list. Pictures, sorted by path, are shuffled by ``random.Random(43)`` and cut 80 / 10 / 10 into train, valid
and test, so a person may be in all three. Forgotten are all training pictures of the first 15 people, in the order of their
names, that the training set holds. Source: google-deepmind/unlearning_evaluation, surf.py. There, pictures are resized by
torchvision with antialiasing; here by Pillow, which differs by rounding.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from harness.data.ages import age_bins
from harness.data.decoding import decode, folder
from harness.errors import UserError
from harness.task import Source

WHERE = (
    "CASIA-SURF is given out on request under a licence by its authors (Zhang et al., CVPR 2019), with Age_Gender.txt for "
    "the ages. data.root is the folder that holds Age_Gender.txt and WBackground/."
)
FORGOTTEN_PEOPLE = 15
_SHUFFLE_SEED = 43


def casia_surf(root: str | None = None, size: int = 32) -> Source:
    """Read the pictures with the organisers' splits: ``train``, ``valid``, ``test`` and ``forget``.

    Raises UserError for missing files, a malformed line of the list, a person who is not in it, too few people to forget, and
    images that cannot be decoded.
    """
    base = folder(root, data="casia_surf", where_to_get=WHERE)
    ages = _ages(base / "Age_Gender.txt")
    people = sorted(ages)
    bins, classes = age_bins(np.array([ages[person] for person in people]), bins=10, binning="width")
    files, owners = [], []
    for person in sorted((base / "WBackground").glob("*/*"), key=str):
        if pictures := sorted((person / "real.rssdk" / "color").glob("*.jpg"), key=str):
            if person.name not in ages:
                raise UserError(f"{person}: {person.name} is not listed in {base / 'Age_Gender.txt'}")
            files += pictures
            owners += [people.index(person.name)] * len(pictures)
    if not files:
        raise UserError(f"{base}: no pictures WBackground/PART/PERSON/real.rssdk/color/*.jpg. {WHERE}")
    groups = np.array(owners, np.int64)
    return Source(
        "casia_surf",
        decode(files, size=size),
        bins[groups],
        classes,
        groups=groups,
        official_splits=_splits(groups),
        notes={"people": len(np.unique(groups))},
    )


def _ages(file: Path) -> dict[str, int]:
    """Age by person. Raises UserError naming the line that is not ``PERSON AGE GENDER`` or repeats a person."""
    if not file.is_file():
        raise UserError(f"{file}: no such file. {WHERE}")
    ages: dict[str, int] = {}
    for number, line in enumerate(file.read_text(errors="replace").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or not fields[1].isdigit():
            raise UserError(f"{file}, line {number}: '{line}'; expected PERSON AGE GENDER")
        if fields[0] in ages:
            raise UserError(f"{file}, line {number}: {fields[0]} is listed twice")
        ages[fields[0]] = int(fields[1])
    if not ages:
        raise UserError(f"{file} is empty; expected lines PERSON AGE GENDER")
    return ages


def _splits(groups: np.ndarray) -> dict[str, np.ndarray]:
    n = len(groups)
    shuffled = list(range(n))
    random.Random(_SHUFFLE_SEED).shuffle(shuffled)
    train, valid, test = np.split(np.array(shuffled), [int(0.8 * n), int(0.9 * n)])
    present = np.unique(groups[train])
    if len(present) <= FORGOTTEN_PEOPLE:
        raise UserError(
            f"the training set shows {len(present)} people; the official forget set takes {FORGOTTEN_PEOPLE} and must leave some"
        )
    forget = train[np.isin(groups[train], present[:FORGOTTEN_PEOPLE])]
    return {"train": train, "valid": valid, "test": test, "forget": forget}
