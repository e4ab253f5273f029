"""What a command would run: draws done and missing, the time, the disk and the memory they take. Computes no draw."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from harness.benchmark import Benchmark, from_config
from harness.draws import needs
from harness.draws.executor import Pool
from harness.draws.memorisation import SubsetTraining
from harness.draws.stages import Training, build_ensemble
from harness.draws.store import Damaged, Store
from harness.engine.batches import Images, split_of
from harness.engine.losses import cross_entropy
from harness.engine.streams import Rng

_CALIBRATION_STEPS = 10


def show(configurations: Iterable[tuple[DictConfig, str | None]]) -> None:
    """Print the plan of every job."""
    console = Console()
    store = Store()
    for cfg, method in configurations:
        benchmark = from_config(cfg, store, method_name=method)
        _show(benchmark, store, console)


def _show(benchmark: Benchmark, store: Store, console: Console) -> None:
    task, protocol = benchmark.task, benchmark.protocol
    sizes = ", ".join(f"{name} {size}" for name, size in task.sizes().items())
    console.print(
        f"[bold]{task.name}[/], forget={task.forget_kind}, {protocol.kind}, N = {protocol.n}: {sizes}; task {task.hash}",
        soft_wrap=True,
    )
    training = _seconds(benchmark, Pool(benchmark.retrained, protocol.draws), store) or _calibrate(benchmark)
    table = Table("stage", "draws", "stored", "missing", "s/draw", "minutes", "MB", box=None)
    minutes = megabytes = 0.0
    guessed = False
    for pool in needs.all_pools(benchmark):
        missing = store.missing(pool.stage.key, pool.draws)
        seconds, known = _seconds(benchmark, pool, store), True
        if seconds is None and (isinstance(pool.stage, Training) or pool.stage.method.name == benchmark.ceiling):
            seconds = training * (pool.stage.share if isinstance(pool.stage, SubsetTraining) else 1.0)
        if seconds is None:
            seconds, known = training * benchmark.cost_limit, False
            guessed = True
        size = needs.bytes_per_draw(benchmark, pool) / 1e6
        left = seconds * len(missing) / benchmark.parallel / 60
        minutes += left
        megabytes += size * len(missing)
        table.add_row(
            pool.stage.name,
            str(len(pool.draws)),
            str(len(pool.draws) - len(missing)),
            str(len(missing)),
            f"{'' if known else '~'}{seconds:.2f}",
            f"{left:.1f}",
            f"{size * len(missing):.1f}",
        )
    console.print(table)
    more = (
        f" (~: no draw of the method is stored yet, taken at the cost limit of {benchmark.cost_limit:.0%})"
        if guessed
        else ""
    )
    free = needs.free_bytes(store) / 1e6
    memory = needs.memory(benchmark)
    where = "of the GPU" if benchmark.engine.device.startswith("cuda") else f"for {benchmark.workers} workers"
    say = partial(console.print, soft_wrap=True)
    say(f"about {minutes:.1f} minutes{more}")
    say(f"{megabytes:.0f} MB of disk in {store.root} ({free:.0f} MB free)")
    say(
        f"about {memory.total(benchmark) / 1e9:.1f} GB of memory {where} ({memory.model / 1e6:.0f} MB for each model in "
        "training, with its optimiser and activations)"
    )
    if not benchmark.prepared:
        subsets = benchmark.preparation is not None and isinstance(benchmark.preparation.stage, SubsetTraining)
        first = "the forget set is chosen when the subset models are trained; its size is as shown"
        say(f"[yellow]{first if subsets else 'the weights that all models start from are trained first'}[/]")
    if megabytes > free:
        say("[bold red]the disk cannot hold this: unlearn would refuse to start[/]")


def _seconds(benchmark: Benchmark, pool: Pool, store: Store) -> float | None:
    """Seconds a model, from draws that are stored."""
    for draw in set(pool.draws) - set(store.missing(pool.stage.key, pool.draws)):
        try:
            return store.get(pool.stage.key, draw, prefix="none")[1]["seconds"]
        except (KeyError, Damaged):
            continue
    return None


def _calibrate(benchmark: Benchmark) -> float:
    """Seconds a model trains, from a few steps on this machine."""
    stage = benchmark.retrained
    engine, options, task = stage.engine, stage.options, benchmark.task
    images = Images(task, device=torch.device(engine.device), dtype=options.dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    models = build_ensemble(stage.model, task, [0, 1] if engine.stacked else [0], engine=engine, options=options)
    split = split_of(task, images, Rng([0] * models.size, stacked=models.stacked), "retain")
    optimizer = models.sgd(lr=0.0)
    start = 0.0
    for i, (x, y) in enumerate(split.first_batches(_CALIBRATION_STEPS + 3, options.batch_size)):
        if i == 3:  # the first steps pay for lazy initialisation
            engine.synchronise()
            start = time.perf_counter()
        models.step(optimizer, cross_entropy, x, y)
    engine.synchronise()
    torch.set_num_threads(threads)
    per_step = (time.perf_counter() - start) / _CALIBRATION_STEPS / models.size
    return per_step * split.steps(options.batch_size) * options.epochs
