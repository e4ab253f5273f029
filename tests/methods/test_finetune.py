"""Fine-tuning is an ordinary loop over retain."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from harness.streams import Rng
from tests.helpers import built_in, data_for, differences, fresh, split


def test_it_is_an_ordinary_loop(task):
    models = fresh(task, [1], stacked=False)
    net = fresh(task, [1], stacked=False).template.train()
    models.train()
    data = replace(data_for(task, Rng([5], stacked=False)), forget=None, valid=None)  # neither is looked at
    built_in("finetune", epochs=3, lr=0.1, batch_size=16).build().unlearn(models, data, Rng([6], stacked=False))

    retain = split(task, "retain", Rng([5], stacked=False))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    for lr in (0.1, 0.075, 0.025):  # 0.1 (1 + cos(pi e / 3)) / 2
        optimizer.param_groups[0]["lr"] = lr
        for x, y in retain.batches(16):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    assert max(differences(models.state(), net.state_dict()).values()) < 1e-12


def test_constants_of_the_starter_notebook():
    parameters = built_in("finetune").parameters
    assert parameters == {"epochs": 1, "lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 64}
