"""A task as a file, and its address."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.task import SPLITS, Source, Task
from harness.tasks.splits import make_task


def made(groups: bool = True, **options: object) -> Task:
    rng = np.random.default_rng(0)
    source = Source(
        name="small",
        images=rng.random((60, 2, 3, 2), dtype=np.float32),
        labels=rng.integers(0, 3, 60),
        classes=3,
        groups=np.arange(60) // 3 if groups else None,
        notes={"skipped": 2},
    )
    return make_task(source, **({"forget": {"kind": "random", "n": 6}, "split_seed": 0} | options))


@pytest.mark.parametrize("groups", [True, False])
def test_round_trip(groups):
    task = made(groups)
    back = Task.from_bytes(task.to_bytes())
    assert back.hash == task.hash
    assert (back.name, back.forget_kind, back.classes) == ("small", "random", 3)
    assert back.notes == task.notes
    assert back.notes["skipped"] == 2
    for name in SPLITS:
        np.testing.assert_array_equal(back.splits[name], task.splits[name])
    for name in ("images", "labels", "retain_sample", "mean", "std", "source_index"):
        before, after = getattr(task, name), getattr(back, name)
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)
    assert (back.groups is None) == (not groups)
    assert not groups or back.groups.tolist() == task.groups.tolist()


def changed(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flat[0] += 1
    return array


@pytest.mark.parametrize("name", ["images", "labels", "mean", "std"])
def test_the_hash_sees_every_value(name):
    task = made()
    assert replace(task, **{name: changed(getattr(task, name))}).hash != task.hash


@pytest.mark.parametrize("name", SPLITS)
def test_the_hash_sees_every_split(name):
    task = made()
    splits = {**task.splits, name: task.splits[name][:-1]}
    assert replace(task, splits=splits).hash != task.hash


def test_the_hash_sees_kind_classes_and_shape_but_not_the_name():
    task = made()
    assert replace(task, forget_kind="class").hash != task.hash
    assert replace(task, classes=4).hash != task.hash
    assert replace(task, images=task.images.reshape(-1, 3, 2, 2)).hash != task.hash
    assert replace(task, name="other", notes={}).hash == task.hash


def test_the_hash_does_not_depend_on_memory_layout():
    task = made()
    turned = np.asfortranarray(task.images)
    assert not turned.flags.c_contiguous
    assert replace(task, images=turned).hash == task.hash


def test_sizes():
    task = made(groups=False)
    assert task.sizes() == {name: len(task.splits[name]) for name in SPLITS}
    assert sum(task.sizes().values()) == len(task.images) == len(task.source_index)
