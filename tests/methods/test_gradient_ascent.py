"""Gradient ascent: the loss on forget grows."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from harness.engine.training import train
from harness.streams import Rng
from tests.helpers import built_in, data_for, differences, fresh, rng_for, split, tiny_options


def trained(task, stacked):
    models = fresh(task, [1, 2], stacked=stacked)
    order = rng_for(models, [1, 2])
    train(models, split(task, "forget", order), split(task, "valid", order), 10, tiny_options(epochs=20))
    models.train()
    return models


@pytest.mark.parametrize("stacked", [False, True])
def test_the_loss_on_forget_grows(task, stacked):
    models = trained(task, stacked)
    x, y = split(task, "forget", Rng([0], stacked=False)).tensors()

    def loss():
        logits = models.logits(x).reshape(-1, 16, 10)
        return torch.stack([F.cross_entropy(member, y) for member in logits])

    before = loss()
    data = replace(data_for(task, rng_for(models, [5, 6])), retain=None, valid=None)
    built_in("gradient_ascent", lr=0.1).build().unlearn(models, data, rng_for(models, [7, 8]))
    assert (loss() > before + 0.1).all()


def test_it_is_sgd_that_maximises(task):
    models, net = trained(task, False), trained(task, False).template
    data = data_for(task, Rng([5], stacked=False))
    built_in("gradient_ascent", lr=0.05, batch_size=5).build().unlearn(models, data, Rng([7], stacked=False))
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, maximize=True)
    forget = split(task, "forget", Rng([5], stacked=False))
    for _ in range(5):
        for x, y in forget.batches(5):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    assert max(differences(models.state(), net.state_dict()).values()) < 1e-10
