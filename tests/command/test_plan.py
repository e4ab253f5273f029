"""What a run would take: shown by ``unlearn plan``, and refused by ``unlearn`` where the disk cannot hold it."""

import re
from collections import namedtuple

import pytest
import torch

from harness.benchmark import from_config
from harness.command import cli, compose
from harness.draws import needs
from harness.draws.probe import probe
from harness.draws.store import Store
from harness.errors import UserError
from harness.run import run

ARGUMENTS = [
    "data.train_limit=60", "data.test_limit=20", "forget.n=10", "protocol.n=2", "workers=1", "methods=[finetune]",
    "model.widths=[4,6,8]", "train.epochs=1", "device=cpu",
]  # fmt: skip


def benchmark_of(*arguments):
    ((cfg, method),) = compose.configurations([*ARGUMENTS, *arguments])
    return from_config(cfg, Store(), method_name=method)


def plan(capsys, *arguments):
    assert cli._main(["plan", *ARGUMENTS, *arguments]) == 0
    return capsys.readouterr().out


def disk_with(monkeypatch, free):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda path: usage(10**12, 0, free))


def test_the_plan_shows_cells_time_disk_and_memory(capsys, store):
    text = plan(capsys)
    for stage in ("original", "retrained", "retrain", "identity", "finetune"):
        assert re.search(rf"^ *{stage} +2 +0 +2 ", text, re.MULTILINE), stage
    assert re.search(r"about [\d.]+ minutes", text)
    assert re.search(r"MB of disk in .* MB free\)", text)
    assert re.search(r"GB of memory for 1 workers", text)
    assert not any((store.root / "draws").glob("*/*.safetensors"))


def test_the_plan_shows_what_choosing_the_forget_set_costs(capsys, store):
    text = plan(capsys, "forget=memorised", "forget.models=5")
    assert re.search(r"^ *subset +5 +0 +5 ", text, re.MULTILINE)
    assert "the forget set is chosen when" in " ".join(text.split())


def test_disk_need_is_what_the_files_take(store):
    benchmark = benchmark_of()
    needed = needs.missing_bytes(benchmark.pools(), store)
    for pool in benchmark.pools():
        for draw in pool.draws if pool.stage in (benchmark.originals, benchmark.retrained) else ():
            (made,) = pool.stage.make([draw], store)
            store.put(pool.stage.key, draw, made.tensors, made.facts)
            size = store.path(pool.stage.key, draw).stat().st_size
            estimate = needs.bytes_per_draw(pool.stage, store)
            assert size <= estimate <= size + 2 * 8192
    assert needs.missing_bytes(benchmark.pools(), store) < needed  # stored draws no longer count


def test_a_run_that_does_not_fit_is_refused_with_the_numbers(monkeypatch, store):
    benchmark = benchmark_of()
    disk_with(monkeypatch, 1000)
    with pytest.raises(UserError, match=r"take 0\.00 GB, but the disk of the store .* 0\.00 GB free.*protocol\.n"):
        run(benchmark, store, quiet=True)
    assert not any((store.root / "draws").glob("*/*.safetensors"))
    disk_with(monkeypatch, needs.missing_bytes(benchmark.pools(), store))
    needs.check_disk(benchmark.pools(), store)


def test_the_command_refuses_too_and_the_plan_warns(capsys, monkeypatch, store, tmp_path):
    disk_with(monkeypatch, 1000)
    assert "would refuse to start" in " ".join(plan(capsys).split())
    assert cli._main([*ARGUMENTS, f"out={tmp_path / 'out'}"]) != 0
    assert "GB free" in capsys.readouterr().err


def test_memory_grows_with_batch_and_optimiser(store):
    def memory(*arguments):
        benchmark = benchmark_of(*arguments)
        return needs.memory(benchmark.retrained, benchmark.task)

    small, large = (memory(f"train.batch_size={size}") for size in (8, 32))
    adam = memory("train.batch_size=8", "train.optimizer=adam")
    assert large.model > 2 * small.model
    assert adam.model > small.model
    benchmark = benchmark_of("train.batch_size=32")
    step = probe(
        benchmark.prepared.model, benchmark.task, engine=benchmark.engine, options=benchmark.options.train, steps=2
    )
    assert 0 < step.seconds < 5
    assert step.peak == 0
    inputs = 32 * 8 * 8 * 4
    assert 5 * inputs < step.activations < 200 * inputs  # a few maps of 4 to 8 channels each
    assert torch.get_num_threads() == 1


def test_the_plan_of_an_experiment_that_is_a_sweep(store):
    from harness.command import compose

    arguments = ["experiment=protocol_study", "protocol.n=2,3", "-m"]
    swept = [cfg for cfg, _ in compose.configurations([*arguments, *compose.configured_sweep(arguments)])]
    assert {(cfg.protocol.kind, cfg.protocol.n, cfg.seed) for cfg in swept} == {
        (kind, n, seed) for kind in ("reuse_n_n", "reuse_n_1") for n in (2, 3) for seed in range(5)
    }
    assert compose.configured_sweep(["protocol.n=2"]) == []


def test_looking_at_the_disk_takes_no_training_step(monkeypatch, store):
    """It is part of the start of every run, and a first step imports torch's compiler."""
    benchmark = benchmark_of()
    monkeypatch.setattr(needs, "probe", lambda *arguments, **options: pytest.fail("a step was taken"))
    needs.check_disk(benchmark.pools(), store)
