"""Run a benchmark: fill its pools, score its cells, write one result file each."""

from __future__ import annotations

import hashlib

import numpy as np

from harness import models as architectures
from harness.benchmark import Benchmark
from harness.draws import needs
from harness.draws.executor import Executor, Failure
from harness.draws.progress import Progress
from harness.draws.stacksize import stack_size
from harness.draws.stages import Unlearning
from harness.draws.store import Damaged, Missing, Store
from harness.engine.plain import PlainFunction
from harness.errors import UserError
from harness.scores import results, scoring
from harness.scores.results import CellResult, Cost, ProtocolInfo, TaskInfo
from harness.scores.scoring import Outputs
from harness.tasks.index_files import write_audit


def run(benchmark: Benchmark, store: Store, *, quiet: bool = False) -> list[CellResult]:
    """Compute what is missing and write a result for every cell, failed ones included; returns the results.

    Raises UserError, before anything is computed, if the store's disk cannot hold what is missing.
    """
    needs.check_disk(benchmark, store)
    write_audit(benchmark.out / "tasks", benchmark.task, forget=benchmark.forget, split_seed=benchmark.split_seed)
    while True:
        failures = _fill(benchmark, store, quiet)
        try:
            return _score(benchmark, store, failures)
        except (Damaged, Missing):
            continue  # set aside by the store; made again


def prepare(benchmark: Benchmark, store: Store, *, quiet: bool = False) -> bool:
    """Train the models that the choice of the forget set needs; returns whether there was anything to do."""
    if benchmark.preparation is None or benchmark.prepared:
        return False
    needs.check_disk(benchmark, store)
    pools = [benchmark.preparation]
    with _executor(benchmark, store) as executor, Progress(pools, store, quiet=quiet) as progress:
        executor.fill(pools, progress.report)
    return True


def _executor(benchmark: Benchmark, store: Store) -> Executor:
    engine = benchmark.engine
    stack = benchmark.stack or stack_size(benchmark.originals, store) if engine.stacked else 1
    return Executor(store, in_process=engine.device.startswith("cuda"), workers=benchmark.workers, stack=stack)


def _fill(benchmark: Benchmark, store: Store, quiet: bool) -> dict[str, Failure]:
    pools = benchmark.pools()
    with _executor(benchmark, store) as executor, Progress(pools, store, quiet=quiet) as progress:
        failures = executor.fill(pools, progress.report)
        progress.message("counting operations")
        executor.count_flops([stage for stage in benchmark.unlearned if stage.key not in failures])
    for key, failure in failures.items():
        name = next(stage.name for stage in benchmark.unlearned if stage.key == key)
        progress.log(f"{name}: {failure.status}: {failure.reason}\n{failure.trace}".rstrip())
    return failures


def _score(benchmark: Benchmark, store: Store, failures: dict[str, Failure]) -> list[CellResult]:
    protocol, task = benchmark.protocol, benchmark.task
    written = []
    for experiment in range(protocol.experiments):
        draws = protocol.of_experiment(experiment)
        retrained = scoring.load(store, benchmark.retrained, draws, task)
        if scoring.unusable(retrained):
            raise UserError(
                f"{retrained.nan_draws} of {protocol.n} retrained models have NaN outputs: their training diverged; "
                "try a smaller train.lr (what was computed is stored)"
            )
        warnings = scoring.sanity_warnings(task, retrained.draws)
        found = {
            stage.key: scoring.load(store, stage, draws, task)
            for stage in benchmark.unlearned
            if stage.key not in failures
        }
        nulls = _nulls(benchmark, retrained, found)
        for stage in benchmark.unlearned:
            result = _cell(benchmark, stage, experiment)
            result.warnings = list(warnings)
            result.retrained_accuracy = {name: float(a.mean()) for name, a in retrained.draws.accuracy.items()}
            outputs = found.get(stage.key)
            if outputs is None:
                result.status, result.reason = failures[stage.key].status, failures[stage.key].reason
            elif scoring.unusable(outputs):
                result.status = "failed"
                result.reason = f"{outputs.nan_draws} of {protocol.n} draws have NaN outputs (at most 10 % may)"
                result.nan_draws = outputs.nan_draws
            else:
                result.metrics, result.score_on_subsets = scoring.evaluate(
                    benchmark.metrics,
                    unlearned=outputs.draws,
                    retrained=retrained.draws,
                    nulls=nulls,
                    seed=benchmark.seeds["evaluate"],
                )
                result.nan_draws = outputs.nan_draws
                result.chosen = scoring.in_words(outputs.chosen)
                result.cost = _cost(benchmark, store, stage, outputs, retrained)
                result.warnings += _notes(benchmark, outputs)
            results.write(benchmark.out / "cells", _file_name(result), result, _arrays(outputs, retrained))
            written.append(result)
    return written


def _nulls(benchmark: Benchmark, retrained: Outputs, found: dict[str, Outputs]) -> dict[str, results.Null]:
    """From the reference pool and the ceiling row, an independent pool of retrained models."""
    ceiling = next((s for s in benchmark.unlearned if s.method.name == benchmark.ceiling and s.key in found), None)
    if ceiling is None or scoring.unusable(found[ceiling.key]):
        return {}
    independent = found[ceiling.key].draws
    return scoring.null_values(benchmark.metrics, retrained.draws, independent, seed=benchmark.seeds["evaluate"])


def _notes(benchmark: Benchmark, outputs: Outputs) -> list[str]:
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
            split_seed=benchmark.split_seed,
            notes=dict(task.notes),
        ),
        model=architectures.identity(benchmark.model),
        training={key: value for key, value in vars(benchmark.training).items() if value is not None},
        protocol=ProtocolInfo(
            kind=protocol.kind, n=protocol.n, experiments=protocol.experiments, experiment=experiment
        ),
        seeds=benchmark.seeds,
        ceiling=method.name == benchmark.ceiling,
        floor=method.name == benchmark.floor,
        status="ok",
        stages={"unlearned": stage.key, "retrained": benchmark.retrained.key},
        estimator=benchmark.estimator,
        numeric_class=benchmark.engine.numeric_class(benchmark.training.precision),
        environment=results.environment(),
        created=results.now(),
    )


def _cost(benchmark: Benchmark, store: Store, stage: Unlearning, outputs: Outputs, retrained: Outputs) -> Cost:
    seconds, retraining = float(np.median(outputs.seconds)), float(np.median(retrained.seconds))
    ratio = seconds / retraining
    record = store.get_record(f"flops-{stage.key}")
    return Cost(
        seconds_per_model=seconds,
        retraining_seconds=retraining,
        ratio=ratio,
        flops=record["flops"] if record else None,
        over_limit=ratio > benchmark.cost_limit and stage.method.name != benchmark.ceiling,
        comparable=not isinstance(stage.method.build(), PlainFunction),
    )


def _arrays(outputs: Outputs | None, retrained: Outputs) -> dict[str, np.ndarray]:
    if outputs is None:
        return {}
    arrays = {}
    for name, found in (("unlearned", outputs), ("retrained", retrained)):
        arrays[f"{name}_confidences"] = found.draws.confidences  # float64: scored again, they give the same numbers
        arrays |= {f"{name}_accuracy_{split}": accuracy for split, accuracy in found.draws.accuracy.items()}
        arrays[f"{name}_seconds"] = found.seconds
    return arrays


def _file_name(result: CellResult) -> str:
    parts = [result.parameters, result.target, result.task.hash, result.model, result.training, result.seeds]
    identity = results.dumps(parts if result.estimator == "official" else [*parts, result.estimator])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    protocol = result.protocol
    experiment = f"-e{protocol.experiment}" if protocol.kind == "full" else ""
    return f"{result.task.name}-{result.task.forget_kind}-{protocol.kind}-n{protocol.n}{experiment}-{result.method}-{digest}"
