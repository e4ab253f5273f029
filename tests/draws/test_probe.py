"""Throw-away steps: what they say of one model, and that they leave nothing behind."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from harness.draws import probe as module
from harness.draws.probe import probe
from harness.engine.build import Engine, build_ensemble
from tests.helpers import SMALL_CNN, tiny_options


@pytest.mark.parametrize(("stacked", "models"), [(False, 1), (True, 3)])
def test_seconds_are_of_a_step_of_one_model(monkeypatch, task, stacked, models):
    ticks = itertools.count()
    monkeypatch.setattr(module.time, "perf_counter", lambda: 12.0 * next(ticks))  # one look at the clock is 12 s later
    engine, options = Engine("cpu", stacked), tiny_options()
    assert probe(SMALL_CNN, task, engine=engine, options=options, steps=4, stack=3).seconds == 12 / 4 / models
    assert math.isnan(probe(SMALL_CNN, task, engine=engine, options=options).seconds)  # a warm-up only


def test_bytes_are_of_one_model_and_grow_with_the_batch(task):
    plain, stacked = Engine("cpu", stacked=False), Engine("cpu", stacked=True)
    small, large = (probe(SMALL_CNN, task, engine=plain, options=tiny_options(batch_size=b)) for b in (8, 16))
    net = build_ensemble(SMALL_CNN, task, [0], engine=plain, options=tiny_options())
    assert small.weights == sum(t.numel() * t.element_size() for t in net.state().values())
    assert probe(SMALL_CNN, task, engine=stacked, options=tiny_options()).weights == small.weights
    assert large.activations == pytest.approx(2 * small.activations, rel=0.2)
    assert large.activations > 16 * 8 * 8 * torch.finfo(torch.float64).bits // 8  # more than the batch itself
    assert small.peak == 0
