"""Result files: what is written is read back, and what does not fit is named."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from harness.errors import UserError
from harness.scores import results
from harness.scores.results import Value, as_number
from tests.support_cells import cell, failed


def test_round_trip(tmp_path):
    for name, result in {"ok": cell(), "failed": failed("sun"), "none": cell(metrics={}, cost__flops=None)}.items():
        path = results.write(tmp_path / "cells", name, result, {})
        assert path == tmp_path / "cells" / f"{name}.json"
        assert results.read(path) == result
    assert sorted(file.name for file in (tmp_path / "cells").iterdir()) == ["failed.json", "none.json", "ok.json"]


def test_arrays_lie_beside_it(tmp_path):
    arrays = {"unlearned_confidences": np.ones((8, 3), np.float32), "unlearned_seconds": np.arange(8.0)}
    results.write(tmp_path, "one", cell(), arrays)
    with np.load(tmp_path / "one.npz") as file:
        assert set(file.files) == set(arrays)
        np.testing.assert_array_equal(file["unlearned_seconds"], arrays["unlearned_seconds"])


def test_absent_numbers_are_null(tmp_path):
    assert [as_number(x) for x in (math.nan, math.inf, -math.inf, 1)] == [None, None, None, 1.0]
    result = cell(metrics={"kl": Value(value=math.nan), "score": Value(value=None)})
    path = results.write(tmp_path, "one", result, {})
    stored = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert stored["metrics"]["kl"] == {"value": None, "null": None, "interval": None}
    assert results.read(path).metrics["kl"].value is None


def test_the_file_says_its_schema(tmp_path):
    path = results.write(tmp_path, "one", cell(), {})
    assert json.loads(path.read_text())["schema_version"] == 1


def edit(node, change):
    *path, last = change[0].split(".")
    for key in path:
        node = node[key]
    if len(change) == 1:
        del node[last]
    else:
        node[last] = change[1]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("method",), "method: Field required"),
        (("task.hash",), "task.hash: Field required"),
        (("cost.ratio",), "cost.ratio: Field required"),
        (("metrics.kl.value",), "metrics.kl.value: Field required"),
        (("surprise", 1), "surprise: Extra inputs are not permitted"),
        (("protocol.draws", 8), "protocol.draws: Extra inputs"),
        (("schema_version", 2), "schema_version: Input should be 1"),
        (("status", "fine"), "status: Input should be 'ok', 'failed' or 'not_applicable'"),
        (("protocol.n", "many"), "protocol.n: .*integer"),
        (("metrics.kl.value", "high"), "metrics.kl.value: .*number"),
        (("seeds", None), "seeds: "),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_its_field(tmp_path, change, field):
    path = results.write(tmp_path, "one", cell(), {})
    node = json.loads(path.read_text())
    edit(node, change)
    path.write_text(json.dumps(node))
    with pytest.raises(UserError, match=rf"one.json: not a result of this version \({field}"):
        results.read(path)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe{}", b'"text"', b'{"schema_version": 1'])
def test_a_file_that_is_no_result_is_named(tmp_path, data):
    path = tmp_path / "odd.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"odd.json: not a result of this version"):
        results.read(path)


def test_read_all(tmp_path):
    results.write(tmp_path / "b" / "cells", "two", cell("b"), {})
    results.write(tmp_path / "a" / "cells", "one", cell("a"), {"x": np.zeros(1)})
    (tmp_path / "leaderboard.csv").write_text("rank\n")
    assert [result.method for result in results.read_all(tmp_path)] == ["a", "b"]
    with pytest.raises(UserError, match="nowhere: no such directory"):
        results.read_all(tmp_path / "nowhere")


def test_environment_names_what_numbers_depend_on():
    assert {"unlearn", "python", "torch", "numpy", "device"} <= set(results.environment())
