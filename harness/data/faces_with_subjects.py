"""Faces of known people at known ages, both read from the file name by a pattern: FG-NET (``078A11.JPG``), for example."""

from __future__ import annotations

import re

import numpy as np

from harness.data.ages import age_bins
from harness.data.decoding import decode, folder, images_below
from harness.errors import UserError
from harness.task import Source

WHERE = "FG-NET: https://yanweifu.github.io/FG_NET_data/ ; unpack the images there."


def faces_with_subjects(
    root: str | None = None,
    pattern: str = r"(?P<subject>\d+)A(?P<age>\d+)[a-z]?\.",
    size: int = 32,
    bins: int = 10,
    binning: str = "width",
) -> Source:
    """Read the images below ``root`` whose path matches ``pattern``; label: the bin of the age; group: the subject.

    pattern: a regular expression, searched (whatever the case of letters) in the path below ``root``, with the named groups
    ``subject`` and ``age`` (years). Files that do not match are skipped and counted.

    Raises UserError for a bad pattern, for a folder where nothing matches, and for images that cannot be decoded.
    """
    base = folder(root, data="faces_with_subjects", where_to_get=WHERE)
    names = _compiled(pattern)
    files = images_below(base)
    matched = [(file, match) for file in files if (match := names.search(file.relative_to(base).as_posix()))]
    if not matched:
        example = f", such as {files[0].relative_to(base).as_posix()}" if files else ""
        raise UserError(
            f"data.root={root}: data.pattern={pattern} matches none of {len(files)} images{example}. {WHERE}"
        )
    if bad := [str(file) for file, match in matched if not (match["age"] or "").isdigit()]:
        raise UserError(f"data.pattern={pattern}: the age is not a whole number in {', '.join(bad[:5])}")
    labels, classes = age_bins(np.array([int(match["age"]) for _, match in matched]), bins=bins, binning=binning)
    _, groups = np.unique([match["subject"] for _, match in matched], return_inverse=True)
    return Source(
        "faces_with_subjects",
        decode([file for file, _ in matched], size=size),
        labels,
        classes,
        groups=groups.astype(np.int64),
        notes={"unmatched_names_skipped": len(files) - len(matched)},
    )


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        names = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise UserError(f"data.pattern={pattern}: not a regular expression ({error})") from error
    if missing := {"subject", "age"} - set(names.groupindex):
        wanted = " and ".join(f"(?P<{name}>...)" for name in sorted(missing))
        raise UserError(f"data.pattern={pattern}: lacks the named group {wanted}")
    return names
