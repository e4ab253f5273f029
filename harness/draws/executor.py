"""Fill pools of draws: decide what is missing, spread it over workers, survive failures of any one of them.

On a CPU every draw is computed by a single-threaded worker process; on a GPU, stacks of draws are computed in this
process. Several runs on one machine share one set of core slots, and several runs anywhere share a store: a draw that
another process is making is waited for, not made twice.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Literal

import torch

from harness.draws.cores import core_slot
from harness.draws.stages import Stage, Training, Unlearning
from harness.draws.store import Damaged, Missing, Store
from harness.errors import NotApplicable, UserError

_CRASHES_ALLOWED = 2
_EXIT_SECONDS = 2.0  # how long a dead worker may take to have an exit code
# Imported once and inherited by every worker. A torch optimiser imports torch._dynamo at its first step: two seconds each.
_PRELOADED = ["harness.draws.executor", "harness.benchmark", "hydra.utils", "torch._dynamo"]
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Pool:
    """The draws wanted of one stage."""

    stage: Stage
    draws: tuple[int, ...]


@dataclass(frozen=True)
class Failure:
    """Why a stage could not be completed. ``trace`` is for the log, ``reason`` for the board."""

    status: Literal["failed", "not_applicable"]
    reason: str
    trace: str = ""


@dataclass(frozen=True)
class _Unit:
    stage: Stage
    draws: tuple[int, ...]

    @property
    def id(self) -> tuple[str, tuple[int, ...]]:
        return self.stage.key, self.draws


@dataclass(frozen=True)
class _Outcome:
    made: int
    failure: Failure | None = None


Report = Callable[[Stage, int], None]


class Executor:
    """Runs units of work for one engine. Use as a context manager: workers start when first needed."""

    def __init__(self, store: Store, *, in_process: bool, workers: int, stack: int = 1) -> None:
        """stack: how many draws a unit holds (1 unless the engine is stacked)."""
        self.store, self.in_process, self.workers, self.stack = store, in_process, max(1, workers), max(1, stack)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._pool is not None:  # killing a worker loses at most the draw it is making
            for process in (getattr(self._pool, "_processes", None) or {}).values():
                process.kill()
        self._stop()

    def fill(self, pools: Sequence[Pool], report: Report = lambda stage, made: None) -> dict[str, Failure]:
        """Compute every missing draw of ``pools``; returns the failures by stage key.

        A stage that fails is abandoned at its first failing draw; the others go on, unless what failed is a training,
        which raises UserError. Outputs finished before stay stored.
        """
        failures: dict[str, Failure] = {}
        for pool in pools:
            self.store.describe(pool.stage.key, pool.stage.identity)
        while True:
            for level in levels(pools):  # looked at anew each round: a damaged original is made again before its heirs
                units = [unit for pool in level if pool.stage.key not in failures for unit in self._missing(pool)]
                if units:
                    break
            else:
                return failures
            made = self._run(units, failures, report)
            if not made:
                time.sleep(_POLL_SECONDS)  # what is left is being made by another process

    def count_flops(self, stages: Sequence[Unlearning]) -> None:
        """Count the operations of each stage once, on a plain model; the numbers go to the store's records.

        A stage whose operations cannot be counted has no record.
        """
        todo = [stage for stage in stages if self.store.get_record(f"flops-{stage.key}") is None]
        if self.in_process:
            for stage in todo:
                _count_flops(self.store.root, stage)
        else:
            for stage in self._count_in_workers(todo):  # a dying worker takes others down: each once more, alone
                self._count_in_workers([stage])

    def _count_in_workers(self, stages: Sequence[Unlearning]) -> list[Unlearning]:
        """Returns the stages that were lost with a worker."""
        futures, lost = {}, []
        for stage in stages:
            try:
                futures[self._workers().submit(_count_flops, self.store.root, stage)] = stage
            except BrokenProcessPool:
                lost.append(stage)
        wait(futures)
        lost += [stage for future, stage in futures.items() if isinstance(future.exception(), BrokenProcessPool)]
        if lost:
            self._stop()
        return lost

    def _missing(self, pool: Pool) -> list[_Unit]:
        missing = self.store.missing(pool.stage.key, pool.draws)
        return [_Unit(pool.stage, tuple(missing[i : i + self.stack])) for i in range(0, len(missing), self.stack)]

    def _run(self, units: list[_Unit], failures: dict[str, Failure], report: Report) -> int:
        if self.in_process:
            made = 0
            for unit in units:
                if unit.stage.key not in failures:
                    outcome = _work(self.store.root, unit.stage, unit.draws)
                    made += self._note(unit, outcome, failures, report)
            return made
        return self._run_in_workers(units, failures, report)

    def _run_in_workers(self, units: list[_Unit], failures: dict[str, Failure], report: Report) -> int:
        waiting = list(reversed(units))
        futures: dict[Future[_Outcome], _Unit] = {}
        crashes: Counter[tuple[str, tuple[int, ...]]] = Counter()
        made = 0
        while waiting or futures:
            while waiting and len(futures) < self.workers + 1:  # one ahead, so that no worker waits for this process
                # One dying worker takes the whole pool down. Whatever was in flight then runs alone from now on: if its
                # worker dies again, it is to blame.
                if futures and any(crashes[unit.id] for unit in (waiting[-1], *futures.values())):
                    break
                unit = waiting.pop()
                if unit.stage.key in failures:
                    continue
                try:
                    futures[self._workers().submit(_work, self.store.root, unit.stage, unit.draws)] = unit
                except BrokenProcessPool:  # a worker died since the last look
                    waiting.append(unit)
                    if not futures:
                        self._stop()
                    break
            if not futures:
                continue
            done, _ = wait(futures, return_when=FIRST_COMPLETED)
            for future in done:
                unit = futures.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    lost = [unit, *futures.values()]
                    futures.clear()
                    death = self._how_a_worker_died()
                    self._stop()
                    for victim in lost:
                        crashes[victim.id] += 1
                        if crashes[victim.id] > _CRASHES_ALLOWED:
                            outcome = _Outcome(0, Failure("failed", f"its worker process died ({death})"))
                            self._note(victim, outcome, failures, report)
                        else:
                            waiting.append(victim)
                    break
                made += self._note(unit, outcome, failures, report)
        return made

    def _note(self, unit: _Unit, outcome: _Outcome, failures: dict[str, Failure], report: Report) -> int:
        if outcome.failure is not None:
            if isinstance(unit.stage, Training):
                raise UserError(
                    f"training the {unit.stage.role} models failed: {outcome.failure.reason}\n{outcome.failure.trace}"
                )
            failures.setdefault(unit.stage.key, outcome.failure)
        if outcome.made:
            report(unit.stage, outcome.made)
        return outcome.made

    def _workers(self) -> ProcessPoolExecutor:
        if self._pool is None:
            method = "forkserver" if os.name == "posix" else "spawn"
            if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
                # A job of hydra/launcher=joblib: its process was started by a method that no child of it would know.
                multiprocessing.set_start_method(method, force=True)
            context = multiprocessing.get_context(method)
            if os.name == "posix":
                context.set_forkserver_preload(_PRELOADED)
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_start_worker)
        return self._pool

    def _how_a_worker_died(self) -> str:
        """Exit codes of the workers that died by themselves; the pool then ends the others by SIGTERM."""
        deaths = []
        for process in list((getattr(self._pool, "_processes", None) or {}).values()):
            process.join(_EXIT_SECONDS)
            code = process.exitcode
            if code == -signal.SIGKILL:
                deaths.append("killed by SIGKILL: out of memory?")
            elif code is not None and code < 0 and code != -signal.SIGTERM:
                deaths.append(f"by {signal.Signals(-code).name}")
            elif code:
                deaths.append(f"exit code {code}")
        return ", ".join(dict.fromkeys(deaths)) or "it was ended from outside"

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    torch.set_num_threads(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A worker whose main process was killed must not go on alone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _work(root: Path, stage: Stage, draws: tuple[int, ...]) -> _Outcome:
    """Make those of ``draws`` that are missing and that nobody else is making."""
    store = Store(root)
    with ExitStack() as held:
        if not stage.engine.device.startswith("cuda"):
            held.enter_context(core_slot())
        mine = [draw for draw in draws if held.enter_context(store.lock(stage.key, draw))]
        mine = store.missing(stage.key, mine)
        if not mine:
            return _Outcome(0)
        try:
            finished = stage.make(mine, store)
        except NotApplicable as why:
            return _Outcome(0, Failure("not_applicable", str(why)))
        except (Damaged, Missing):
            return _Outcome(0)  # a parent was set aside; the next round makes it again
        except UserError as error:
            return _Outcome(0, Failure("failed", str(error)))
        except BaseException as error:  # SystemExit too: a method that calls sys.exit is a row like any other
            if isinstance(error, KeyboardInterrupt) and multiprocessing.parent_process() is None:
                raise  # from the keyboard; workers do not hear it
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            return _Outcome(0, Failure("failed", reason, f"in draw {mine[0]}:\n{traceback.format_exc()}"))
        for draw in finished:
            store.put(stage.key, draw.index, draw.tensors, draw.facts)
    return _Outcome(len(finished))


def _count_flops(root: Path, stage: Unlearning) -> None:
    store = Store(root)
    with nullcontext() if stage.engine.device.startswith("cuda") else core_slot():
        store.put_record(f"flops-{stage.key}", {"flops": stage.flops(store)})


def levels(pools: Sequence[Pool]) -> list[list[Pool]]:
    """Pools in the order they must be filled: what is trained, then what starts from it."""
    trained = [pool for pool in pools if isinstance(pool.stage, Training)]
    return [level for level in (trained, [p for p in pools if p not in trained]) if level]
