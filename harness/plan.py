"""What a command would run: draws done and missing, the time and the disk they take. Computes no draw."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from harness.batches import Images, split_of
from harness.benchmark import Benchmark, from_config
from harness.executor import Pool
from harness.losses import cross_entropy
from harness.seeds import Rng
from harness.stages import Engine, Training, build_ensemble
from harness.store import Damaged, Store

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
        f"[bold]{task.name}[/], forget={task.forget_kind}, {protocol.kind}, N = {protocol.n}: {sizes}; task {task.hash}"
    )
    training = _seconds(benchmark, Pool(benchmark.retrained, protocol.draws), store) or _calibrate(benchmark)
    table = Table("stage", "draws", "stored", "missing", "s/draw", "minutes", "MB", box=None)
    minutes = megabytes = 0.0
    unknown = 0
    for pool in benchmark.pools():
        missing = store.missing(pool.stage.key, pool.draws)
        seconds = _seconds(benchmark, pool, store)
        if seconds is None and (isinstance(pool.stage, Training) or pool.stage.method.name == benchmark.ceiling):
            seconds = training
        size = _bytes(benchmark, pool) / 1e6
        left = None if seconds is None else seconds * len(missing) / benchmark.parallel / 60
        unknown += left is None and bool(missing)
        minutes += left or 0
        megabytes += size * len(missing)
        table.add_row(
            pool.stage.name,
            str(len(pool.draws)),
            str(len(pool.draws) - len(missing)),
            str(len(missing)),
            "?" if seconds is None else f"{seconds:.2f}",
            "?" if left is None else f"{left:.1f}",
            f"{size * len(missing):.1f}",
        )
    console.print(table)
    free = shutil.disk_usage(store.root).free / 1e6
    more = f" + {unknown} methods of unknown cost (none of their draws is stored yet)" if unknown else ""
    console.print(f"about {minutes:.1f} minutes{more}; {megabytes:.0f} MB of disk in {store.root} ({free:.0f} MB free)")


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
    engine, recipe, task = stage.engine, stage.recipe, benchmark.task
    images = Images(task, device=torch.device(engine.device), dtype=recipe.dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    models = build_ensemble(stage.model, task, [0, 1] if engine.stacked else [0], engine=engine, recipe=recipe)
    split = split_of(task, images, Rng([0] * models.size, stacked=models.stacked), "retain")
    optimizer = models.sgd(lr=0.0)
    start = 0.0
    for i, (x, y) in enumerate(split.first_batches(_CALIBRATION_STEPS + 3, recipe.batch_size)):
        if i == 3:  # the first steps pay for lazy initialisation
            engine.synchronise()
            start = time.perf_counter()
        models.step(optimizer, cross_entropy, x, y)
    engine.synchronise()
    torch.set_num_threads(threads)
    per_step = (time.perf_counter() - start) / _CALIBRATION_STEPS / models.size
    return per_step * split.steps(recipe.batch_size) * recipe.epochs


def _bytes(benchmark: Benchmark, pool: Pool) -> float:
    """Bytes a draw takes: float32 logits, and for originals the weights."""
    task = benchmark.task
    examples = len(task.retain_sample) + sum(len(task.splits[name]) for name in ("forget", "valid", "test"))
    logits = 4.0 * task.classes * examples
    if pool.stage is not benchmark.originals:
        return logits
    net = build_ensemble(benchmark.model, task, [0], engine=Engine("cpu", stacked=False), recipe=benchmark.recipe)
    return logits + sum(p.numel() * p.element_size() for p in net.parameters.values())
