"""What a command would run: draws done and missing, the time, the disk and the memory they take. Computes no draw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from harness.benchmark import Benchmark, from_config
from harness.draws import needs
from harness.draws.executor import Pool
from harness.draws.memorisation import SubsetTraining
from harness.draws.probe import probe
from harness.draws.stages import Training
from harness.draws.store import Damaged, Store

_CALIBRATION_STEPS = 10


@dataclass(frozen=True)
class _Line:
    """A pool: how many of its draws are missing, seconds a draw (guessed: at the cost limit), bytes of all that is missing."""

    pool: Pool
    missing: int
    seconds: float
    guessed: bool
    size: float

    @property
    def left(self) -> float:
        """Seconds of one core."""
        return self.seconds * self.missing


def show(configurations: Iterable[tuple[DictConfig, str | None]]) -> None:
    """Print the plan of every job."""
    console = Console()
    store = Store()
    for cfg, method in configurations:
        benchmark = from_config(cfg, store, method_name=method)
        lines = _lines(benchmark, store)
        _show_task(benchmark, console)
        console.print(_table(lines, benchmark.parallel))
        _show_sums(benchmark, store, lines, console)


def _lines(benchmark: Benchmark, store: Store) -> list[_Line]:
    training = _seconds(Pool(benchmark.retrained, benchmark.protocol.draws), store) or _calibrate(benchmark)
    lines = []
    for pool in benchmark.all_pools():
        missing = len(store.missing(pool.stage.key, pool.draws))
        seconds, guessed = _seconds(pool, store), False
        if seconds is None and (isinstance(pool.stage, Training) or benchmark.is_ceiling(pool.stage.method)):
            seconds = training * (pool.stage.share if isinstance(pool.stage, SubsetTraining) else 1.0)
        if seconds is None:
            seconds, guessed = training * benchmark.options.cost_limit, True
        lines.append(_Line(pool, missing, seconds, guessed, missing * needs.bytes_per_draw(pool.stage, store)))
    return lines


def _show_task(benchmark: Benchmark, console: Console) -> None:
    task, protocol = benchmark.task, benchmark.protocol
    sizes = ", ".join(f"{name} {size}" for name, size in task.sizes().items())
    console.print(
        f"[bold]{task.name}[/], forget={task.forget_kind}, {protocol.kind}, N = {protocol.n}: {sizes}; task {task.hash}",
        soft_wrap=True,
    )


def _table(lines: Sequence[_Line], parallel: int) -> Table:
    table = Table("stage", "draws", "stored", "missing", "s/draw", "minutes", "MB", box=None)
    for line in lines:
        wanted = len(line.pool.draws)
        table.add_row(
            line.pool.stage.name,
            str(wanted),
            str(wanted - line.missing),
            str(line.missing),
            f"{'~' if line.guessed else ''}{line.seconds:.2f}",
            f"{line.left / parallel / 60:.1f}",
            f"{line.size / 1e6:.1f}",
        )
    return table


def _show_sums(benchmark: Benchmark, store: Store, lines: Sequence[_Line], console: Console) -> None:
    say = partial(console.print, soft_wrap=True)
    minutes = sum(line.left for line in lines) / benchmark.parallel / 60
    limit = f"{benchmark.options.cost_limit:.0%}"
    guess = f" (~: no draw of the method is stored yet, taken at the cost limit of {limit})"
    say(f"about {minutes:.1f} minutes{guess if any(line.guessed for line in lines) else ''}")

    size, free = sum(line.size for line in lines), needs.free_bytes(store)
    say(f"{size / 1e6:.0f} MB of disk in {store.root} ({free / 1e6:.0f} MB free)")
    memory, stack = needs.memory(benchmark.retrained, benchmark.task), benchmark.options.stack
    if benchmark.engine.on_gpu:
        total, where = memory.of_stack(stack), "of the GPU"
    else:
        total, where = memory.of_workers(benchmark.workers, stack), f"for {benchmark.workers} workers"
    say(
        f"about {total / 1e9:.1f} GB of memory {where} ({memory.model / 1e6:.0f} MB for each model in "
        "training, with its optimiser and activations)"
    )
    for pool in benchmark.prepared.pools:
        if store.missing(pool.stage.key, pool.draws):
            subsets = isinstance(pool.stage, SubsetTraining)
            first = "the forget set is chosen when the subset models are trained; its size is as shown"
            say(f"[yellow]{first if subsets else 'the weights that all models start from are trained first'}[/]")
    if size > free:
        say("[bold red]the disk cannot hold this: unlearn would refuse to start[/]")


def _seconds(pool: Pool, store: Store) -> float | None:
    """Seconds a model, from draws that are stored."""
    for draw in set(pool.draws) - set(store.missing(pool.stage.key, pool.draws)):
        try:
            return float(store.get(pool.stage.key, draw, prefix="none")[1]["seconds"])
        except (KeyError, Damaged):
            continue
    return None


def _calibrate(benchmark: Benchmark) -> float:
    """Seconds a model trains, from a few steps on this machine."""
    stage, task = benchmark.retrained, benchmark.task
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    step = probe(stage.model, task, engine=stage.engine, options=stage.options, steps=_CALIBRATION_STEPS)
    torch.set_num_threads(threads)
    batches = -(-len(task.splits["retain"]) // stage.options.batch_size)
    return step.seconds * batches * stage.options.epochs
