"""Run a benchmark: fill its pools, score its cells, write one result file each."""

from __future__ import annotations

import hashlib

import numpy as np

from harness import models as architectures
from harness.benchmark import Benchmark
from harness.draws import needs
from harness.draws.executor import Executor, Failure, Pool
from harness.draws.progress import Progress
from harness.draws.stages import Stage, Training, Unlearning
from harness.draws.store import Damaged, Missing, Store
from harness.engine.plain import PlainFunction
from harness.errors import UserError
from harness.files import canonical
from harness.options import RunOptions
from harness.scores import results, scoring
from harness.scores.results import CellResult, Cost, ProtocolInfo, TaskInfo
from harness.scores.scoring import Loaded
from harness.tasks.index_files import write_audit


def run(benchmark: Benchmark, store: Store, *, quiet: bool = False) -> list[CellResult]:
    """Compute what is missing and write a result for every cell, failed ones included; returns the results.

    Raises UserError, before anything is computed, if the store's disk cannot hold what is missing.
    """
    needs.check_disk(benchmark.pools(), store)
    how = {"forget": benchmark.options.forget.model_dump(), "split_seed": benchmark.options.split_seed}
    write_audit(benchmark.out / "tasks", benchmark.task, **how)
    while True:
        failures = _fill(benchmark, store, quiet)
        try:
            return [
                cell
                for experiment in range(benchmark.protocol.experiments)
                for cell in _score(benchmark, store, experiment, failures)
            ]
        except (Damaged, Missing):
            continue  # set aside by the store; made again


def fill_first(pool: Pool, options: RunOptions, *, store: Store, quiet: bool = False) -> None:
    """Train what the task needs before it is known. Raises UserError if the store's disk cannot hold it."""
    needs.check_disk([pool], store)
    with _executor(pool.stage, options, store) as executor, Progress([pool], store, quiet=quiet) as progress:
        executor.fill([pool], progress.report)


def _executor(stage: Stage, options: RunOptions, store: Store) -> Executor:
    training = stage if isinstance(stage, Training) else stage.originals
    stack = options.stack or needs.stack_size(training, store) if stage.engine.stacked else 1
    return Executor(store, in_process=stage.engine.on_gpu, workers=options.processes, stack=stack)


def _fill(benchmark: Benchmark, store: Store, quiet: bool) -> dict[str, Failure]:
    pools = benchmark.pools()
    running = _executor(benchmark.originals, benchmark.options, store)
    with running as executor, Progress(pools, store, quiet=quiet) as progress:
        failures = executor.fill(pools, progress.report)
        progress.message("counting operations")
        executor.count_flops([stage for stage in benchmark.unlearned if stage.key not in failures])
    for key, failure in failures.items():
        name = next(stage.name for stage in benchmark.unlearned if stage.key == key)
        progress.log(f"{name}: {failure.status}: {failure.reason}\n{failure.trace}".rstrip())
    return failures


def _score(benchmark: Benchmark, store: Store, experiment: int, failures: dict[str, Failure]) -> list[CellResult]:
    """Score every method of one experiment and write its results."""
    protocol, task = benchmark.protocol, benchmark.task
    draws = protocol.of_experiment(experiment)
    retrained = scoring.load(store, benchmark.retrained, draws, task)
    if scoring.unusable(retrained):
        raise UserError(
            f"{retrained.nan_draws} of {protocol.n} retrained models have NaN outputs: their training diverged; "
            "try a smaller train.lr (what was computed is stored)"
        )
    unlearned = {
        stage.key: scoring.load(store, stage, draws, task) for stage in benchmark.unlearned if stage.key not in failures
    }
    nulls = _nulls(benchmark, retrained, unlearned)
    warnings = scoring.sanity_warnings(task, retrained.outputs)
    accuracy = {name: float(values.mean()) for name, values in retrained.outputs.accuracy.items()}
    written = []
    for stage in benchmark.unlearned:
        result = _cell(benchmark, stage, experiment)
        result.warnings, result.retrained_accuracy = list(warnings), dict(accuracy)
        outputs = unlearned.get(stage.key)
        if outputs is None:
            result.status, result.reason = failures[stage.key].status, failures[stage.key].reason
        else:
            _fill_in(result, benchmark, store, stage, outputs, retrained, nulls)
        results.write(benchmark.out / "cells", _file_name(result), result, _arrays(outputs, retrained))
        written.append(result)
    return written


def _fill_in(
    result: CellResult,
    benchmark: Benchmark,
    store: Store,
    stage: Unlearning,
    outputs: Loaded,
    retrained: Loaded,
    nulls: dict[str, results.Null],
) -> None:
    """What a result says of draws that were made: scores, cost, warnings; or that too many of them are NaN."""
    result.nan_draws = outputs.nan_draws
    if scoring.unusable(outputs):
        result.status = "failed"
        result.reason = f"{outputs.nan_draws} of {benchmark.protocol.n} draws have NaN outputs (at most 10 % may)"
        return
    result.metrics, result.score_on_subsets = scoring.evaluate(
        benchmark.metrics,
        unlearned=outputs.outputs,
        retrained=retrained.outputs,
        nulls=nulls,
        seed=benchmark.options.seeds.evaluate,
    )
    result.chosen = scoring.in_words(outputs.chosen)
    result.cost = _cost(benchmark, store, stage, outputs, retrained)
    result.warnings = [*result.warnings, *_notes(benchmark, outputs)]


def _nulls(benchmark: Benchmark, retrained: Loaded, unlearned: dict[str, Loaded]) -> dict[str, results.Null]:
    """From the reference pool and the ceiling row, an independent pool of retrained models."""
    key = next(stage.key for stage in benchmark.unlearned if benchmark.is_ceiling(stage.method))
    if key not in unlearned or scoring.unusable(unlearned[key]):
        return {}
    seed = benchmark.options.seeds.evaluate
    return scoring.null_values(benchmark.metrics, retrained.outputs, unlearned[key].outputs, seed=seed)


def _notes(benchmark: Benchmark, outputs: Loaded) -> list[str]:
    notes = []
    if benchmark.protocol.n < 8:
        notes.append(
            f"N = {benchmark.protocol.n} < 8: the ε bins say nothing, forgetting quality and score are left empty"
        )
    if outputs.nan_draws:
        notes.append(f"{outputs.nan_draws} draws have NaN outputs and count as the worst")
    return notes


def _cell(benchmark: Benchmark, stage: Unlearning, experiment: int) -> CellResult:
    task, protocol, method = benchmark.task, benchmark.protocol, stage.method
    return CellResult(
        method=method.name,
        recipe=method.recipe,
        target=method.target,
        parameters=dict(method.parameters),
        task=TaskInfo(
            name=task.name,
            forget_kind=task.forget_kind,
            hash=task.hash,
            classes=task.classes,
            sizes=task.sizes(),
            split_seed=benchmark.options.split_seed,
            notes=dict(task.notes),
        ),
        model=architectures.identity(benchmark.prepared.model),
        training=benchmark.options.train.model_dump(exclude_none=True),
        protocol=ProtocolInfo(
            kind=protocol.kind, n=protocol.n, experiments=protocol.experiments, experiment=experiment
        ),
        seeds=benchmark.seeds,
        ceiling=benchmark.is_ceiling(method),
        floor=benchmark.is_floor(method),
        status="ok",
        stages={"unlearned": stage.key, "retrained": benchmark.retrained.key},
        estimator=benchmark.options.estimator,
        numeric_class=benchmark.engine.numeric_class(benchmark.options.train.precision),
        environment=results.environment(),
        created=results.now(),
    )


def _cost(benchmark: Benchmark, store: Store, stage: Unlearning, outputs: Loaded, retrained: Loaded) -> Cost:
    seconds, retraining = float(np.median(outputs.seconds)), float(np.median(retrained.seconds))
    ratio = seconds / retraining
    record = store.get_record(f"flops-{stage.key}")
    return Cost(
        seconds_per_model=seconds,
        retraining_seconds=retraining,
        ratio=ratio,
        flops=record["flops"] if record else None,
        over_limit=ratio > benchmark.options.cost_limit and not benchmark.is_ceiling(stage.method),
        comparable=not isinstance(stage.method.build(), PlainFunction),
    )


def _arrays(outputs: Loaded | None, retrained: Loaded) -> dict[str, np.ndarray]:
    if outputs is None:
        return {}
    arrays = {}
    for name, loaded in (("unlearned", outputs), ("retrained", retrained)):
        arrays[f"{name}_confidences"] = loaded.outputs.confidences  # float64: scored again, they give the same numbers
        arrays |= {f"{name}_accuracy_{split}": accuracy for split, accuracy in loaded.outputs.accuracy.items()}
        arrays[f"{name}_seconds"] = loaded.seconds
    return arrays


def _file_name(result: CellResult) -> str:
    parts = [result.parameters, result.target, result.task.hash, result.model, result.training, result.seeds]
    identity = canonical(parts if result.estimator == "official" else [*parts, result.estimator])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    protocol = result.protocol
    experiment = f"-e{protocol.experiment}" if protocol.kind == "full" else ""
    return f"{result.task.name}-{result.task.forget_kind}-{protocol.kind}-n{protocol.n}{experiment}-{result.method}-{digest}"
