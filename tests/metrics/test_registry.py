"""Finding metrics by name, declaring new ones, and the shape of what they are given."""

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from harness.metrics import Column, Outputs, available, get_metrics, registry
from harness.metrics.base import FunctionMetric, metric
from harness.scores.intervals import intervals

COLUMN = Column(name="spread", direction="closer", ideal=1.0, range=(0.0, 9.0), meaning="ratio of spreads")


@metric(name="spread", needs={"confidences"}, columns=(COLUMN,))
def spread(*, unlearned, retrained):
    return {"spread": float(unlearned.confidences.std() / retrained.confidences.std())}


@metric(name="spread_too", needs={"confidences"}, columns=(COLUMN,))
def spread_too(*, unlearned, retrained):
    return {"spread": 1.0}


def draws(n=4, s=3):
    return Outputs(confidences=np.arange(float(n * s)).reshape(n, s), logits=None, accuracy={"test": np.ones(n)})


@pytest.fixture
def plug_in(monkeypatch):
    """Pretend that an installed package offers metrics under these names."""

    def install(**places):
        points = [
            EntryPoint(name=name, value=value, group=registry.ENTRY_POINT_GROUP) for name, value in places.items()
        ]
        monkeypatch.setattr(
            registry, "entry_points", lambda *, group: points if group == registry.ENTRY_POINT_GROUP else []
        )

    return install


def test_built_ins():
    assert {"official", "ks", "kl", "accuracy"} <= set(available())
    assert [m.name for m in get_metrics(["kl", "official", "ks", "accuracy"])] == ["kl", "official", "ks", "accuracy"]
    assert get_metrics([]) == []


def test_columns_are_explained_and_unique():
    columns = [column for m in get_metrics(sorted(registry._BUILT_IN)) for column in m.columns]
    names = [column.name for column in columns]
    assert len(set(names)) == len(names)
    for column in columns:
        assert column.meaning
        assert "\n" not in column.meaning
        assert column.range[0] < column.range[1]
        assert column.ideal is None or column.range[0] <= column.ideal <= column.range[1]


@pytest.mark.parametrize("name", sorted(registry._BUILT_IN))
@pytest.mark.parametrize("n", [2, 3, 5, 16])
def test_every_metric_fills_its_columns_within_their_range(name, n):
    rng = np.random.default_rng(n)

    def pool(shift):
        logits = rng.normal(size=(n, 6, 3)) + shift
        return Outputs(
            confidences=logits[..., 0] - np.logaddexp(logits[..., 1], logits[..., 2]),
            logits=logits,
            accuracy={part: rng.uniform(size=n) for part in ("retain", "forget", "test")},
            test_confidences=rng.normal(size=(n, 9)),
            features=rng.normal(size=(n, 6, 4)) + np.arange(6)[:, None],
        )

    (found,) = get_metrics([name])
    assert found.name == name
    values = found.compute(unlearned=pool(0.0), retrained=pool(np.array([0.5, 0.0, 0.0])))
    for column in found.columns:
        value = values[column.name]
        assert np.isnan(value) or column.range[0] <= value <= column.range[1]
        assert n < 8 or not np.isnan(value)


@pytest.mark.parametrize("name", sorted(registry._BUILT_IN))
def test_no_metric_trips_over_draws_without_spread(name):
    logits = np.tile(np.array([60.0, -60.0]), (8, 4, 1))
    same = Outputs(
        confidences=np.full((8, 4), 103.6),
        logits=logits,
        accuracy={part: np.ones(8) for part in ("retain", "forget", "test")},
        test_confidences=np.full((8, 4), 103.6),
        features=np.ones((8, 4, 3)),
    )
    (found,) = get_metrics([name])
    values = found.compute(unlearned=same, retrained=same)
    ideal = {"epsilon_median": 0.0, "exact_forgetting_quality": 1.0, "gaussian_forgetting_quality": 1.0, "certified_share": 0.0,
             "wasserstein": 0.0, "jensen_shannon": 0.0, "class_js": 0.0, "disagreement_excess": 0.0, "u_lira_auc": 0.5,
             "ks_rejected_bh": 0.0, "loss_attack_gap": 0.0, "representation_distance": 0.0}  # fmt: skip
    assert all(np.isfinite(value) for value in values.values())
    for column, value in values.items():
        assert value == pytest.approx(ideal.get(column, value), abs=1e-12), column


def test_unknown_name_suggests_a_near_one():
    with pytest.raises(ValueError, match="unknown metric 'offical'; did you mean 'official'"):
        get_metrics(["ks", "offical"])
    with pytest.raises(ValueError, match=r"unknown metric 'zzzzz'; known: accuracy, .*official"):
        get_metrics(["zzzzz"])


def test_two_metrics_must_not_fill_one_column(plug_in):
    plug_in(first="tests.metrics.test_registry:spread", second="tests.metrics.test_registry:spread_too")
    assert [m.name for m in get_metrics(["first"])] == ["spread"]
    with pytest.raises(ValueError, match="metrics 'spread' and 'spread_too' both have a column 'spread'"):
        get_metrics(["first", "second"])


def test_a_metric_may_look_at_the_cost():
    column = Column(name="seconds", direction="lower", ideal=0.0, range=(0.0, np.inf), meaning="mean time of a draw")

    @metric(name="seconds", needs={"cost"}, columns=(column,))
    def seconds(*, unlearned, retrained):
        return {"seconds": float(unlearned.cost.mean())}

    known = Outputs(np.zeros((3, 2)), None, {}, cost=np.array([1.0, 2.0, 6.0]))
    assert seconds.compute(unlearned=known, retrained=known) == {"seconds": 3.0}
    assert seconds.compute(unlearned=known.take(np.array([0, 1])), retrained=known) == {"seconds": 1.5}
    assert known.joined(known).cost.tolist() == [1, 2, 6, 1, 2, 6]
    with pytest.raises(ValueError, match="needs the time of every draw, which were not kept"):
        seconds.compute(unlearned=known, retrained=draws(3, 2))
    with pytest.raises(ValueError, match=r"cost must have shape \[3\]"):
        Outputs(np.zeros((3, 2)), None, {}, cost=np.zeros(2))


def test_a_string_is_not_a_list():
    with pytest.raises(TypeError, match="got the string 'ks'"):
        get_metrics("ks")


def test_twice():
    with pytest.raises(ValueError, match="given twice: ks"):
        get_metrics(["ks", "kl", "ks"])


def test_plug_in(plug_in):
    plug_in(spread=f"{__name__}:spread")
    assert "spread" in available()
    (found,) = get_metrics(["spread"])
    assert found.name == "spread"
    assert found.compute(unlearned=draws(), retrained=draws()) == {"spread": 1.0}


def test_plug_in_that_is_no_metric(plug_in):
    plug_in(odd="math:pi")
    with pytest.raises(TypeError, match=r"'odd' .* lacks name, columns, needs, compute"):
        get_metrics(["odd"])


def test_plug_in_must_not_take_a_built_in_name(plug_in):
    plug_in(ks="elsewhere:ks")
    assert [m.name for m in get_metrics(["kl"])] == ["kl"]  # the others are not affected
    with pytest.raises(ValueError, match="'ks' is built in, but elsewhere:ks"):
        get_metrics(["ks"])


def test_declaration():
    assert isinstance(spread, FunctionMetric)
    assert spread.needs == frozenset({"confidences"})
    with pytest.raises(ValueError, match=r"needs \['weights'\]"):
        metric(name="m", needs={"weights"}, columns=(COLUMN,))
    with pytest.raises(ValueError, match="declares a column twice"):
        metric(name="m", needs=(), columns=(COLUMN, COLUMN))


def test_undeclared_values_are_refused():
    wrong = metric(name="m", needs=(), columns=(COLUMN,))(lambda *, unlearned, retrained: {"other": 1.0})
    with pytest.raises(ValueError, match=r"declares columns \['spread'\] but gave \['other'\]"):
        wrong.compute(unlearned=draws(), retrained=draws())


def test_a_share_needs_a_summary():
    share = Column(**(vars(COLUMN) | {"share": True}))
    with pytest.raises(ValueError, match=r"'m' has shares of the examples \(spread\): give it a summary"):
        metric(name="m", needs=(), columns=(share,))

    @metric(name="m", needs=(), columns=(share,), summary=lambda examples: {"spread": (examples["s"] > 1).mean(-1)})
    def made(*, unlearned, retrained):
        return {"s": np.array([0.0, 1.0, 2.0, 3.0])}

    assert made.compute(unlearned=draws(), retrained=draws()) == {"spread": 0.5}
    wrong = metric(name="m", needs=(), columns=(share,), summary=lambda examples: {})(made.function)
    with pytest.raises(ValueError, match=r"declares columns \['spread'\] but gave \[\]"):
        wrong.compute(unlearned=draws(), retrained=draws())


def test_the_examples_of_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(block, names)
    rng = np.random.default_rng(0)
    u, r = (Outputs(confidences=rng.normal(shift, 1, size=(40, 6)), logits=None, accuracy={}) for shift in (1.3, 0.0))
    found = intervals([names["upper_quantile"], names["far"]], unlearned=u, retrained=r, seed=0)
    assert names["upper_quantile"].compute(unlearned=u, retrained=r)["upper_quantile_gap"] == pytest.approx(
        1.3, abs=0.3
    )
    assert 1.0 < found["upper_quantile_gap"][0] < found["upper_quantile_gap"][1] < 1.8
    assert names["far"].compute(unlearned=u, retrained=r)["far_share"] > 0.5
    assert found["far_share"][0] < found["far_share"][1] == 1.0


def test_missing_logits_are_named():
    needy = metric(name="m", needs={"logits"}, columns=(COLUMN,))(lambda *, unlearned, retrained: {"spread": 1.0})
    with pytest.raises(ValueError, match="needs the logits"):
        needy.compute(unlearned=draws(), retrained=draws())


def test_missing_test_confidences_are_named():
    (attack,) = get_metrics(["loss_attack"])
    with pytest.raises(ValueError, match="needs confidences on the test set"):
        attack.compute(unlearned=draws(), retrained=draws())


def test_taking_draws_takes_all_their_parts():
    every = Outputs(np.arange(8.0).reshape(4, 2), np.arange(24.0).reshape(4, 2, 3), {"test": np.arange(4.0)}, np.eye(4))
    part = every.take(np.array([2, 0]))
    assert part.n == 2
    np.testing.assert_array_equal(part.confidences, [[4, 5], [0, 1]])
    np.testing.assert_array_equal(part.logits, every.logits[[2, 0]])
    np.testing.assert_array_equal(part.accuracy["test"], [2, 0])
    np.testing.assert_array_equal(part.test_confidences, np.eye(4)[[2, 0]])
    assert draws().take(slice(2)).test_confidences is None


def test_samples_must_be_named():
    with pytest.raises(TypeError):
        spread.compute(draws(), draws())


def test_draws():
    assert draws(n=5).n == 5
    with pytest.raises(ValueError, match=r"confidences must have shape \[N, S\]"):
        Outputs(confidences=np.zeros(3), logits=None, accuracy={})
    with pytest.raises(ValueError, match="logits must have shape"):
        Outputs(confidences=np.zeros((3, 2)), logits=np.zeros((3, 4, 5)), accuracy={})
    with pytest.raises(ValueError, match=r"accuracy\['test'\] must have shape \[3\]"):
        Outputs(confidences=np.zeros((3, 2)), logits=None, accuracy={"test": np.zeros(2)})
    with pytest.raises(ValueError, match=r"test_confidences must have shape \[3, T\]"):
        Outputs(confidences=np.zeros((3, 2)), logits=None, accuracy={}, test_confidences=np.zeros((2, 2)))
