"""Doing nothing."""

import torch
from harness.methods.identity import Identity

from tests.helpers import data_for, fresh, rng_for


def test_nothing_changes(task):
    for stacked in (False, True):
        models = fresh(task, [1, 2], stacked=stacked)
        before = models.state()
        Identity().unlearn(models, data_for(task, rng_for(models, [1, 2])), rng_for(models, [3, 4]))
        assert all(torch.equal(models.state()[name], tensor) for name, tensor in before.items())
