"""UTKFace: more than 20,000 faces with age, gender and origin in the file name; no identities.

``age_gender_race_date.jpg``, or ``age_gender_race_date.jpg.chip.jpg`` for the aligned and cropped version. Where a picture is
there in both versions the aligned one is taken. A few published names lack a field; they are skipped and counted.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from harness.data.ages import age_bins
from harness.data.alike import near_duplicates as find_alike
from harness.data.decoding import decode, folder
from harness.errors import UserError
from harness.task import Source

WHERE = "Get the pictures (aligned and cropped faces) from https://susanqq.github.io/UTKFace/ and unpack them there."
_NAME = re.compile(r"(?P<age>\d{1,3})_[01]_[0-4]_\d+\.jpg(?P<chip>\.chip\.jpg)?", re.IGNORECASE)


def utkface(
    root: str | None = None,
    size: int = 32,
    bins: int = 10,
    binning: str = "width",
    near_duplicates: int | None = None,
) -> Source:
    """Read every face below ``root``; the label is the bin of its age.

    near_duplicates: pictures whose 64-bit fingerprints differ in at most that many bits stay on one side of every split; None
    to look at identical ones only.

    Raises UserError for a missing folder, for one without a well-formed name, and for images that cannot be decoded.
    """
    base = folder(root, data="utkface", where_to_get=WHERE)
    pictures: dict[str, tuple[Path, int]] = {}
    malformed = 0
    for file in sorted(base.rglob("*.[jJ][pP][gG]")):
        if not (match := _NAME.fullmatch(file.name)):
            malformed += 1
        elif match["chip"] or file.name not in pictures:
            pictures[file.name.removesuffix(match["chip"] or "")] = (file, int(match["age"]))
    if not pictures:
        raise UserError(
            f"data.root={root}: no file named age_gender_race_date.jpg[.chip.jpg] ({malformed} other .jpg files). {WHERE}"
        )
    images = decode([file for file, _ in pictures.values()], size=size)
    labels, classes = age_bins(np.array([age for _, age in pictures.values()]), bins=bins, binning=binning)
    alike = None if near_duplicates is None else find_alike(images, distance=near_duplicates)
    notes = {"malformed_names_skipped": malformed}
    if alike is not None:
        notes["near_duplicates"] = int((alike != np.arange(len(alike))).sum())
    return Source("utkface", images, labels, classes, alike=alike, notes=notes)
