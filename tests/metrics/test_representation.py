"""Representations against CKA pair by pair, and what it must not depend on."""

import math
from itertools import product

import numpy as np
import pytest

from harness.metrics import Outputs, get_metrics
from harness.metrics.representation import mean_similarities


def cka(x, y):
    """Linear CKA by the textbook: the normalised HSIC of two linear kernels, with an explicit centring matrix."""
    s = len(x)
    centre = np.eye(s) - np.ones((s, s)) / s
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    return np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))


def draws(features):
    return Outputs(np.zeros(features.shape[:2]), None, {}, features=features.astype(np.float32))


def models(rng, n, *, mean, noise, examples=12, size=5, turned=True):
    """Features of n models: a common picture seen with noise, each in axes and at a scale of its own."""
    x = mean + noise * rng.normal(size=(n, examples, size))
    if not turned:
        return x
    axes = np.stack([np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(n)])
    return rng.uniform(0.1, 9, size=(n, 1, 1)) * x @ axes + rng.normal(size=(n, 1, size))


def test_equals_cka_pair_by_pair():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(12, 5))
    u, r = models(rng, 4, mean=mean, noise=0.7), models(rng, 3, mean=mean, noise=0.4)
    between, of_u, of_r = mean_similarities(unlearned=u, retrained=r)
    assert between == pytest.approx(np.mean([cka(x, y) for x, y in product(u, r)]))
    assert of_u == pytest.approx(np.mean([cka(u[i], u[j]) for i in range(4) for j in range(4) if i != j]))
    assert of_r == pytest.approx(np.mean([cka(r[i], r[j]) for i in range(3) for j in range(3) if i != j]))


def test_many_examples_are_done_in_blocks(monkeypatch):
    rng = np.random.default_rng(1)
    u, r = rng.normal(size=(7, 6, 4)), rng.normal(size=(5, 6, 3))  # the widths may differ
    whole = mean_similarities(unlearned=u, retrained=r)
    monkeypatch.setattr("harness.metrics.representation._BLOCK", 2 * 36)
    assert mean_similarities(unlearned=u, retrained=r) == pytest.approx(whole)


def test_rotation_scale_and_shift_of_single_models_play_no_part():
    rng = np.random.default_rng(2)
    mean = rng.normal(size=(12, 5))
    plain = models(rng, 6, mean=mean, noise=0.5, turned=False)
    turned = models(rng, 6, mean=0, noise=0, turned=False)
    axes = np.stack([np.linalg.qr(rng.normal(size=(5, 5)))[0] for _ in range(6)])
    turned = 3 * plain @ axes + 7
    r = models(rng, 6, mean=mean, noise=0.5)
    assert mean_similarities(unlearned=turned, retrained=r) == pytest.approx(
        mean_similarities(unlearned=plain, retrained=r)
    )


def test_null_is_zero_on_average_and_another_picture_is_not():
    rng = np.random.default_rng(3)
    (metric,) = get_metrics(["representation"])
    mean, other = rng.normal(size=(2, 12, 5))

    def distance(first, second):
        found = [
            metric.compute(
                unlearned=draws(models(rng, 8, mean=first, noise=0.5)),
                retrained=draws(models(rng, 8, mean=second, noise=0.5)),
            )["representation_distance"]
            for _ in range(60)
        ]
        return np.mean(found), np.std(found) / np.sqrt(60)

    null, error = distance(mean, mean)
    assert abs(null) < 4 * error
    assert min(np.abs([null])) < 0.01
    different, _ = distance(other, mean)
    assert different > 0.3


def test_exchange_of_the_samples():
    rng = np.random.default_rng(4)
    u, r = draws(rng.normal(size=(5, 9, 4))), draws(rng.normal(size=(6, 9, 4)))
    (metric,) = get_metrics(["representation"])
    assert metric.compute(unlearned=u, retrained=r) == pytest.approx(metric.compute(unlearned=r, retrained=u))


def test_collapsed_models_are_like_nothing():
    rng = np.random.default_rng(5)
    u = rng.normal(size=(3, 9, 4))
    u[1] = u[1, :1]  # one feature vector for all examples
    r = rng.normal(size=(4, 9, 4))
    between, of_u, _ = mean_similarities(unlearned=u, retrained=r)
    alive = u[[0, 2]]
    assert between == pytest.approx(2 / 3 * mean_similarities(unlearned=alive, retrained=r)[0])
    assert of_u == pytest.approx(2 / 6 * cka(*alive))


def test_single_draws_and_errors():
    one = np.random.default_rng(6).normal(size=(1, 4, 3))
    (metric,) = get_metrics(["representation"])
    found = metric.compute(unlearned=draws(one), retrained=draws(one))
    assert found["cka"] == pytest.approx(1.0)
    assert math.isnan(found["representation_distance"])
    with pytest.raises(ValueError, match="same examples"):
        mean_similarities(unlearned=one, retrained=one[:, :2])
    with pytest.raises(ValueError, match=r"shape \[N, S, D\]"):
        mean_similarities(unlearned=one[0], retrained=one)
    with pytest.raises(ValueError, match="needs features of the forget set, which were not kept"):
        metric.compute(unlearned=Outputs(np.zeros((1, 4)), None, {}), retrained=draws(one))
    with pytest.raises(ValueError, match=r"features must have shape \[N, S, D\]"):
        Outputs(np.zeros((1, 5)), None, {}, features=one)
