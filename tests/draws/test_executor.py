"""Filling pools: failures stay where they are, kills lose what was in flight, several processes share the work."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from harness.draws import cores as cores_module
from harness.draws.cores import core_slot, cores
from harness.draws.executor import Executor, Pool, levels
from harness.draws.stages import FinishedDraw, Unlearning
from harness.errors import UserError
from tests.fill_pool import pools
from tests.helpers import built_in, identical, method, read_log, training

ROOT = Path(__file__).parents[2]


def fill(store, wanted, *, workers=0, stack=1, report=lambda stage, made: None):
    with Executor(store, in_process=not workers, workers=workers, stack=stack) as executor:
        return executor.fill(wanted, report)


def stored(store, stage, draws):
    return {d: FinishedDraw(d, *store.get(stage.key, d)) for d in draws}


def unlearning(task, *methods, **options):
    originals = training(task, precision="float32", **options)
    return originals, [Unlearning(originals, spec, 0, "paired") for spec in methods]


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stacked", [False, True])
def test_a_failing_method_leaves_the_others_alone(task, store, stacked):
    specs = [
        method("raises"),
        method("reset_head"),
        method("declines"),
        replace(method("raises", kind="KeyError"), name="k"),
    ]
    originals, (raising, fine, declining, key_error) = unlearning(task, *specs, stacked=stacked)
    made = {}
    wanted = [Pool(stage, (0, 1, 2)) for stage in (raising, fine, declining, key_error, originals)]
    failures = fill(
        store, wanted, stack=2 if stacked else 1, report=lambda s, m: made.update({s.key: made.get(s.key, 0) + m})
    )
    assert set(failures) == {raising.key, declining.key, key_error.key}
    assert failures[raising.key].status == "failed"
    assert failures[raising.key].reason == "ValueError: boom"
    assert "Traceback" in failures[raising.key].trace
    assert "and a second line" in failures[raising.key].trace
    assert failures[key_error.key].reason == "KeyError: 'boom'"
    assert failures[declining.key].status == "not_applicable"
    assert failures[declining.key].reason == "forgets classes only"
    assert made == {originals.key: 3, fine.key: 3}
    assert store.missing(fine.key, range(3)) == []
    assert store.missing(raising.key, range(3)) == [0, 1, 2]


def test_a_later_draw_that_fails_keeps_the_earlier_ones(task, store):
    originals, (stage,) = unlearning(task, method("reset_head"))
    fill(store, [Pool(originals, (0, 1)), Pool(stage, (0,))])
    failing = replace(stage, method=replace(stage.method, target="tests.helpers.raises"))
    assert fill(store, [Pool(originals, (0, 1)), Pool(stage, (0, 1)), Pool(failing, (0, 1))]).keys() == {failing.key}
    assert store.missing(stage.key, (0, 1)) == []


def test_bad_hyper_parameters_are_told_without_a_draw(task, store):
    originals, (stage,) = unlearning(task, method("reset_head", speed=1))
    failure = fill(store, [Pool(originals, (0,)), Pool(stage, (0,))])[stage.key]
    assert "hyper-parameter" in failure.reason
    assert "speed" in failure.reason


def test_training_that_fails_stops_the_run(task, store):
    broken = training(task, model={"_target_": "tests.helpers.broken_net"})
    with pytest.raises(UserError, match=r"training the original models failed: .*broken_net"):
        fill(store, [Pool(broken, (0,))])


def test_levels(task):
    originals, (stage,) = unlearning(task, method("reset_head"))
    a, b, c = Pool(stage, (0,)), Pool(originals, (0,)), Pool(replace(originals, role="retrained"), (0,))
    assert levels([a, b, c]) == [[b, c], [a]]
    assert levels([b]) == [[b]]


# --- resuming -------------------------------------------------------------------------------------------------------


def test_only_what_is_missing_is_made(task, store):
    originals, (stage,) = unlearning(task, built_in("finetune"))
    fill(store, [Pool(originals, (1, 3))])
    times = {d: store.path(originals.key, d).stat().st_mtime_ns for d in (1, 3)}
    made = []
    fill(store, [Pool(originals, (0, 1, 2, 3)), Pool(stage, (2,))], report=lambda s, m: made.append((s.name, m)))
    assert made == [("original", 1), ("original", 1), ("finetune", 1)]
    assert {d: store.path(originals.key, d).stat().st_mtime_ns for d in (1, 3)} == times
    fill(store, [Pool(originals, (0, 1, 2, 3)), Pool(stage, (2,))], report=lambda s, m: pytest.fail("made again"))


@pytest.mark.parametrize("source", ["paired", "single"])
@pytest.mark.parametrize("stacked", [False, True])
def test_a_damaged_original_is_made_again(task, store, source, stacked):
    """All methods that start from it get their draws."""
    originals, stages = unlearning(
        task, built_in("finetune"), built_in("identity"), built_in("gradient_ascent"), stacked=stacked
    )
    stages = [replace(stage, source=source) for stage in stages]
    stack = 2 if stacked else 1
    fill(store, [Pool(originals, (0, 1))], stack=stack)
    path = store.path(originals.key, 0)
    before = {name: t.clone() for name, t in store.get(originals.key, 0)[0].items()}  # what is read is the mapped file
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 0xFF]))
    assert fill(store, [Pool(originals, (0, 1)), *(Pool(stage, (0, 1)) for stage in stages)], stack=stack) == {}
    assert any("damaged" in name for name in os.listdir(path.parent))
    after = store.get(originals.key, 0)[0]
    if not stacked:
        assert identical(FinishedDraw(0, before, {}), FinishedDraw(0, after, {}))
    assert all(store.missing(stage.key, (0, 1)) == [] for stage in stages)


# --- worker processes -----------------------------------------------------------------------------------------------


def test_workers_and_this_process_make_the_same_bytes(task, store, tmp_path):
    """Sequential engine, dropout included: in process, in one worker, in two."""
    model = {"_target_": "tests.helpers.dropout_net"}
    originals, (stage,) = unlearning(task, built_in("fanchuan", epochs=1), model=model)
    wanted = [Pool(originals, (0, 1, 2, 3)), Pool(stage, (0, 1, 2, 3))]
    found = []
    for workers in (0, 1, 2):
        own = type(store)(tmp_path / f"with {workers}")
        own.put_task(task)
        assert fill(own, wanted, workers=workers) == {}
        found.append([stored(own, s, range(4)) for s in (originals, stage)])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert all(identical(a[draw], b[draw]) for draw in range(4))


def test_a_worker_that_dies_is_a_failure_of_its_method_alone(task, store, tmp_path):
    slow = method("traced", log=str(tmp_path / "log"), sleep=0.7)  # in flight whenever the other's worker dies
    originals, (dying, fine) = unlearning(task, method("dies"), slow)
    fill(store, [Pool(originals, (0, 1))])
    failures = fill(store, [Pool(originals, (0, 1)), Pool(dying, (0, 1)), Pool(fine, (0, 1))], workers=2)
    assert failures.keys() == {dying.key}
    assert failures[dying.key].status == "failed"
    assert "worker process died" in failures[dying.key].reason
    assert store.missing(fine.key, (0, 1)) == []


def test_a_worker_that_dies_while_counting_operations_takes_no_other_count_with_it(task, store):
    originals, (dying, *fine) = unlearning(task, method("dies"), built_in("finetune"), built_in("retrain"))
    fill(store, [Pool(originals, (0,))])
    with Executor(store, in_process=False, workers=2) as executor:
        executor.count_flops([dying, *fine])
    assert store.get_record(f"flops-{dying.key}") is None
    assert all(store.get_record(f"flops-{stage.key}")["flops"] > 0 for stage in fine)


# --- processes of their own -----------------------------------------------------------------------------------------


def start(store, tmp_path, name, **settings):
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps({"store": str(store.root), "log": str(tmp_path / "log"), **settings}))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fill_pool", str(file)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc to see which processes live")


def test_two_processes_share_a_pool(store, tmp_path):
    """Each draw is made exactly once, by either; no more at a time than there are core slots."""
    (tmp_path / "meet").mkdir()
    settings = {"n": 6, "workers": 2, "sleep": 0.4, "meet": str(tmp_path / "meet")}
    processes = [start(store, tmp_path, str(i), **settings) for i in range(2)]
    results = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [result["failures"] for result in results] == [{}, {}]
    originals, unlearned, _ = pools({"log": str(tmp_path / "log"), **settings})
    for stage in (originals, unlearned):
        assert store.missing(stage.key, range(6)) == []
        assert sum(result["made"].get(stage.key, 0) for result in results) == 6
    assert all(result["made"] for result in results), results  # both took part
    log = read_log(tmp_path / "log")
    assert [what for what, *_ in log].count("start") == 6
    running = most = 0
    for what, _, _ in sorted(log, key=lambda line: (line[2], line[0] == "start")):
        running += 1 if what == "start" else -1
        most = max(most, running)
    assert 1 <= most <= cores()


@needs_proc
def test_killing_everything_loses_only_what_was_in_flight(store, tmp_path, task):
    settings = {"n": 5, "workers": 2, "sleep": 0.4}
    process = start(store, tmp_path, "first", **settings)
    originals, unlearned, wanted = pools({"log": str(tmp_path / "log"), **settings})
    try:
        wait_until(lambda: len(store.missing(unlearned.key, range(5))) <= 3)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    workers = {pid for _, pid, _ in read_log(tmp_path / "log")}
    wait_until(lambda: not any(map(alive, workers)), 5)

    def times():
        found = {(s.key, d): store.path(s.key, d) for s in (originals, unlearned) for d in range(5)}
        return {which: path.stat().st_mtime_ns for which, path in found.items() if path.exists()}

    before = times()
    assert 7 <= len(before) < 10
    assert fill(store, wanted) == {}
    after = times()
    assert len(after) == 10
    assert {which: after[which] for which in before} == before

    other = type(store)(tmp_path / "uninterrupted")
    other.put_task(task)
    assert fill(other, wanted) == {}
    for stage in (originals, unlearned):
        a, b = stored(store, stage, range(5)), stored(other, stage, range(5))
        assert all(identical(a[d], b[d]) for d in range(5))


@needs_proc
def test_workers_do_not_outlive_the_main_process(store, tmp_path):
    process = start(store, tmp_path, "first", n=2, workers=2, sleep=120.0)
    try:
        wait_until(lambda: len(read_log(tmp_path / "log")) >= min(2, cores()))
        workers = {pid for _, pid, _ in read_log(tmp_path / "log")}
        assert all(map(alive, workers))
        assert process.pid not in workers
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        wait_until(lambda: not any(map(alive, workers)), 5)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


# --- core slots -----------------------------------------------------------------------------------------------------


def test_never_more_at_a_time_than_cores(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(cores_module, "cores", lambda: 2)
    guard, running, most = threading.Lock(), 0, 0

    def work():
        nonlocal running, most
        with core_slot():
            with guard:
                running += 1
                most = max(most, running)
            time.sleep(0.05)
            with guard:
                running -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert most == 2


def test_a_slot_is_given_back_when_its_holder_fails(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(cores_module, "cores", lambda: 1)
    for _ in range(3):
        with pytest.raises(RuntimeError), core_slot():
            raise RuntimeError
