"""Retraining from scratch: of the original nothing is left, of forget nothing is seen."""

from dataclasses import replace

import pytest
import torch
from harness.methods.retrain import Retrain

from harness.engine.dropout import use_streams
from harness.engine.training import train
from harness.models import build
from harness.streams import Rng
from tests.helpers import DROPOUT_NET, SMALL_CNN, data_for, fresh, rng_for, split, tiny_options


def retrained(task, original_seeds, *, stacked, model=SMALL_CNN, scale=1.0):
    models = fresh(task, original_seeds, stacked=stacked, model=model)
    models.map_weights(lambda net: net[0].weight.mul_(scale), rng_for(models, [0, 0]))
    use_streams(models, rng_for(models, [20, 21]))
    models.train()
    data = replace(data_for(task, rng_for(models, [5, 6])), forget=None)  # any look at forget would fail
    Retrain().unlearn(models, data, rng_for(models, [7, 8]))
    return models


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("model", [SMALL_CNN, DROPOUT_NET], ids=["small_cnn", "dropout"])
def test_nothing_is_left_of_the_original(task, stacked, model):
    a = retrained(task, [1, 2], stacked=stacked, model=model).state()
    b = retrained(task, [3, 4], stacked=stacked, model=model, scale=100.0).state()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_it_is_training_from_fresh_weights_on_retain(task):
    (seed,) = Rng([7], stacked=False).seeds()
    expected = fresh(task, [0], stacked=False)
    expected.assign(build(SMALL_CNN, classes=10, channels=1, seed=seed).double().state_dict())
    order = Rng([5], stacked=False)
    train(expected, split(task, "retain", order), split(task, "valid", order), 10, tiny_options())
    found = retrained(task, [1], stacked=False).state()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.state().items())


def test_models_differ(task):
    state = retrained(task, [1, 1], stacked=True, model=DROPOUT_NET).state()
    assert not torch.equal(*state["0.weight"])
    streams = [tuple(t.tolist()) for name, t in state.items() if name.endswith("stream")]
    assert all(a != b for a, b in streams)  # each keeps its dropout stream
