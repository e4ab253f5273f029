"""Batches: every image once per pass, an order of each model's own, augmentation that only moves pixels."""

from dataclasses import fields, replace

import pytest
import torch

from harness.engine.batches import Augment, Data, Split
from harness.streams import Rng
from tests.helpers import ENGINES, data_for, images_of, split

both_engines = pytest.mark.parametrize("stacked", ENGINES.values(), ids=ENGINES)


def streams(stacked, seeds=(1, 2, 3)):
    return Rng(list(seeds) if stacked else [seeds[0]], stacked=stacked)


def numbered(n, rng, channels=1):
    """A split whose labels are its positions."""
    from harness.data.digits import digits
    from harness.tasks.splits import make_task

    task = make_task(digits(), forget={"kind": "random", "n": n}, split_seed=0, train_limit=n + 20, normalise=False)
    task = replace(task, labels=torch.arange(len(task.labels)).numpy())
    return task, Split(images_of(task), torch.from_numpy(task.splits["forget"]), rng)


@both_engines
@pytest.mark.parametrize(
    ("n", "size", "expected"), [(16, 5, [5, 5, 6]), (15, 5, [5, 5, 5]), (7, 16, [7]), (17, 16, [17])]
)
def test_a_trailing_batch_of_one_is_merged(stacked, n, size, expected):
    rng = streams(stacked)
    _, data = numbered(n, rng)
    batches = list(data.batches(size))
    lead = (3,) if stacked else ()
    assert [x.shape for x, _ in batches] == [(*lead, b, 1, 8, 8) for b in expected]
    assert [y.shape for _, y in batches] == [(*lead, b) for b in expected]
    assert data.steps(size) == len(expected)


@both_engines
def test_a_pass_is_a_permutation_of_each_models_own(stacked):
    task, data = numbered(20, streams(stacked))
    passes = [torch.cat([y for _, y in data.batches(6)], -1) for _ in range(3)]
    members = torch.from_numpy(task.splits["forget"])
    for order in passes:
        assert torch.equal(order.sort(-1).values, members.expand_as(order))
    rows = torch.cat([order.reshape(-1, 20) for order in passes])
    assert len(rows.unique(dim=0)) == len(rows)  # no model and no pass repeats an order


@both_engines
def test_images_stay_with_their_labels_and_are_scaled(task, stacked):
    data = split(task, "forget", streams(stacked))
    for x, y in data.batches(5):
        for image, label in zip(x.reshape(-1, 8, 8), y.flatten(), strict=True):
            pixels = image.double() * float(task.std[0]) + float(task.mean[0])
            same = [i for i in task.splits["forget"] if abs(task.images[i, ..., 0] - pixels.numpy()).max() < 1e-4]
            assert any(task.labels[i] == int(label) for i in same)
            assert same


def test_orders_do_not_depend_on_the_neighbours(task):
    together = [y for _, y in split(task, "retain", Rng([1, 2, 3], stacked=True)).batches(16)]
    alone = [y for _, y in split(task, "retain", Rng([2], stacked=False)).batches(16)]
    pair = [y for _, y in split(task, "retain", Rng([2, 7], stacked=True)).batches(16)]
    for a, b, c in zip(together, alone, pair, strict=True):
        assert torch.equal(a[1], b)
        assert torch.equal(c[0], b)


@both_engines
def test_without_shuffling_in_order(stacked):
    task, data = numbered(9, streams(stacked))
    order = torch.cat([y for _, y in data.batches(4, shuffle=False)], -1)
    assert order.shape == ((3, 9) if stacked else (9,))
    assert torch.equal(order, torch.from_numpy(task.splits["forget"]).expand_as(order))


@both_engines
def test_first_batches_goes_round_as_often_as_needed(stacked):
    task, data = numbered(10, streams(stacked))
    batches = [y for _, y in data.first_batches(7, 4)]  # three batches (4, 4, 2) a pass
    assert [y.shape[-1] for y in batches] == [4, 4, 2, 4, 4, 2, 4]
    first = torch.cat(batches[:3], -1)
    assert torch.equal(first.sort(-1).values, torch.from_numpy(task.splits["forget"]).expand_as(first))
    assert list(data.first_batches(0, 4)) == []


@both_engines
def test_random_subset(stacked):
    task, data = numbered(20, streams(stacked))
    subset = data.random_subset(8)
    assert len(subset) == 8
    first, second = (torch.cat([y for _, y in subset.batches(3)], -1).sort(-1).values for _ in range(2))
    assert torch.equal(first, second)  # the same images in every pass
    assert set(first.flatten().tolist()) <= set(task.splits["forget"].tolist())
    assert all(len(row.unique()) == 8 for row in first.reshape(-1, 8))
    ordered = torch.cat([y for _, y in subset.batches(3, shuffle=False)], -1)
    assert torch.equal(ordered.sort(-1).values, first)
    if stacked:
        assert len(first.unique(dim=0)) == 3
        with pytest.raises(ValueError, match="own subset"):
            subset.label_counts(10)
    whole = data.random_subset(20)
    assert sorted(next(y for _, y in whole.batches(20)).reshape(-1, 20)[0].tolist()) == task.splits["forget"].tolist()


def test_label_counts(task):
    data = split(task, "retain", streams(False))
    labels = task.labels[task.splits["retain"]].tolist()
    assert data.label_counts(10).tolist() == [labels.count(c) for c in range(10)]


def test_batch_size_zero():
    with pytest.raises(ValueError, match="at least 1"):
        next(numbered(9, streams(False))[1].batches(0))


# --- augmentation ---------------------------------------------------------------------------------------------------


def ramp(lead, batch=64, height=5, width=6, channels=2):
    return (
        torch.arange(1.0, 1 + height * width * channels)
        .reshape(height, width, channels)
        .expand(*lead, batch, height, width, channels)
    )


@both_engines
def test_flip(stacked):
    lead = (3,) if stacked else ()
    x = ramp(lead)
    y = Augment(flip=True)(x, streams(stacked)).reshape(-1, 5, 6, 2)
    image, mirror = x.reshape(-1, 5, 6, 2)[0], x.reshape(-1, 5, 6, 2)[0].flip(1)
    is_flipped = [bool(torch.equal(one, mirror)) for one in y]
    assert all(flipped or torch.equal(one, image) for one, flipped in zip(y, is_flipped, strict=True))
    n = len(is_flipped)
    assert abs(sum(is_flipped) - n / 2) < 5 * (n / 4) ** 0.5
    if stacked:
        assert len({tuple(is_flipped[64 * m : 64 * m + 64]) for m in range(3)}) == 3


@both_engines
def test_crop_is_a_shift_filled_with_zeros(stacked):
    x = ramp((3,) if stacked else ())
    y = Augment(crop=2)(x, streams(stacked)).reshape(-1, 5, 6, 2)
    image = x.reshape(-1, 5, 6, 2)[0]
    shifts = {}
    for down in range(-2, 3):
        for right in range(-2, 3):
            moved = torch.zeros_like(image)
            for i in range(5):
                for j in range(6):
                    if 0 <= i + down < 5 and 0 <= j + right < 6:
                        moved[i, j] = image[i + down, j + right]
            shifts[down, right] = moved
    found = [next((shift for shift, moved in shifts.items() if torch.equal(one, moved)), None) for one in y]
    assert None not in found
    assert len(set(found)) > 20  # of 25
    if stacked:
        assert len({tuple(found[64 * m : 64 * m + 64]) for m in range(3)}) == 3


@both_engines
def test_augmentation_leaves_labels_alone_and_does_not_depend_on_the_neighbours(task, stacked):
    augment = Augment(flip=True, crop=2)
    plain = list(split(task, "forget", streams(stacked)).batches(16))
    changed = list(split(task, "forget", streams(stacked)).batches(16, augment=augment))
    alone = list(split(task, "forget", streams(False)).batches(16, augment=augment))
    for (x, y), (x_a, y_a), (x_1, y_1) in zip(plain, changed, alone, strict=True):
        assert torch.equal(y, y_a)
        assert x.shape == x_a.shape
        assert not torch.equal(x, x_a)
        assert torch.equal(x_a[0] if stacked else x_a, x_1)
        assert torch.equal(y_a[0] if stacked else y_a, y_1)


# --- what a method sees ---------------------------------------------------------------------------------------------


def test_a_method_sees_no_test_data(task):
    assert {field.name for field in fields(Data)} == {"retain", "forget", "valid", "classes", "training"}
    data = data_for(task, streams(False))
    for name in ("retain", "forget", "valid"):
        assert getattr(data, name)._index.tolist() == task.splits[name].tolist()
