"""The command ``unlearn``: subcommands by argparse, everything else is a Hydra run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from harness import __version__
from harness.command.screen import console
from harness.errors import UserError, unknown_name

USAGE = """\
unlearn: benchmark machine unlearning, N unlearned against N retrained models

  unlearn [KEY=VALUE ...]                 run the benchmark; without arguments every method on scikit-learn's digits
  unlearn -m method=a,b seed=0,1 ...      sweep; one combined board
"""
KEYS = """\

  method=NAME or methods=[a,b] or methods=all     data=digits|npz|cifar10|...  data.path= data.root= data.train_limit=
  forget=random|class|groups|memorised|... forget.n=  model=  train=  protocol=reuse_n_n|reuse_n_1|full protocol.n=
  recipe=tuned|authors  seed=  split_seed=  device=auto|cpu|cuda  engine=auto|stacked|sequential  out=DIR

  method._target_=package.module.name (or file.py:name) runs your own method; --cfg job prints the configuration
  unlearn COMMAND --help says more of a command; unlearn --version
"""


def main() -> None:
    sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    try:
        first = arguments[0] if arguments else ""
        if first in ("-h", "--help", "help"):
            print(USAGE + "".join(f"  {c.usage:39s} {c.summary}\n" for c in COMMANDS.values()) + KEYS, end="")
            return 0
        if first == "--version":
            print(f"unlearn {__version__}")
            return 0
        if first in COMMANDS:
            return COMMANDS[first].run(arguments[1:])
        if first and "=" not in first and first[0] not in "-+~":
            raise unknown_name("command", first, COMMANDS)
        from harness.command.hydra_run import run

        return run(arguments)
    except UserError as error:
        print(f"unlearn: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("unlearn: interrupted; finished draws are stored, the same command goes on from there", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """What argparse would end the process for is an error like any other here."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; usage: {self.usage}")


@dataclass(frozen=True)
class Command:
    """A subcommand. arguments: declares them; action: takes them, and returns the exit code."""

    usage: str
    summary: str
    details: str
    arguments: Callable[[argparse.ArgumentParser], object]
    action: Callable[[argparse.Namespace], int]

    def run(self, given: Sequence[str]) -> int:
        parser = _Parser(
            usage=self.usage,
            description=f"{self.summary[0].upper()}{self.summary[1:]}.\n\n{self.details}".rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.arguments(parser)
        try:
            return self.action(parser.parse_args(list(given)))
        except SystemExit as stop:  # --help
            return int(stop.code or 0)


def _overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for a run")
    parser.add_argument("-m", "--multirun", action="store_true", help="the plan of a sweep")


def _plan(options: argparse.Namespace) -> int:
    from harness.command import compose, plan

    given = [*options.overrides, *(["-m"] if options.multirun else [])]
    compose.check(given)
    plan.show(compose.configurations([*given, *compose.configured_sweep(given)]))
    return 0


def _leaderboard(options: argparse.Namespace) -> int:
    from harness.report import board

    folder = options.folder
    if folder is None:
        runs = sorted(Path("runs").glob("*/cells"), key=lambda cells: cells.stat().st_mtime)
        if not runs:
            raise UserError("no runs/*/cells here; name the directory: unlearn leaderboard DIR")
        folder = runs[-1].parent
    screen = console()
    for one in board.rebuild(folder):
        board.show(one, screen)
    return 0


def _score(options: argparse.Namespace) -> int:
    from harness.draws.store import Store
    from harness.metrics import get_metrics
    from harness.report import board
    from harness.scores.rescore import rescore

    folder, chosen = options.folder.expanduser(), options.metrics
    if not folder.is_dir():
        raise UserError(f"{folder}: no such directory")
    if chosen is not None and not chosen.startswith("metrics="):
        raise UserError(f"'{chosen}': expected metrics=[a,b]")
    names = [name.strip() for name in chosen.removeprefix("metrics=").strip("[]").split(",")] if chosen else _default()
    try:
        metrics = get_metrics([name for name in names if name])
    except ValueError as error:
        raise UserError(f"metrics: {error}") from error
    count = rescore(folder, metrics, Store())
    screen = console()
    for one in board.rebuild(folder):
        board.show(one, screen)
    screen.print(
        f"{count} results in {folder} scored again; every column is in leaderboard.csv there",
        markup=False,
        highlight=False,
    )
    return 0


def _default() -> list[str]:
    """The metrics of a run that names none."""
    from harness.command import compose

    ((cfg, _),) = compose.configurations([])
    return [str(name) for name in cfg.metrics]


def _protocols(options: argparse.Namespace) -> int:
    from harness.report import protocol_study

    folder = options.folder.expanduser()
    for study in protocol_study.rebuild(folder):
        print(protocol_study.markdown(study))
    print(f"tables and plots in {folder}/protocols.*")
    return 0


def _list(options: argparse.Namespace) -> int:
    from harness.command import listing

    listing.show(options.kind, plain=options.plain)
    return 0


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", metavar="KIND", help="one of them; all by default")
    parser.add_argument("--plain", action="store_true", help="names only, one a line")


def _score_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a run, or a folder with several")
    parser.add_argument("metrics", nargs="?", metavar="metrics=[a,b]", help="default: those of a run")


COMMANDS = {
    "plan": Command(
        "unlearn plan [KEY=VALUE ...]",
        "what would run, what is stored, the time it takes; runs nothing",
        "Takes the arguments of a run. The time of draws that nobody made yet comes from a short calibration.",
        _overrides,
        _plan,
    ),
    "leaderboard": Command(
        "unlearn leaderboard [DIR]",
        "rebuild the board from the result files in DIR (default: the newest run)",
        "Reads cells/*.json at any depth below DIR and writes leaderboard.* into it. Nothing is scored again.",
        lambda parser: parser.add_argument(
            "folder", nargs="?", type=Path, metavar="DIR", help="default: runs/<newest>"
        ),
        _leaderboard,
    ),
    "score": Command(
        "unlearn score DIR [metrics=[a,b]]",
        "score the stored outputs in DIR again, also with other metrics; trains nothing",
        "The arrays beside the results hold confidences and accuracies; what needs more is read from the store.",
        _score_arguments,
        _score,
    ),
    "protocols": Command(
        "unlearn protocols DIR",
        "whether the cheap protocols agree with `full`, from repeated runs in DIR",
        "Writes tables and plots, protocols.*, into DIR. See docs/protocols.md.",
        lambda parser: parser.add_argument("folder", type=Path, metavar="DIR", help="results of repeated runs"),
        _protocols,
    ),
    "list": Command(
        "unlearn list [KIND] [--plain]",
        "methods, data, models, metrics, protocols, forget, train or experiments",
        "Installed plug-ins are among them.",
        _list_arguments,
        _list,
    ),
}
