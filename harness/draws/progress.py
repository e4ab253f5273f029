"""A progress bar with the time left on a terminal; a few plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from harness.draws.executor import Pool
from harness.draws.stages import Stage
from harness.draws.store import Store


class Progress:
    """One bar for everything, which names what is being made."""

    def __init__(self, pools: Sequence[Pool], store: Store, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True)
        missing = [len(store.missing(pool.stage.key, pool.draws)) for pool in pools]
        self.total, self.stored = sum(missing), sum(len(pool.draws) for pool in pools) - sum(missing)
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("draws ·"),
            TimeElapsedColumn(),
            TextColumn("· left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self.quiet = quiet
        self.task = self.bars.add_task("starting", total=self.total)

    def __enter__(self) -> Progress:
        self.bars.start()
        if not self.quiet:
            self.log(f"{self.total} draws to compute, {self.stored} in the store")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def report(self, stage: Stage, made: int) -> None:
        self.bars.update(self.task, description=stage.name, advance=made)

    def message(self, text: str) -> None:
        self.bars.update(self.task, description=text)

    def log(self, text: str) -> None:
        print(text, file=sys.stderr) if not self.console.is_terminal else self.console.print(text, markup=False)
