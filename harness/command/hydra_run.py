"""A run or a sweep: Hydra composes the configuration and starts the jobs, then everything they left becomes one board."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from harness.command import compose

_HYDRAS_OWN = ("--cfg", "-c", "--info", "-i", "--hydra-help")  # they print and run nothing


def run(arguments: Sequence[str]) -> int:
    """The exit code: 0 if all cells are ok or not applicable, 1 if a cell failed or a job could not start.

    Raises UserError for bad input.
    """
    out = compose.out_of(arguments)
    if any(argument in _HYDRAS_OWN for argument in arguments):
        compose.offer_plugins(arguments)
        return _hydra([*arguments, *([] if out else ["out=runs/example"])])
    compose.check(arguments)
    if out is None:
        out = f"runs/{datetime.now():%Y-%m-%d_%H-%M-%S}"
        arguments = [*arguments, f"out={out}"]
    started = time.time()
    code = _hydra(arguments)
    return max(code, _finish(Path(out).expanduser(), started))


def _hydra(arguments: Sequence[str]) -> int:
    import hydra

    from harness.command.job import job

    # Hydra's parser wants all overrides in one place: what is not KEY=VALUE (-m, --cfg job) goes last.
    sys.argv = [sys.argv[0], *sorted(arguments, key=lambda a: a.startswith("-") or ("=" not in a and a[:1] != "~"))]
    os.environ.setdefault("HYDRA_FULL_ERROR", "0")
    try:
        hydra.main(version_base="1.3", config_path="pkg://harness.conf", config_name="unlearn")(job)()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def _finish(out: Path, started: float) -> int:
    """Build the board of everything in ``out``; the exit code speaks of this run only."""
    from harness.command.screen import console
    from harness.report import board, protocol_study
    from harness.scores import results

    errors = [file for file in out.glob("errors/*.txt") if file.stat().st_mtime >= started]
    for file in sorted(errors):
        print(f"unlearn: {file.read_text().rstrip()}", file=sys.stderr)
    if not any(out.glob("cells/*.json")):
        return 1
    screen = console()
    cells = results.read_all(out)
    boards = board.build(cells)
    board.write(out, boards)
    for one in boards:
        board.show(one, screen)
        screen.print()
    studies = protocol_study.studies(cells) if len({cell.protocol.kind for cell in cells}) > 1 else []
    if studies:
        protocol_study.write(out, studies)
        screen.print(f"protocols compared in {out / 'protocols.md'}", markup=False, highlight=False)
    screen.print(f"board and results in {out}", markup=False, highlight=False)
    fresh = [file for file in out.glob("cells/*.json") if file.stat().st_mtime >= started - 1]
    failed = [cell for cell in map(results.read, fresh) if cell.status == "failed"]
    return 1 if errors or failed else 0
