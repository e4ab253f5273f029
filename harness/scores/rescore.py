"""Score stored outputs again, with other metrics, without training anything.

The arrays beside each result hold the confidences on the forget set and the accuracies of every draw. What needs
logits (or confidences on the test set) is read from the store, if the draws are still there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.draws.store import Damaged, Missing, Store
from harness.errors import UserError
from harness.files import canonical
from harness.metrics import Metric, Outputs
from harness.metrics.base import OPTIONAL
from harness.metrics.estimators import ranked_by
from harness.scores import results, scoring
from harness.scores.results import CellResult, Null


@dataclass(frozen=True)
class _Cell:
    path: Path
    result: CellResult
    unlearned: Outputs
    retrained: Outputs

    @property
    def group(self) -> str:
        """Equal for cells that are compared with the same retrained draws."""
        r = self.result
        return canonical([r.task.hash, r.model, r.training, r.protocol.model_dump(), r.seeds, r.estimator])


def rescore(folder: Path, metrics: Sequence[Metric], store: Store | None = None) -> int:
    """Add the columns of ``metrics`` to every result below ``folder`` (replacing those of the same name).

    Returns how many results were scored. Raises UserError where a result's outputs are missing or do not allow a metric.
    """
    paths = [path for path in sorted(folder.rglob("*.json")) if path.parent.name != "tasks"]
    stored = [(path, results.read(path)) for path in paths]
    cells = [_load(path, result, metrics, store) for path, result in stored if result.status == "ok"]
    if not cells:
        raise UserError(
            f"{folder}: no results with outputs to score; expected cells/*.json and *.npz written by `unlearn`"
        )
    nulls: dict[str, dict[str, Null]] = {}
    for cell in cells:
        if cell.result.ceiling and cell.group not in nulls:
            own = ranked_by(cell.result.estimator, list(metrics))
            seed = cell.result.seeds["evaluate"]
            nulls[cell.group] = scoring.null_values(own, cell.retrained, cell.unlearned, seed=seed)
    for cell in cells:
        values, on_subsets = scoring.evaluate(
            ranked_by(cell.result.estimator, list(metrics)),
            unlearned=cell.unlearned,
            retrained=cell.retrained,
            nulls=nulls.get(cell.group, {}),
            seed=cell.result.seeds["evaluate"],
        )
        cell.result.metrics |= values
        if "score" in values:
            cell.result.score_on_subsets = on_subsets
        results.write(cell.path.parent, cell.path.stem, cell.result, {})
    return len(cells)


def _load(path: Path, result: CellResult, metrics: Sequence[Metric], store: Store | None) -> _Cell:
    stored = path.with_suffix(".npz")
    if not stored.is_file():
        raise UserError(f"{stored}: missing; the outputs of {result.method} cannot be scored without it")
    with np.load(stored, allow_pickle=False) as arrays:
        draws = {side: _from_arrays(arrays, side) for side in ("unlearned", "retrained")}
    lacking = {"logits", "test_confidences", "features"} & {need for metric in metrics for need in metric.needs}
    if lacking:
        draws = {side: _from_store(result, side, store, metrics, lacking) for side in draws}
    return _Cell(path, result, **draws)


def _from_arrays(arrays: np.lib.npyio.NpzFile, side: str) -> Outputs:
    prefix = f"{side}_accuracy_"
    return Outputs(
        confidences=arrays[f"{side}_confidences"].astype(np.float64),
        logits=None,
        accuracy={n.removeprefix(prefix): arrays[n].astype(np.float64) for n in arrays.files if n.startswith(prefix)},
        cost=arrays[f"{side}_seconds"] if f"{side}_seconds" in arrays.files else None,
    )


def _from_store(
    result: CellResult, side: str, store: Store | None, metrics: Sequence[Metric], lacking: set[str]
) -> Outputs:
    needy = ", ".join(metric.name for metric in metrics if lacking & metric.needs)
    hint = f"repeat the run that made it with metrics=[{needy}]"
    key = result.stages.get(side)
    lacks = (
        f"{needy}: needs {' and '.join(OPTIONAL[need] for need in sorted(lacking))} of every draw of {result.method}. The arrays "
        f"beside the results hold confidences and accuracies"
    )
    if store is None or key is None:
        raise UserError(f"{lacks}; {hint}")
    n = result.protocol.n
    first = result.protocol.experiment * n
    try:
        task = store.get_task(result.task.hash)
        draws = scoring.load(store, scoring.Stored(key), range(first, first + n), task).outputs
    except (FileNotFoundError, Missing, Damaged) as error:
        raise UserError(f"{lacks}, and this machine's store lacks these draws; {hint}") from error
    if "features" in lacking and draws.features is None:
        raise UserError(f"{lacks}, and the store's draws have no features; {hint}")
    return draws
