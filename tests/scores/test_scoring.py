"""From stored logits to numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from harness.draws.stages import EVALUATED, evaluation_index
from harness.draws.store import Damaged, Store
from harness.metrics import Outputs, available, confidences, get_metrics
from harness.scores import scoring
from harness.task import Source, Task
from harness.tasks.splits import make_task

ALL = ["official", "ks", "kl", "accuracy"]
CLASSES = 3


@dataclass(frozen=True)
class FakeStage:
    key: str


def made(kind: str = "random", **forget: object) -> Task:
    source = Source(
        name="made",
        images=np.arange(200, dtype=np.float32).reshape(200, 1, 1, 1),
        labels=np.arange(200) % CLASSES,
        classes=CLASSES,
    )
    return make_task(source, forget={"kind": kind, **(forget or {"n": 30})}, split_seed=0)


@pytest.fixture(scope="module")
def task():
    return made()


def logits_of(task: Task, *, right: dict[str, float], seed: int) -> dict[str, torch.Tensor]:
    """Random logits that are right on the first examples of every split, in the given shares."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name in EVALUATED:
        index = evaluation_index(task, name)
        values = rng.normal(size=(len(index), CLASSES)).astype(np.float32)
        shown = task.labels[index].copy()
        wrong = np.arange(len(index)) >= round(right.get(name, 1.0) * len(index))
        shown[wrong] = (shown[wrong] + 1) % CLASSES
        values[np.arange(len(index)), shown] += 10
        tensors[f"logits/{name}"] = torch.from_numpy(values)
    return tensors


def stored(tmp_path, task: Task, draws: list[dict[str, torch.Tensor]]) -> tuple[Store, FakeStage]:
    store, stage = Store(tmp_path), FakeStage("f" * 32)
    for i, tensors in enumerate(draws):
        store.put(stage.key, i, tensors, {"seconds": 1.5 + i})
    return store, stage


def load(tmp_path, task, draws):
    store, stage = stored(tmp_path, task, draws)
    return scoring.load(store, stage, range(len(draws)), task)


# --- reading --------------------------------------------------------------------------------------------------------


def test_accuracies_and_confidences(tmp_path, task):
    shares = [{"retain": 1.0, "forget": 0.5, "valid": 0.0, "test": 0.75}, {"forget": 0.1}]
    draws = [logits_of(task, right=share, seed=i) for i, share in enumerate(shares)]
    found = load(tmp_path, task, draws)
    n = len(task.splits["test"])
    assert found.outputs.accuracy["retain"].tolist() == [1, 1]
    assert found.outputs.accuracy["forget"].tolist() == [0.5, 0.1]
    assert found.outputs.accuracy["valid"].tolist() == [0, 1]
    assert found.outputs.accuracy["test"].tolist() == [round(0.75 * n) / n, 1]
    assert found.seconds.tolist() == [1.5, 2.5]
    assert found.nan_draws == 0
    labels = task.labels[task.splits["forget"]]
    for i, tensors in enumerate(draws):
        np.testing.assert_array_equal(found.outputs.confidences[i], confidences(tensors["logits/forget"], labels))
    p = torch.softmax(draws[0]["logits/forget"][0].double(), 0)[labels[0]].item()
    assert found.outputs.confidences[0, 0] == pytest.approx(np.log(p / (1 - p)), rel=1e-3)


def test_draws_keep_their_order(tmp_path, task):
    draws = [logits_of(task, right={"forget": i / 10}, seed=i) for i in range(4)]
    store, stage = stored(tmp_path, task, draws)
    found = scoring.load(store, stage, [3, 1], task)
    assert found.outputs.accuracy["forget"].tolist() == pytest.approx([0.3, 0.1])
    assert found[slice(1, 2)].seconds.tolist() == [2.5]


def test_a_forgotten_class_is_left_out_of_test_accuracy(tmp_path):
    task = made("class", label=1)
    tensors = logits_of(task, right={}, seed=0)
    test = task.splits["test"]
    of_class = torch.from_numpy(task.labels[test] == 1)
    tensors["logits/test"][of_class] = torch.tensor([9.0, 0.0, 0.0])  # wrong on the forgotten class, right elsewhere
    assert load(tmp_path, task, [tensors]).outputs.accuracy["test"].tolist() == [1.0]
    tensors["logits/test"][~of_class] = tensors["logits/test"][~of_class].roll(1, dims=1)
    assert load(tmp_path / "b", task, [tensors]).outputs.accuracy["test"].tolist() == [0.0]


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", EVALUATED)
def test_a_draw_without_finite_outputs_counts_as_the_worst(tmp_path, task, where, poison):
    draws = [logits_of(task, right={}, seed=i) for i in range(3)]
    draws[1][f"logits/{where}"][0, 0] = poison
    found = load(tmp_path, task, draws)
    assert found.nan_draws == 1
    for accuracy in found.outputs.accuracy.values():
        assert accuracy.tolist() == [1, 0, 1]
    assert (found.outputs.confidences[1] == scoring.WORST_CONFIDENCE).all()
    assert (found.outputs.confidences[[0, 2]] > 0).all()
    assert np.isfinite(found.outputs.logits).all()
    labels = task.labels[task.splits["forget"]]
    assert (found.outputs.logits[1].argmax(-1) != labels).all()
    assert (found.outputs.logits[0].argmax(-1) == labels).all()
    scores = scoring.score(get_metrics(ALL), unlearned=found.outputs, retrained=found.outputs)
    assert scores["kl"] == 0


def test_worst_confidence_is_where_the_confidence_saturates():
    assert confidences(np.array([[[-1e4, 1e4]]]), np.array([0]))[0, 0] == scoring.WORST_CONFIDENCE


def test_a_damaged_draw_is_reported(tmp_path, task):
    store, stage = stored(tmp_path, task, [logits_of(task, right={}, seed=0)])
    path = store.path(stage.key, 0)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged):
        scoring.load(store, stage, [0], task)


# --- numbers --------------------------------------------------------------------------------------------------------


def gaussian(n: int, s: int, *, seed: int, mean: float = 0.0) -> Outputs:
    rng = np.random.default_rng(seed)
    accuracy = {name: np.clip(rng.normal(0.8, 0.02, n), 0, 1) for name in EVALUATED}
    return Outputs(confidences=rng.normal(mean, 1, (n, s)), logits=None, accuracy=accuracy)


def test_score_is_what_the_metrics_say():
    unlearned, retrained = gaussian(12, 20, seed=0, mean=0.5), gaussian(12, 20, seed=1)
    found = scoring.score(get_metrics(ALL), unlearned=unlearned, retrained=retrained)
    direct = [m.compute(unlearned=unlearned, retrained=retrained) for m in get_metrics(ALL)]
    assert found == {name: value for values in direct for name, value in values.items()}
    swapped = scoring.score(get_metrics(ALL), unlearned=retrained, retrained=unlearned)
    assert swapped["retain_accuracy"] != found["retain_accuracy"]
    ratio = np.prod([unlearned.accuracy[p].mean() / retrained.accuracy[p].mean() for p in ("retain", "test")])
    assert found["score"] == pytest.approx(found["forgetting_quality"] * ratio)


def test_null_values_lie_where_theory_says():
    """KL of Gaussian fits to N + N samples of one Gaussian is about 2/N; scores of fresh pools give the other columns."""
    n, s = 40, 60
    first, second = gaussian(n, s, seed=0), gaussian(n, s, seed=1)
    metrics = get_metrics(["official", "ks", "kl"])
    nulls = scoring.null_values(metrics, first, second, seed=0)
    assert nulls["kl"].mean == pytest.approx(2 / n, rel=0.25)
    assert nulls["ks_rejected"].mean < 0.07
    fresh = [
        scoring.score(metrics, unlearned=gaussian(n, s, seed=10 + i), retrained=gaussian(n, s, seed=50 + i))
        for i in range(20)
    ]
    for name in ("forgetting_quality", "epsilon_median", "ks_statistic", "kl"):
        values = [scores[name] for scores in fresh]
        assert nulls[name].mean == pytest.approx(np.mean(values), rel=0.12), name
        assert nulls[name].low < nulls[name].mean < nulls[name].high
        inside = [nulls[name].low <= value <= nulls[name].high for value in values]
        assert np.mean(inside) >= 0.8, name


def everything(n: int, examples: int, seed: int) -> Outputs:
    """Two classes, features with something in common."""
    rng = np.random.default_rng(seed)
    c = np.linspace(-2, 4, 3 * examples) + rng.normal(size=(n, 3 * examples))
    forget, retain, test = np.split(c, 3, axis=1)
    accuracy = {part: (values > 0).mean(1) for part, values in (("forget", forget), ("retain", retain), ("test", test))}
    features = np.random.default_rng(0).normal(size=(examples, 4)) + rng.normal(size=(n, examples, 4))
    logits = np.stack([forget, np.zeros_like(forget)], axis=2)
    return Outputs(forget, logits, accuracy, test_confidences=test, features=features, cost=rng.uniform(size=n))


def test_every_metric_of_two_fresh_pools_is_at_its_null(monkeypatch):
    """The null from re-splits, averaged over a few sets of models, against the mean over fresh pairs of pools."""
    monkeypatch.setattr(scoring, "NULL_RESPLITS", 40)
    metrics, n, examples, sets, pairs = get_metrics(available()), 16, 12, 4, 40
    nulls = [
        scoring.null_values(metrics, everything(n, examples, 2 * i), everything(n, examples, 2 * i + 1), seed=0)
        for i in range(sets)
    ]
    fresh = [
        scoring.score(
            metrics,
            unlearned=everything(n, examples, 1000 + 2 * i),
            retrained=everything(n, examples, 1001 + 2 * i),
        )
        for i in range(pairs)
    ]
    for name in nulls[0]:
        values = np.array([scores[name] for scores in fresh])
        found = np.mean([null[name].mean for null in nulls])
        error = values.std(ddof=1) * np.sqrt(1 / pairs + 1 / sets)
        assert abs(found - values.mean()) <= 4 * error + 0.01, name
        assert error > 0 or name in ("certified_share", "certified_epsilon_median", "ks_rejected_bh"), name


def test_null_values_follow_their_seed_alone():
    pools = gaussian(8, 5, seed=0), gaussian(8, 5, seed=1)
    metrics = get_metrics(["kl"])
    first, again, other = (scoring.null_values(metrics, *pools, seed=seed)["kl"] for seed in (0, 0, 1))
    assert first == again != other


def test_columns_without_a_null_value_have_none():
    metrics = get_metrics(ALL)
    nulls = scoring.null_values(metrics, gaussian(8, 5, seed=0), gaussian(8, 5, seed=1), seed=0)
    assert set(nulls) == {column.name for m in metrics for column in m.columns if column.null}


def test_below_eight_draws_score_and_its_null_are_absent():
    metrics = get_metrics(ALL)
    pools = gaussian(4, 5, seed=0), gaussian(4, 5, seed=1)
    nulls = scoring.null_values(metrics, *pools, seed=0)
    assert nulls["score"].mean is nulls["score"].low is None
    values = scoring.values(scoring.score(metrics, unlearned=pools[0], retrained=pools[1]), nulls)
    assert values["score"].value is None
    assert values["forgetting_quality"].value is None
    assert values["kl"].value > 0
    assert values["kl"].null.mean > 0


# --- sanity ---------------------------------------------------------------------------------------------------------


def with_accuracy(forget: float, test: float) -> Outputs:
    draws = gaussian(8, 5, seed=0)
    return replace(draws, accuracy={name: np.full(8, forget if name == "forget" else test) for name in EVALUATED})


def test_choices_in_words():
    chosen = [
        {"subset": "bn", "parameters": 2},
        {"subset": "all", "parameters": 10},
        {"subset": "all", "parameters": 11},
    ]
    assert scoring.in_words(chosen) == {"subset": "all (2x), bn (1x)", "parameters": "10 (median)"}
    assert scoring.in_words([{"passed": True}, {"passed": True}]) == {"passed": "True (2x)"}
    assert scoring.in_words([]) == {}


def test_sanity_gate(task):
    assert scoring.sanity_warnings(task, with_accuracy(0.8, 0.8)) == []
    assert scoring.sanity_warnings(task, with_accuracy(0.7, 0.8)) == []  # 30 forget examples allow ± 20 %
    for forget in (1.0, 0.4):
        (warning,) = scoring.sanity_warnings(task, with_accuracy(forget, 0.7))
        assert warning.startswith("SANITY CHECK FAILED")
        assert f"{forget:.1%}" in warning
        assert "70.0%" in warning


def test_sanity_gate_is_tighter_with_more_examples():
    small, large = made(n=5), made(n=100)
    draws = with_accuracy(0.45, 0.7)
    assert scoring.sanity_warnings(small, draws) == []
    assert len(scoring.sanity_warnings(large, draws)) == 1


def test_sanity_gate_is_silent_where_the_sets_differ_by_nature():
    assert scoring.sanity_warnings(made("class", label=0), with_accuracy(0.0, 0.9)) == []
    assert scoring.sanity_warnings(made("mislabelled", n=30), with_accuracy(0.0, 0.9)) == []
