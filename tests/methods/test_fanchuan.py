"""fanchuan: scatter once, then contrast and repair, each with its optimiser."""

import math
from dataclasses import replace

import pytest
import torch

from harness.engine.losses import cross_entropy, divergence_from_uniform
from harness.streams import Rng
from tests.helpers import built_in, data_for, fresh, rng_for


def method(**changes):
    return built_in("fanchuan", **changes).build()


def identity(x):
    return x


def logits(n, seed):
    return torch.randn(n, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_contrastive_loss_is_a_double_sum():
    forget, retain = logits(3, 0), logits(5, 1)
    found = method(temperature=1.15).contrastive(identity, forget, retain)
    total = 0.0
    for i in range(3):
        similar = [(forget[i] @ retain[j]).item() / 1.15 for j in range(5)]
        total += sum(-math.log(math.exp(similar[j]) / sum(map(math.exp, similar))) for j in range(5))
    assert float(found) == pytest.approx(total / (3 * 5), rel=1e-12)


def test_retain_logits_carry_no_gradient():
    forget, retain = logits(3, 0), logits(5, 1)
    gradients = torch.autograd.grad(
        method().contrastive(identity, forget, retain), [forget, retain], allow_unused=True, materialize_grads=True
    )
    assert float(gradients[0].abs().sum()) > 0
    assert float(gradients[1].abs().sum()) == 0


def test_scatter_is_the_divergence_of_the_prediction_from_uniform():
    x = logits(4, 2)
    p = x.softmax(-1)
    expected = sum(0.1 * math.log(0.1 / float(p[i, c])) for i in range(4) for c in range(10)) / 4
    assert float(divergence_from_uniform(identity, x)) == pytest.approx(expected, rel=1e-12)
    assert float(divergence_from_uniform(identity, torch.zeros(2, 10))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("stacked", [False, True])
def test_order_and_learning_rates(task, monkeypatch, stacked):
    models = fresh(task, [1, 2], stacked=stacked)
    models.train()
    steps, optimizers = [], []
    step = models.step

    def spy(optimizer, loss, *batch):
        if optimizer not in optimizers:
            optimizers.append(optimizer)
        group = optimizer.param_groups[0]
        phase = {divergence_from_uniform: "scatter", cross_entropy: "repair"}.get(loss, "contrast")
        steps.append((phase, optimizers.index(optimizer), group["lr"], [b.shape[len(models.lead)] for b in batch]))
        step(optimizer, loss, *batch)

    monkeypatch.setattr(models, "step", spy)
    data = replace(data_for(task, rng_for(models, [1, 2])), valid=None)
    method(epochs=3, forget_batch_size=4, retain_batch_size=8).unlearn(models, data, rng_for(models, [3, 4]))

    # 16 forget images make 4 batches; 44 retain images make 6, the last of 4
    epoch = ["contrast"] * 4 + ["repair"] * 6
    assert [phase for phase, *_ in steps] == ["scatter"] * 4 + epoch * 3
    assert {(phase, number) for phase, number, *_ in steps} == {("scatter", 0), ("contrast", 1), ("repair", 2)}
    assert {lr for phase, _, lr, _ in steps if phase == "scatter"} == {5e-3}
    assert {lr for phase, _, lr, _ in steps if phase == "repair"} == {1e-3 * 8 / 64}
    rates = [lr for phase, _, lr, _ in steps if phase == "contrast"]
    assert rates == pytest.approx([1e-6 + (3e-4 - 1e-6) * (1 + math.cos(math.pi * t / 12)) / 2 for t in range(12)])
    assert optimizers[1].param_groups[0]["lr"] == pytest.approx(1e-6)
    assert [o.param_groups[0]["momentum"] for o in optimizers] == [0.9] * 3
    assert [o.param_groups[0]["weight_decay"] for o in optimizers] == [0, 0, 1e-2]
    sizes = [sizes for phase, _, _, sizes in steps if phase == "contrast"]
    assert sizes == [[4, 8]] * 12
    assert [sizes for phase, _, _, sizes in steps if phase == "repair"][:6] == [[8, 8]] * 5 + [[4, 4]]


def test_constants():
    parameters = built_in("fanchuan").parameters
    assert parameters["epochs"] == 8
    assert parameters["temperature"] == 1.15
    assert (parameters["forget_batch_size"], parameters["retain_batch_size"]) == (64, 256)


def test_scatter_flattens_the_predictions_on_forget(task):
    models = fresh(task, [1], stacked=False)
    models.train()
    data = data_for(task, Rng([5], stacked=False))
    x, _ = data.forget.tensors()

    def distance():
        return float(divergence_from_uniform(models.template, x))

    before = distance()
    optimizer = models.sgd(lr=5e-3, momentum=0.9)
    for _ in range(10):
        models.step(optimizer, divergence_from_uniform, x)
    assert distance() < before
