"""Architectures, and dropout that belongs to one model."""

import pytest
import torch
from torch import nn

from harness import models as architectures
from harness.engine.dropout import use_streams
from harness.models import Dropout
from tests.helpers import SMALL_CNN, fresh, rng_for


def build(spec, seed=0, channels=1):
    return architectures.build(spec, classes=10, channels=channels, seed=seed)


def test_weights_are_a_function_of_the_seed():
    torch.manual_seed(1)
    a, b, c = build(SMALL_CNN, 1).state_dict(), build(SMALL_CNN, 1).state_dict(), build(SMALL_CNN, 2).state_dict()
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not torch.equal(a["0.weight"], c["0.weight"])


@pytest.mark.parametrize("channels", [1, 3])
def test_resnet18_takes_any_number_of_channels(channels):
    net = build({"_target_": "harness.models.resnet18"}, channels=channels)
    assert net.conv1.weight.shape == (64, channels, 7, 7)
    assert net.fc.out_features == 10


def test_every_dropout_is_replaced_even_one_that_is_used_twice():
    drop = nn.Dropout(0.3)
    net = architectures._with_own_dropout(nn.Sequential(nn.Linear(4, 4), drop, nn.Sequential(drop, nn.ReLU()), drop))
    found = [module for module in net.modules() if isinstance(module, nn.Dropout)]
    assert all(type(module) is Dropout and module.p == 0.3 for module in [net[1], net[2][0], net[3], *found])


# --- dropout --------------------------------------------------------------------------------------------------------


def dropout(stream, p=0.3):
    layer = Dropout(p)
    layer.stream.fill_(stream)
    return layer


def test_dropout_keeps_at_the_right_rate_and_scales():
    n, p = 200_000, 0.3
    y = dropout(12345, p)(torch.ones(n))
    assert y.unique().tolist() == [0.0, pytest.approx(1 / (1 - p))]
    kept = int((y > 0).sum())
    assert abs(kept - n * (1 - p)) < 5 * (n * p * (1 - p)) ** 0.5  # five standard deviations of the binomial


def test_dropout_masks_of_different_calls_and_streams_are_independent():
    n, p = 100_000, 0.5
    layer, other = dropout(7, p), dropout(8, p)
    masks = [layer(torch.ones(n)) > 0 for _ in range(3)] + [other(torch.ones(n)) > 0 for _ in range(3)]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert abs(int((a == b).sum()) - n / 2) < 5 * (n / 4) ** 0.5


def test_neighbouring_positions_are_independent():
    mask = dropout(3, 0.5)(torch.ones(64, 1000)) > 0
    for lag in (1, 2, 1000):
        flat = mask.flatten()
        agree = int((flat[lag:] == flat[:-lag]).sum())
        assert abs(agree - (len(flat) - lag) / 2) < 5 * (len(flat) / 4) ** 0.5


def test_dropout_is_off_in_evaluation_and_at_zero():
    x = torch.randn(50)
    layer = dropout(1)
    assert torch.equal(layer.eval()(x), x)
    assert int(layer.calls) == 0
    assert torch.equal(dropout(1, 0.0)(x), x)


def masks(task, streams, *, stacked, steps=2):
    """The masks of two calls in each of ``steps`` steps, [steps, 2, models, n], read off the gradient."""
    models = fresh(task, [0] * len(streams), stacked=stacked, model={"_target_": "tests.helpers.mask_net"})
    use_streams(models, rng_for(models, streams))
    models.train()

    def loss(net, x):
        first, second = net(x), net(x)
        return first.sum() + 1000 * second.sum()

    optimizer = models.sgd(lr=0.0)
    found = []
    for _ in range(steps):
        gradients = models.gradients(loss, torch.zeros(*models.lead, 1))
        models.apply(optimizer, gradients)
        total = gradients["weight"].reshape(models.size, -1) * 0.6
        second = (total / 1000).round()
        found.append(torch.stack([(total - 1000 * second).round(), second]))
    return torch.stack(found)


@pytest.mark.parametrize("stacked", [False, True])
def test_models_calls_and_steps_have_masks_of_their_own(task, stacked):
    streams = [5, 6, 7] if stacked else [5]
    found = masks(task, streams, stacked=stacked)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    rows = found.reshape(-1, found.shape[-1])
    assert len(rows.unique(dim=0)) == len(rows) == 4 * len(streams)
    n, p = rows.numel(), 0.4
    assert abs(float(rows.sum()) - n * (1 - p)) < 5 * (n * p * (1 - p)) ** 0.5


def test_masks_do_not_depend_on_the_neighbours(task):
    together = masks(task, [5, 6, 7], stacked=True)
    assert torch.equal(together[:, :, [1]], masks(task, [6], stacked=True))
    assert torch.equal(together[:, :, [1]], masks(task, [6], stacked=False))
    assert torch.equal(together[:, :, [2, 1]], masks(task, [7, 6], stacked=True))
