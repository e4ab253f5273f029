"""ε over all intervals against a double loop over them, and the properties that the official grid lacks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics import Outputs, exact_epsilons, forgetting_quality, get_metrics, official_epsilons


def brute_force(u, r, delta=1e-5):
    """Every interval between two samples, with either kind as positive, counted literally."""
    best = 0.0
    pooled = np.concatenate([u, r])
    for low in pooled:
        for high in pooled:
            for positive, negative in ((u, r), (r, u)):
                fnr = 1 - ((positive >= low) & (positive <= high)).mean()
                fpr = ((negative >= low) & (negative <= high)).mean()
                fnr = 0.0 if fnr < 1e-12 else fnr
                if fnr == 0 and fpr == 0:
                    return 50.0
                if fnr == 0 or fpr == 0:
                    continue
                for one, other in ((fpr, fnr), (fnr, fpr)):
                    if 1 - delta - one > 0:
                        best = max(best, math.log((1 - delta - one) / other))
    return min(best, 50.0)


def assert_equals_brute_force(u, r, **options):
    expected = [brute_force(u[:, s], r[:, s], **options) for s in range(u.shape[1])]
    np.testing.assert_allclose(exact_epsilons(unlearned=u, retrained=r, **options), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n_u", "n_r"), [(2, 2), (9, 9), (14, 6), (5, 17)])
@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (1.5, 1.0), (0.0, 3.0), (9.0, 1.0)])
def test_brute_force(n_u, n_r, shift, scale):
    rng = np.random.default_rng(n_u)
    assert_equals_brute_force(rng.normal(size=(n_u, 4)), rng.normal(shift, scale, (n_r, 4)))


@pytest.mark.parametrize("step", [0.3, 1.0, 3.0])
def test_brute_force_with_ties(step):
    rng = np.random.default_rng(0)
    u, r = np.rint(rng.normal(size=(12, 12)) / step), np.rint(rng.normal(0.5, 1.5, (10, 12)) / step)
    assert_equals_brute_force(u, r)


def test_other_delta():
    rng = np.random.default_rng(1)
    assert_equals_brute_force(rng.normal(size=(10, 5)), rng.normal(1, 1, (10, 5)), delta=0.05)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=7), st.lists(st.integers(0, 6), min_size=2, max_size=7))
def test_brute_force_on_small_integers(u, r):
    assert_equals_brute_force(np.array(u, float)[:, None], np.array(r, float)[:, None])


def test_symmetric_and_blind_to_the_scale():
    rng = np.random.default_rng(2)
    u, r = rng.normal(size=(40, 20)), rng.normal(0.5, 2, (40, 20))
    epsilons = exact_epsilons(unlearned=u, retrained=r)
    np.testing.assert_array_equal(epsilons, exact_epsilons(unlearned=r, retrained=u))
    np.testing.assert_array_equal(epsilons, exact_epsilons(unlearned=np.exp(u), retrained=np.exp(r)))
    assert not np.allclose(
        official_epsilons(unlearned=u, retrained=r), official_epsilons(unlearned=9 * u, retrained=9 * r)
    )


def test_known_values():
    ramp = np.arange(8.0)
    assert exact_epsilons(unlearned=ramp, retrained=ramp)[0] < 1.5
    assert exact_epsilons(unlearned=np.ones(8), retrained=np.ones(8))[0] == 0.0
    assert exact_epsilons(unlearned=ramp, retrained=ramp + 100)[0] == 50.0
    # 1 of 10 wrong on either side at best, with a threshold: log((1 − δ − 0.1)/0.1)
    u, r = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 20.0]), np.array([5.5, *range(11, 20)])
    assert exact_epsilons(unlearned=u[:-1], retrained=r)[0] == pytest.approx(
        math.log((1 - 1e-5 - 1 / 9) / 0.1), abs=1e-12
    )


@pytest.mark.parametrize(("n", "low", "high"), [(32, 0.075, 0.105), (64, 0.055, 0.085)])
def test_null_forgetting_quality(n, low, high):
    rng = np.random.default_rng(3)
    epsilons = exact_epsilons(unlearned=rng.normal(size=(n, 600)), retrained=rng.normal(size=(n, 600)))
    assert low < forgetting_quality(epsilons, n=n) < high


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(4)
    u, r = rng.normal(size=(16, 30)), rng.normal(1, 1, (16, 30))
    whole = exact_epsilons(unlearned=u, retrained=r)
    monkeypatch.setattr("harness.metrics.exact._CHUNK_SAMPLES", 100)
    np.testing.assert_array_equal(whole, exact_epsilons(unlearned=u, retrained=r))


def test_metric():
    (metric,) = get_metrics(["exact"])
    rng = np.random.default_rng(5)
    u, r = (Outputs(confidences=rng.normal(size=(16, 30)), logits=None, accuracy={}) for _ in range(2))
    epsilons = exact_epsilons(unlearned=u.confidences, retrained=r.confidences)
    got = metric.compute(unlearned=u, retrained=r)
    assert got["exact_forgetting_quality"] == forgetting_quality(epsilons, n=16)
    assert got["exact_epsilon_median"] == np.median(epsilons)


@pytest.mark.parametrize(
    ("u", "r", "message"),
    [
        (np.zeros((4, 2)), np.zeros((4, 3)), "same examples, got S = 2 and 3"),
        (np.zeros((1, 2)), np.zeros((4, 2)), "unlearned must hold at least 2 draws"),
        (np.zeros((4, 2)), np.full((4, 2), np.nan), "retrained holds values that are not finite"),
    ],
)
def test_errors(u, r, message):
    with pytest.raises(ValueError, match=message):
        exact_epsilons(unlearned=u, retrained=r)
