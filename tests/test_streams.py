"""Seeds: pure functions of words, and streams that do not depend on their neighbours."""

import random

import numpy as np
import pytest
import torch

from harness.streams import Rng, global_seed, seed_for


def test_a_seed_is_the_same_for_ever():
    assert seed_for("train", 0, "original", "init", 3) == 285404582849675725
    assert 0 <= seed_for("x") < 2**63


def test_every_part_of_a_seed_counts():
    spellings = [("a", "b"), ("b", "a"), ("ab",), ("a", "b", ""), ("a", "1"), ("a", 1), ("a", 11), ("a", 1, 1), ("a",)]
    assert len({seed_for(*parts) for parts in spellings}) == len(spellings)


def numbers():
    return random.random(), np.random.rand(), float(torch.rand(()))


def test_global_seed_sets_all_three_generators():
    with global_seed(5):
        first = numbers()
    with global_seed(5):
        assert numbers() == first
    with global_seed(6):
        assert all(a != b for a, b in zip(numbers(), first, strict=True))


@pytest.mark.parametrize("fails", [False, True])
def test_global_seed_leaves_the_world_as_it_was(fails):
    def block():
        with global_seed(1):
            numbers()
            if fails:
                raise RuntimeError

    with global_seed(0):
        expected = numbers()
    with global_seed(0):
        if fails:
            with pytest.raises(RuntimeError):
                block()
        else:
            block()
        assert numbers() == expected


DRAWS = {
    "permutation": lambda rng: rng.permutation(7),
    "uniform": lambda rng: rng.uniform(3, 2),
    "integers": lambda rng: rng.integers(5, 4),
    "seeds": lambda rng: torch.tensor(rng.seeds()),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_a_stream_does_not_see_its_neighbours(kind):
    def draw(seeds, *, stacked=True):
        rng = Rng(seeds, stacked=stacked)
        return [DRAWS[kind](rng) for _ in range(3)]  # the streams move on together

    together, reversed_, pair = draw([1, 2, 3]), draw([3, 2, 1]), draw([9, 2])
    alone = draw([2], stacked=False)
    for step in range(3):
        assert torch.equal(together[step][1], pair[step][1])
        assert torch.equal(together[step], reversed_[step].flip(0))
        assert torch.equal(together[step][1], alone[step][0] if kind == "seeds" else alone[step])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together[0][0], together[0][1])


def test_shapes_and_ranges():
    rng = Rng([1, 2], stacked=True)
    assert torch.equal(rng.permutation(6).sort(-1).values, torch.arange(6).expand(2, 6))
    assert rng.uniform(500).min() >= 0
    assert rng.uniform(500).max() < 1
    assert set(rng.integers(3, 200).flatten().tolist()) == {0, 1, 2}
    assert Rng([1], stacked=False).uniform(4).shape == (4,)
    assert Rng([1], stacked=True).uniform(4).shape == (1, 4)


def test_an_unstacked_stream_has_one_seed():
    with pytest.raises(ValueError, match="exactly one seed"):
        Rng([1, 2], stacked=False)
