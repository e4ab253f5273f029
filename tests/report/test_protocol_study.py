"""What repeated runs say of the protocols, on made-up results whose answers are known."""

import math
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.errors import UserError
from harness.report import protocol_study
from harness.scores import results
from harness.scores.results import Value
from tests.support_cells import cell, failed, metrics

METHODS = ("a", "b", "c", "d")


def run(scores, *, kind="reuse_n_n", seed=0, n=8, experiment=0, experiments=1, half_width=0.02):
    """The cells of one run: a score for each of METHODS (F the same), and the reference rows."""
    made = []
    named = {**dict(zip(METHODS, scores, strict=True)), "retrain": 0.9, "identity": 0.01}
    for name, score in named.items():
        values = metrics(score)
        for measure in ("score", "forgetting_quality"):
            known = score is not None
            interval = (score - half_width, score + half_width) if known else None
            values[measure] = Value(value=score, null=values[measure].null, interval=interval)
        protocol = {"kind": kind, "n": n, "experiments": experiments, "experiment": experiment}
        cell_ = cell(name, seed=seed, metrics=values, floor=name == "identity", protocol=protocol)
        made.append(cell_.model_copy(update={"protocol": results.ProtocolInfo(**protocol)}))
    return made


def only(cells):
    (study,) = protocol_study.studies(cells)
    return study


def summary(study, protocol="reuse_n_n", measure="score", n=8):
    table = study.summary.set_index(["measure", "protocol", "n"])
    return table.loc[(measure, protocol, n)]


def by_method(study, method, protocol="reuse_n_n", n=8, measure="score"):
    return study.by_method.set_index(["measure", "protocol", "n", "method"]).loc[(measure, protocol, n, method)]


RUNS = ([0.10, 0.20, 0.30, 0.40], [0.20, 0.10, 0.30, 0.40], [0.10, 0.20, 0.40, 0.30])


def test_each_run_is_held_against_the_mean_of_the_others():
    study = only([c for seed, scores in enumerate(RUNS) for c in run(scores, seed=seed)])
    values = np.array(RUNS)
    taus = [stats.kendalltau(values[r], np.delete(values, r, axis=0).mean(0)).statistic for r in range(3)]
    found = summary(study)
    assert (found["runs"], found["methods"]) == (3, 4)  # the reference rows do not count
    assert found["tau"] == pytest.approx(np.mean(taus))
    assert (found["tau_low"], found["tau_high"]) == pytest.approx((min(taus), max(taus)))
    assert found["sd"] == pytest.approx(np.median(values.std(0, ddof=1)))
    assert found["claimed_error"] == pytest.approx(0.02 / stats.t.ppf(0.975, 7))
    assert by_method(study, "c")["mean"] == pytest.approx(values[:, 2].mean())
    assert by_method(study, "retrain")["rank"] == 1
    assert by_method(study, "identity")["rank"] == 6


def test_experiments_of_full_are_runs_and_the_same_draws_count_once():
    of_full = [c for e, s in enumerate(RUNS) for c in run(s, kind="full", experiment=e, experiments=3)]
    seeds = [c for seed, scores in enumerate(RUNS) for c in run(scores, seed=seed)]
    again = run(RUNS[0], kind="reuse_n_n", seed=0)  # the draws of experiment 0
    expected = only(seeds)
    for study in (only(of_full), only([*of_full, *again]), only([*again, *of_full])):
        pd.testing.assert_frame_equal(study.summary, expected.summary)
        pd.testing.assert_frame_equal(study.by_method, expected.by_method)


def test_a_run_from_one_original_is_not_held_against_the_run_that_shares_its_pools():
    cells = [c for seed, scores in enumerate(RUNS) for c in run(scores, seed=seed)]
    single = run(RUNS[1], kind="reuse_n_1", seed=1)
    expected = stats.kendalltau(RUNS[1], np.mean([RUNS[0], RUNS[2]], axis=0)).statistic
    assert summary(only(cells + single), "reuse_n_1")["tau"] == pytest.approx(expected)
    assert math.isnan(summary(only(cells + single), "reuse_n_1")["tau_unshared"])


def test_bias_is_the_paired_t_interval():
    shifted = [[0.3, 0.2, 0.3, 0.4], [0.32, 0.1, 0.3, 0.4], [0.28, 0.2, 0.4, 0.3]]
    cells = [c for seed, s in enumerate(RUNS) for c in run(s, seed=seed)]
    cells += [c for seed, s in enumerate(shifted) for c in run(s, kind="reuse_n_1", seed=seed)]
    study = only(cells)
    found = by_method(study, "a", "reuse_n_1")
    one, other = np.array(shifted)[:, 0], np.array(RUNS)[:, 0]
    interval = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert found["bias"] == pytest.approx(one.mean() - other.mean())
    assert (found["bias_low"], found["bias_high"]) == pytest.approx((interval.low, interval.high))
    assert summary(study, "reuse_n_1")["biased"] == 1
    assert pd.isna(summary(study)["biased"])
    assert pd.isna(by_method(study, "a")["bias"])
    assert "| a | 0.133 | 0.300 |" in protocol_study.markdown(study)


def test_what_a_run_does_to_all_methods_alike_spoils_no_shared_ranking():
    """Runs that are off as a whole rank methods as well as ever, but not if each method came from a run of its own."""
    cells = [c for seed in range(4) for c in run([x + seed for x in (0.1, 0.2, 0.3, 0.4)], seed=seed)]
    found = summary(only(cells))
    assert found["tau"] == pytest.approx(1.0)
    assert found["tau_unshared"] < 0.6


def test_cost():
    cells = [
        c for seed, s in enumerate(RUNS) for kind in ("reuse_n_n", "reuse_n_1") for c in run(s, kind=kind, seed=seed)
    ]
    study = only(cells)
    # in support_cells a method takes 2 s and retraining 20 s; floor and ceiling are no method
    assert (summary(study)["trained"], summary(study)["hours"]) == pytest.approx((16, (16 * 20 + 8 * 4 * 2) / 3600))
    assert (summary(study, "reuse_n_1")["trained"]) == 9


def test_what_lacks_a_value_in_one_run_is_left_out_of_the_ranking_only():
    cells = [c for seed, s in enumerate(RUNS) for c in run(s, seed=seed)]
    cells = [c for c in cells if not (c.method == "b" and c.seeds["train"] == 2)] + [failed("b", seed=2)]
    study = only(cells)
    assert summary(study)["methods"] == 3
    assert by_method(study, "b")["runs"] == 2


def test_two_recipes_of_one_method_are_two_methods():
    cells = [c for seed, s in enumerate(RUNS) for c in run(s, seed=seed)]
    cells += [c.model_copy(update={"recipe": "tuned"}) for c in cells if c.method == "a"]
    study = only(cells)
    assert summary(study)["methods"] == 5
    assert by_method(study, "a (tuned)")["mean"] == by_method(study, "a (authors)")["mean"]


def test_two_settings_of_one_name_are_two_methods():
    cells = [c for seed, s in enumerate(RUNS) for c in run(s, seed=seed)]
    cells += [c.model_copy(update={"parameters": {"lr": 0.5}}) for c in cells if c.method == "a"]
    study = only(cells)
    assert summary(study)["methods"] == 5
    assert by_method(study, "a #1")["mean"] == by_method(study, "a #2")["mean"]


def test_seeds_that_share_their_models_are_one_run():
    cells = run(RUNS[0], seed=0) + run(RUNS[1], seed=1)
    again = [c.model_copy(update={"seeds": {**c.seeds, "evaluate": 7}}) for c in cells]
    assert summary(only(cells + again))["runs"] == 2
    assert protocol_study.studies(run(RUNS[0]) + again[: len(METHODS) + 2]) == []


@pytest.mark.parametrize("n", [4, 8])
def test_runs_without_a_score_or_a_spread_do_no_harm(tmp_path, n):
    """Below N = 8 there are no scores; equal runs have no spread; some tasks have reference rows only, or failures."""
    scores = [None] * 4 if n < 8 else RUNS[0]
    cells = [
        c for seed in (0, 1) for kind in ("reuse_n_n", "reuse_n_1") for c in run(scores, kind=kind, seed=seed, n=n)
    ]
    cells += run(scores, kind="reuse_n_1", seed=5, n=16)
    for i, one in enumerate(cells):
        results.write(tmp_path / "cells", f"{i}", one, {})
    protocol_study.rebuild(tmp_path)
    assert "reuse_n_1" in (tmp_path / "protocols.md").read_text()
    references = [c for c in cells if c.method in ("retrain", "identity")]
    assert protocol_study.studies(references) == []
    assert protocol_study.studies([failed("a"), failed("a", seed=1)]) == []


def test_written_files(tmp_path):
    for n in (8, 16):
        for seed, scores in enumerate(RUNS):
            for kind in ("reuse_n_n", "reuse_n_1"):
                for one in run(scores, kind=kind, seed=seed, n=n):
                    name = f"{kind}-{n}-{seed}-{one.method}"
                    results.write(tmp_path / "cells", name, one, {})
    protocol_study.rebuild(tmp_path)
    first = {p.name: p.read_bytes() for p in tmp_path.glob("protocols*")}
    assert set(first) == {"protocols.csv", "protocols_summary.csv", "protocols.md", "protocols.svg"}
    table = pd.read_csv(tmp_path / "protocols_summary.csv")
    assert len(table) == 2 * 2 * 2
    for block in first["protocols.md"].decode().split("\n\n"):
        lines = block.splitlines()
        if lines and lines[0].startswith("|"):
            assert len({line.count("|") for line in lines}) == 1
    assert "N = 8 | N = 16" in first["protocols.md"].decode()
    text = "".join(ElementTree.fromstring(first["protocols.svg"]).itertext())
    assert text
    protocol_study.rebuild(tmp_path)
    assert first == {p.name: p.read_bytes() for p in tmp_path.glob("protocols*")}


def test_without_repeated_runs_there_is_nothing_to_compare(tmp_path):
    assert protocol_study.studies(run(RUNS[0])) == []
    for one in run(RUNS[0]):
        results.write(tmp_path / "cells", one.method, one, {})
    with pytest.raises(UserError, match="at least two runs at one N, such as -m seed=0,1"):
        protocol_study.rebuild(tmp_path)
