"""From a source to a task: what is kept together, what is left out, and what is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.benchmark import from_config
from harness.command.compose import configurations
from harness.draws.store import Store
from harness.errors import UserError
from harness.task import SPLITS, Source, Task
from harness.tasks.splits import make_task

DIGITS_HASH = "3e6d4165c036b5029f7944677853636a"
WRITERS_HASH = "8299cdf4acdc9085bd41e518063c728f"
CLASSES = 4
KINDS = {
    "random": {"kind": "random", "n": 30},
    "class": {"kind": "class", "label": 1},
    "class_part": {"kind": "class_part", "label": 1, "n": 15},
    "mislabelled": {"kind": "mislabelled", "n": 30},
    "groups": {"kind": "groups", "n": 4},
}


def source(*, n: int = 400, distinct: int = 130, groups: bool = False, official: bool = False, seed: int = 0) -> Source:
    """``n`` images of which only ``distinct`` differ; copies carry different labels and belong to different people."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (distinct, 3, 3, 1), dtype=np.uint8)
    which = np.concatenate([np.arange(distinct), rng.integers(0, distinct, n - distinct)])
    return Source(
        name="copies",
        images=images[which],
        labels=rng.integers(0, CLASSES, n),
        classes=CLASSES,
        groups=rng.integers(0, 40, n) if groups else None,
        official_test=np.arange(n) >= n - 80 if official else None,
    )


def plain(n: int = 200, **fields: object) -> Source:
    """Images that all differ."""
    images = np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1)
    return replace(Source(name="plain", images=images, labels=np.arange(n) % CLASSES, classes=CLASSES), **fields)


def split(data: Source, kind: str = "random", **options: object) -> Task:
    return make_task(data, **({"forget": KINDS[kind], "split_seed": 0} | options))


def contents(task: Task) -> dict[str, set[bytes]]:
    return {name: {task.images[i].tobytes() for i in task.splits[name]} for name in SPLITS}


def people(task: Task) -> dict[str, set[int]]:
    return {name: set(task.groups[task.splits[name]].tolist()) for name in SPLITS}


# --- what may not be torn apart -------------------------------------------------------------------------------------


@pytest.mark.parametrize("official", [False, True], ids=["own-test", "official-test"])
@pytest.mark.parametrize(("kind", "groups"), [(k, g) for k in KINDS for g in (False, True) if g or k != "groups"])
def test_no_image_is_in_two_splits(kind, groups, official):
    seen = 0
    for seed in range(4):
        data = source(groups=groups, official=official, seed=seed)
        task = split(data, kind, split_seed=seed)
        indices = np.concatenate([task.splits[name] for name in SPLITS])
        assert len(np.unique(indices)) == len(indices) == len(task.images)
        found = contents(task)
        assert not found["retain"] & found["forget"]
        assert not found["valid"] & (found["retain"] | found["forget"])
        others = found["retain"] | found["forget"] | found["valid"]
        if official:
            copies = sum(task.images[i].tobytes() in others for i in task.splits["test"])
            assert (
                task.notes["copies_across_official_test"] >= copies > 0
            )  # some of their twins were left out of retain
            assert len(task.splits["test"]) == 80  # and not moved
        else:
            assert not found["test"] & others
        seen += len(indices)
    assert seen > 400


def test_copies_under_another_class_leave_retain():
    data = plain(40)
    images = data.images.copy()
    images[1::4] = images[0::4]  # every image of class 1 is also there as class 0
    task = split(replace(data, images=images), forget={"kind": "class", "label": 0}, test_fraction=0.1)
    assert task.notes["copies_left_out_of_retain"] == len(task.splits["forget"]) > 5
    assert set(task.labels[task.splits["retain"]]) == {2, 3}
    assert set(task.labels[task.splits["forget"]]) == {0}


@pytest.mark.parametrize("kind", ["groups", "random", "class"])
def test_people_stay_together(kind):
    for seed in range(4):
        task = split(source(groups=True, distinct=400, seed=seed), kind, split_seed=seed)
        found = people(task)
        assert not found["valid"] & (found["retain"] | found["forget"])
        assert not found["test"] & (found["valid"] | found["retain"] | found["forget"])
        if kind == "groups":
            assert len(found["forget"]) == 4
            assert not found["forget"] & found["retain"]


def test_chosen_people():
    data = source(groups=True, distinct=400)
    inside = sorted(people(split(data))["retain"])[:2]
    task = split(data, forget={"kind": "groups", "n": 10, "ids": inside})
    assert people(task)["forget"] == set(inside)


def test_official_test_is_kept_whole_or_sampled():
    data = source(official=True)
    whole = split(data)
    assert set(whole.source_index[whole.splits["test"]]) == set(range(320, 400))
    some = split(data, test_limit=30)
    assert len(some.splits["test"]) == 30
    assert set(some.source_index[some.splits["test"]]) < set(range(320, 400))


# --- determinism ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_split_seed_decides(kind):
    hashes = [split(source(groups=True), kind, split_seed=seed).hash for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_global_generators_play_no_part():
    hashes = []
    for seed in range(2):
        np.random.seed(seed)
        hashes.append(split(source()).hash)
    assert hashes[0] == hashes[1]


def task_of(tmp_path: Path, *overrides: str) -> Task:
    ((cfg, method),) = configurations(list(overrides))
    return from_config(cfg, Store(tmp_path), method_name=method).task


def test_default_task_is_the_same_on_every_machine(tmp_path):
    task = task_of(tmp_path)
    assert task.sizes() == {"retain": 320, "forget": 80, "valid": 150, "test": 1078}
    assert task.hash == DIGITS_HASH


def test_writers_task_is_the_same_on_every_machine(tmp_path):
    if "UNLEARN_DATA" not in os.environ:
        pytest.skip("UNLEARN_DATA is not set: the writers' task is NOT checked")
    path = f"data.path={os.environ['UNLEARN_DATA']}/mnist_writers.npz"
    sizes = ["data.train_limit=3000", "data.valid_fraction=0.1", "data.test_limit=2000", "forget.n=3"]
    task = task_of(tmp_path, "data=npz", path, "forget=groups", *sizes)
    found = people(task)
    assert len(found["forget"]) == 3
    assert not any(found[a] & found[b] for a in SPLITS for b in SPLITS if a < b)
    assert task.sizes()["retain"] + task.sizes()["forget"] <= 3000
    assert task.sizes()["test"] == 2000
    assert task.hash == WRITERS_HASH


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [False, True], ids=["images", "people"])
def test_limits(groups):
    data = source(distinct=400, groups=groups)
    task = split(data, train_limit=120, test_limit=50, valid_fraction=0.25)
    sizes = task.sizes()
    train = sizes["retain"] + sizes["forget"]
    slack = 20 if groups else 0  # whole people only, at most about 20 images each
    assert 120 - slack <= train <= 120
    assert 50 - slack <= sizes["test"] <= 50
    assert 30 - slack <= sizes["valid"] <= 30


def test_fractions():
    task = split(plain(), valid_fraction=0.25, test_fraction=0.25)
    assert task.sizes() == {"retain": 90, "forget": 30, "valid": 30, "test": 50}


def test_retain_sample_is_a_part_of_retain():
    small = split(plain())
    assert small.retain_sample.tolist() == small.splits["retain"].tolist()
    big = split(plain(2000))
    assert len(big.retain_sample) == len(np.unique(big.retain_sample)) == 500
    assert np.isin(big.retain_sample, big.splits["retain"]).all()


def test_normalisation():
    images = np.random.default_rng(0).integers(0, 256, (300, 2, 2, 3), dtype=np.uint8)
    data = plain(300, images=images)
    task = split(data)
    train = images[task.source_index[np.concatenate([task.splits[n] for n in ("retain", "forget", "valid")])]]
    np.testing.assert_allclose(task.mean, train.reshape(-1, 3).mean(0), atol=1e-4)
    np.testing.assert_allclose(task.std, train.reshape(-1, 3).std(0), atol=1e-4)
    raw = split(data, normalise=False)
    assert raw.mean.tolist() == [0, 0, 0]
    assert raw.std.tolist() == [1, 1, 1]


def test_constant_images_do_not_divide_by_zero():
    task = split(
        plain(50, images=np.full((50, 2, 2, 1), 7, np.uint8) + np.arange(50, dtype=np.uint8)[:, None, None, None])
    )
    assert (task.std > 0).all()


# --- labels ---------------------------------------------------------------------------------------------------------


def test_label_noise():
    data = plain(3000)
    noisy = split(data, label_noise=0.2)
    for name in SPLITS:
        index = noisy.splits[name]
        wrong = noisy.labels[index] != data.labels[noisy.source_index[index]]
        if len(index) > 100:
            assert 0.14 < wrong.mean() < 0.26, name  # in every split alike
    wrong = noisy.labels != data.labels[noisy.source_index]
    assert 0.17 < wrong.mean() < 0.23
    shifts = (noisy.labels - data.labels[noisy.source_index])[wrong] % CLASSES
    assert set(shifts) == {1, 2, 3}
    assert np.bincount(shifts)[1:].min() > len(shifts) / CLASSES - 20  # uniform over the wrong labels
    assert (split(data).labels == data.labels[split(data).source_index]).all()


def test_label_noise_treats_copies_alike():
    data = source(n=900, distinct=200)
    first = np.unique(data.images.reshape(900, -1), axis=0, return_inverse=True)[1].ravel()
    data = replace(data, labels=first % CLASSES)
    task = split(data, label_noise=0.5)
    labels: dict[bytes, set[int]] = {}
    for image, label in zip(task.images, task.labels, strict=True):
        labels.setdefault(image.tobytes(), set()).add(int(label))
    assert all(len(found) == 1 for found in labels.values())


def test_mislabelled_images_are_really_wrong():
    data = plain(1000)
    for noise in (0.0, 0.4):
        task = split(data, forget={"kind": "mislabelled", "n": 300}, label_noise=noise)
        wrong = task.labels != data.labels[task.source_index]
        assert wrong[task.splits["forget"]].all()
        if not noise:
            assert not wrong[task.splits["retain"]].any()
            assert not wrong[task.splits["test"]].any()


def test_a_forgotten_class_is_not_scored_on_test():
    task = split(plain(), "class")
    assert task.forgotten_class == 1
    assert set(task.labels[task.splits["forget"]]) == {1}
    assert 1 not in task.labels[task.splits["retain"]]
    assert set(task.labels[task.splits["test"]]) == {0, 1, 2, 3}
    assert set(task.labels[task.scored_test()]) == {0, 2, 3}
    other = split(plain(), "class_part")
    assert other.forgotten_class is None
    assert other.scored_test().tolist() == other.splits["test"].tolist()


# --- what is refused ------------------------------------------------------------------------------------------------

REFUSED = {
    "forget: unknown": ({"forget": {"kind": "randm", "n": 3}}, "unknown forget set 'randm': did you mean random"),
    "forget: none": ({"forget": {"kind": "random", "n": 0}}, r"forget.n=0: expected a whole number from 1 to \d+"),
    "forget: negative": ({"forget": {"kind": "random", "n": -2}}, "forget.n=-2: expected"),
    "forget: all": ({"forget": {"kind": "random", "n": 145}}, "forget.n=145: expected a whole number from 1 to 144"),
    "forget: too many": ({"forget": {"kind": "mislabelled", "n": 999}}, r"forget.n=999: .*there are 145 training images"),
    "forget: a fraction": ({"forget": {"kind": "random", "n": 0.1}}, "forget.n=0.1: expected a whole number"),
    "forget: a word": ({"forget": {"kind": "random", "n": "many"}}, "forget.n=many: expected a whole number"),
    "forget: nothing given": ({"forget": {"kind": "random"}}, "forget.n is missing: expected a value"),
    "forget: unknown key": ({"forget": {"kind": "random", "n": 3, "label": 1}}, "unknown key 'forget.label': known: kind, n"),
    "class: too high": ({"forget": {"kind": "class", "label": 4}}, "forget.label=4: expected a class from 0 to 3"),
    "class: negative": ({"forget": {"kind": "class", "label": -1}}, "forget.label=-1: expected a class from 0 to 3"),
    "class: a word": ({"forget": {"kind": "class", "label": "cat"}}, "forget.label=cat: expected a class, a whole number from 0"),
    "groups: no people": ({"forget": {"kind": "groups", "n": 3}}, "forget=groups needs data with group ids.*'plain' has none"),
    "train_limit=0": ({"train_limit": 0}, "data.train_limit=0: expected a whole number from 1, or null"),
    "train_limit word": ({"train_limit": "x"}, "data.train_limit=x: expected"),
    "test_limit<0": ({"test_limit": -5}, "data.test_limit=-5: expected"),
    "test_fraction=1": ({"test_fraction": 1.0}, "data.test_fraction=1.0: expected a share between 0 and 1"),
    "test_fraction=0": ({"test_fraction": 0}, "data.test_fraction=0: expected a share between 0 and 1"),
    "valid_fraction=0": ({"valid_fraction": 0}, "data.valid_fraction=0: expected a number above 0"),
    "valid_fraction=nan": ({"valid_fraction": float("nan")}, "data.valid_fraction=nan: expected"),
    "no room for valid": ({"train_limit": 40, "valid_fraction": 0.001}, r"valid \(0\) and test \(40\) sets must not be empty"),
    "no room for training": ({"test_limit": 199}, r"forget.n=30: there are only [01] training images"),
    "label_noise=1": ({"label_noise": 1.0}, "data.label_noise=1.0: expected a share from 0 up to, but not including, 1"),
    "label_noise<0": ({"label_noise": -0.1}, "data.label_noise=-0.1: expected a share"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    options, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        split(plain(), **options)


def test_empty_sets_are_named():
    with pytest.raises(UserError, match=r"forget=class leaves the forget set empty: 145 training images, 0 chosen"):
        split(plain(classes=9), forget={"kind": "class", "label": 8})
    one = plain(labels=np.zeros(200, int))
    with pytest.raises(UserError, match="forget=class leaves the retain set empty: 145 training images, 145 chosen"):
        split(one, forget={"kind": "class", "label": 0})


def test_people_that_are_not_there():
    data = source(groups=True, distinct=400)
    with pytest.raises(UserError, match=r"forget.ids: no training images of groups \[4711\]"):
        split(data, forget={"kind": "groups", "n": 3, "ids": [4711]})
    with pytest.raises(UserError, match=r"forget.n=400: expected a whole number from 1 to \d+ \(there are \d+ groups"):
        split(data, forget={"kind": "groups", "n": 400})
    with pytest.raises(UserError, match=r"groups in the training set"):
        split(data, forget={"kind": "groups", "n": 0})
