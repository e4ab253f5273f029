"""Weights to start from that are trained inside the run, and tasks on some of a data set's classes."""

from functools import partial

import numpy as np
import pytest
import torch

from harness.benchmark import from_config
from harness.command.compose import configurations
from harness.draws.store import Store
from harness.errors import UserError
from harness.run import fill_first
from harness.task import Source
from harness.tasks.splits import make_task

SMALL = ["experiment=fast_ntk", "data.train_limit=60", "data.test_limit=20", "protocol.n=2", "device=cpu", "workers=1"]


def benchmark(store, *overrides, fill=None):
    ((cfg, method),) = configurations([*SMALL, "train.epochs=2", "pretrain.train.epochs=2", *overrides])
    return from_config(cfg, store, method_name=method, fill=fill)


def test_all_models_start_from_the_weights_trained_first(tmp_path):
    store = Store(tmp_path)
    before = benchmark(store)
    (pool,) = before.prepared.pools
    assert store.missing(pool.stage.key, pool.draws) == [0]  # planning trains nothing
    assert "pretrained" not in before.prepared.model
    after = benchmark(store, fill=partial(fill_first, store=store, quiet=True))
    assert after.prepared.pools == (pool,)
    assert benchmark(store).originals.key == after.originals.key
    assert after.originals.key != before.originals.key

    pretrained, _ = store.get(pool.stage.key, 0, prefix="weights/")
    (draw,) = after.originals.make([1], store)
    trained = {name: tensor for name, tensor in draw.tensors.items() if name.startswith("weights/")}
    convolutions = [name for name, tensor in trained.items() if tensor.ndim == 4]
    (head,) = [name for name, tensor in trained.items() if tensor.ndim == 2]
    assert convolutions
    assert all(torch.equal(trained[name], pretrained[name]) for name in convolutions)  # batch norm and head are trained
    assert not torch.equal(trained[head], pretrained[head])

    store.put(after.originals.key, 1, draw.tensors, draw.facts)
    initial = after.originals.restore([1], store).initial.state()
    counters = [name for name in pretrained if name.endswith("num_batches_tracked")]
    for name in set(pretrained) - set(counters):
        assert torch.equal(initial[name.removeprefix("weights/")], pretrained[name]), name


def test_pretraining_is_on_the_other_classes(tmp_path):
    store = Store(tmp_path)
    made = benchmark(store)
    (pool,) = made.prepared.pools
    task = store.get_task(pool.stage.task_hash)
    assert task.classes == made.task.classes == 5
    both = {row.tobytes() for row in task.images} & {row.tobytes() for row in made.task.images}
    assert not both


def test_unknown_key_of_pretrain(tmp_path):
    with pytest.raises(UserError, match="trian"):
        benchmark(Store(tmp_path), "+pretrain.trian=1")


def source():
    rng = np.random.default_rng(0)
    return Source("made", rng.integers(0, 255, (200, 4, 4, 1), dtype=np.uint8), np.arange(200) % 5, 5)


def test_some_classes_only_renumbered():
    whole = source()
    task = make_task(whole, forget={"kind": "random", "n": 5}, split_seed=0, classes=[4, 1])
    assert task.classes == 2
    for image, label in zip(task.images, task.labels, strict=True):
        (at,) = np.flatnonzero((whole.images == image).all((1, 2, 3)))
        assert whole.labels[at] == [4, 1][label]


@pytest.mark.parametrize("classes", [[1], [1, 1], [1, 5], [-1, 2]])
def test_classes_there_are_not(classes):
    with pytest.raises(UserError, match=r"data\.classes"):
        make_task(source(), forget={"kind": "random", "n": 5}, split_seed=0, classes=classes)
