"""The study of protocols, from result files to tables and plots: built, written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from harness.errors import UserError
from harness.files import write_atomically
from harness.report.documents import study_markdown
from harness.report.study import Study, studies
from harness.report.study_plots import study_picture
from harness.scores.results import read_all

__all__ = ["Study", "markdown", "rebuild", "studies", "write"]


def write(folder: Path, of: Sequence[Study]) -> None:
    """``protocols.csv``, ``protocols_summary.csv``, ``protocols.md`` and ``protocols.svg``."""
    for name, part in (("protocols", "by_method"), ("protocols_summary", "summary")):
        table = pd.concat([getattr(study, part).assign(task=study.title) for study in of], ignore_index=True)
        write_atomically(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.5g").encode())
    write_atomically(folder / "protocols.md", study_markdown(of).encode())
    write_atomically(folder / "protocols.svg", study_picture(of).encode())


def rebuild(folder: Path) -> list[Study]:
    """Read every result below ``folder`` and write its studies there. Raises UserError where there are no repeated runs."""
    of = studies(read_all(folder))
    if not of:
        raise UserError(
            f"{folder}: nothing to compare: expected results of at least two runs at one N, such as "
            "-m seed=0,1 protocol=reuse_n_n,reuse_n_1, or protocol=full protocol.experiments=2"
        )
    write(folder, of)
    return of


def markdown(study: Study) -> str:
    """One study as Markdown."""
    return study_markdown([study])
