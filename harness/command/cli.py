"""The command ``unlearn``: subcommands here, everything else is a Hydra run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from rich.console import Console

from harness.errors import UserError, unknown_name

USAGE = """\
unlearn: benchmark machine unlearning, N unlearned against N retrained models

  unlearn [KEY=VALUE ...]                 run the benchmark; without arguments every method on scikit-learn's digits
  unlearn -m method=a,b seed=0,1 ...      sweep; one combined board
  unlearn plan [KEY=VALUE ...]            what would run, what is stored, the time it takes; runs nothing
  unlearn leaderboard [DIR]               rebuild the board from the result files in DIR (default: the newest run)
  unlearn score DIR [metrics=[a,b]]       score the stored outputs in DIR again, also with other metrics; trains nothing
  unlearn protocols DIR                   whether the cheap protocols agree with `full`, from repeated runs in DIR
  unlearn list [KIND] [--plain]           methods, data, models, metrics, protocols, forget, train or experiments

  method=NAME or methods=[a,b] or methods=all     data=digits|npz|cifar10|...  data.path= data.root= data.train_limit=
  forget=random|class|groups|memorised|... forget.n=  model=  train=  protocol=reuse_n_n|reuse_n_1|full protocol.n=
  recipe=tuned|authors  seed=  split_seed=  device=auto|cpu|cuda  engine=auto|stacked|sequential  out=DIR

  method._target_=package.module.name (or file.py:name) runs your own method; --cfg job prints the configuration
"""


def main() -> None:
    sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    try:
        first = arguments[0] if arguments else ""
        if first in ("-h", "--help", "help"):
            print(USAGE)
            return 0
        if first in _COMMANDS:
            return _COMMANDS[first](arguments[1:])
        if first and "=" not in first and first[0] not in "-+~":
            raise unknown_name("command", first, _COMMANDS)
        return _run(arguments)
    except UserError as error:
        print(f"unlearn: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("unlearn: interrupted; finished draws are stored, the same command goes on from there", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    from harness.command import compose

    if any(argument in ("--cfg", "-c", "--info", "-i", "--hydra-help", "--version") for argument in arguments):
        compose.offer_plugins(arguments)
        return _hydra([*arguments, *([] if compose.out_of(arguments) else ["out=runs/example"])])
    compose.check(arguments)
    out = compose.out_of(arguments)
    if out is None:
        out = f"runs/{datetime.now():%Y-%m-%d_%H-%M-%S}"
        arguments = [*arguments, f"out={out}"]
    started = time.time()
    code = _hydra(arguments)
    return max(code, _finish(Path(out).expanduser(), started))


def _hydra(arguments: list[str]) -> int:
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
    from harness.report import board, protocol_study
    from harness.scores import results

    errors = [file for file in out.glob("errors/*.txt") if file.stat().st_mtime >= started]
    for file in sorted(errors):
        print(f"unlearn: {file.read_text().rstrip()}", file=sys.stderr)
    if not any(out.glob("cells/*.json")):
        return 1
    console = _console()
    cells = results.read_all(out)
    boards = board.build(cells)
    board.write(out, boards)
    for one in boards:
        board.show(one, console)
        console.print()
    studies = protocol_study.studies(cells) if len({cell.protocol.kind for cell in cells}) > 1 else []
    if studies:
        protocol_study.write(out, studies)
        console.print(f"protocols compared in {out / 'protocols.md'}", markup=False, highlight=False)
    console.print(f"board and results in {out}", markup=False, highlight=False)
    fresh = [file for file in out.glob("cells/*.json") if file.stat().st_mtime >= started - 1]
    failed = [cell for cell in map(results.read, fresh) if cell.status == "failed"]
    return 1 if errors or failed else 0


def _plan(arguments: list[str]) -> int:
    from harness.command import compose, plan

    compose.check(arguments)
    plan.show(compose.configurations([*arguments, *compose.configured_sweep(arguments)]))
    return 0


def _leaderboard(arguments: list[str]) -> int:
    from harness.report import board

    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        raise UserError("usage: unlearn leaderboard [DIR]")
    runs = sorted(Path("runs").glob("*/cells"), key=lambda cells: cells.stat().st_mtime)
    if not arguments and not runs:
        raise UserError("no runs/*/cells here; name the directory: unlearn leaderboard DIR")
    console = _console()
    for one in board.rebuild(Path(arguments[0]) if arguments else runs[-1].parent):
        board.show(one, console)
    return 0


def _score(arguments: list[str]) -> int:
    from harness.draws.store import Store
    from harness.metrics import get_metrics
    from harness.report import board
    from harness.scores.rescore import rescore

    folders = [argument for argument in arguments if "=" not in argument and not argument.startswith("-")]
    chosen = [a.removeprefix("metrics=") for a in arguments if a.startswith("metrics=")]
    if len(folders) != 1 or len(chosen) > 1 or len(folders) + len(chosen) != len(arguments):
        raise UserError("usage: unlearn score DIR [metrics=[a,b]]")
    folder = Path(folders[0]).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such directory")
    names = [name.strip() for name in chosen[0].strip("[]").split(",")] if chosen else _default_metrics()
    try:
        metrics = get_metrics([name for name in names if name])
    except ValueError as error:
        raise UserError(f"metrics: {error}") from error
    count = rescore(folder, metrics, Store())
    console = _console()
    for one in board.rebuild(folder):
        board.show(one, console)
    console.print(f"{count} results in {folder} scored again", markup=False, highlight=False)
    return 0


def _protocols(arguments: list[str]) -> int:
    from harness.report import protocol_study

    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UserError("usage: unlearn protocols DIR")
    folder = Path(arguments[0]).expanduser()
    for study in protocol_study.rebuild(folder):
        print(protocol_study.markdown(study))
    print(f"tables and plots in {folder}/protocols.*")
    return 0


def _default_metrics() -> list[str]:
    from harness.command import compose

    ((cfg, _),) = compose.configurations([])
    return [str(name) for name in cfg.metrics]


def _list(arguments: list[str]) -> int:
    from harness.registry import catalogue

    kinds = [argument for argument in arguments if argument != "--plain"]
    if len(kinds) > 1:
        raise UserError("usage: unlearn list [KIND] [--plain]")
    catalogue.show(kinds[0] if kinds else None, plain="--plain" in arguments)
    return 0


def _console() -> Console:
    """A board is a wide table: never wrap it to a narrow pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=190)


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "plan": _plan,
    "leaderboard": _leaderboard,
    "score": _score,
    "protocols": _protocols,
    "list": _list,
}
