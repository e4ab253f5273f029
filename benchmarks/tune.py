"""Find ``conf/tuned/<task>/<method>.yaml``: the same random search for every method, on a split and seeds of its own.

    python benchmarks/tune.py digits [--trials 12] [--draws 8] [--methods a,b]
    python benchmarks/tune.py mnist_writers data.path=$UNLEARN_DATA/mnist_writers.npz --trials 6 --draws 4

Budget: ``--trials`` settings of ``--draws`` models a method; the first setting is the authors'. The others are drawn from
``benchmarks/spaces.yaml``, independently, with a seed made of the method's name.

Objective: (1 − mean KS statistic over the forget set) × min(1, retain accuracy ratio) × min(1, test accuracy ratio), against
a pool of retrained models. The KS statistic rather than F, which has only a handful of bins at so few draws. Among the
settings within the cost limit (20 % of the operations of retraining) the best is taken; where none is, the best of all.

Board and search share no model and no split: the search uses ``split_seed=1000 seed=1000``, boards use others.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from harness.benchmark import Benchmark, from_config
from harness.command.compose import configurations
from harness.draws.executor import Executor, Pool
from harness.draws.progress import Progress
from harness.draws.stages import Unlearning
from harness.draws.store import Store
from harness.metrics import ks_test
from harness.registry import methods as registry
from harness.registry.methods import MethodSpec
from harness.scores import scoring
from harness.streams import seed_for

SEED = 1000
COST_LIMIT = 0.2
ROOT = Path(__file__).resolve().parents[1]
TASKS = {"digits": [], "mnist_writers": ["experiment=mnist_writers"]}


@dataclass(frozen=True)
class Trial:
    method: str
    changes: dict[str, Any]
    stage: Unlearning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("overrides", nargs="*", help="e.g. data.path=FILE")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--retrained", type=int, default=32)
    parser.add_argument("--methods", default=None)
    options = parser.parse_args()

    store = Store()
    overrides = [*TASKS[options.task], *options.overrides, f"split_seed={SEED}", f"seed={SEED}", "recipe=authors"]
    ((cfg, _),) = configurations([*overrides, "methods=[retrain]", f"protocol.n={options.draws}"])
    benchmark = from_config(cfg, store)
    spaces = OmegaConf.to_container(OmegaConf.load(ROOT / "benchmarks" / "spaces.yaml"))
    assert isinstance(spaces, dict)
    chosen = options.methods.split(",") if options.methods else sorted(spaces)
    trials = [trial for name in chosen for trial in _trials(benchmark, name, spaces[name] or {}, options.trials)]
    table = _evaluate(benchmark, store, trials, draws=options.draws, retrained=options.retrained)
    for name in chosen:
        _write(
            options.task,
            name,
            table[table["method"] == name],
            trials,
            f"{options.trials} settings of {options.draws} models",
        )
    record = ROOT / "results" / "tuning" / f"{options.task}.csv"
    record.parent.mkdir(parents=True, exist_ok=True)
    if record.exists():
        old = pd.read_csv(record)
        table = pd.concat([old[~old["method"].isin(chosen)], table]).sort_values(["method", "trial"])
    table.to_csv(record, index=False, float_format="%.5g")
    print(f"all settings: {record.relative_to(ROOT)}")


def _trials(benchmark: Benchmark, name: str, space: dict[str, Any], count: int) -> list[Trial]:
    rng = np.random.default_rng(seed_for("tune", benchmark.task.name, name))
    settings: list[dict[str, Any]] = [{}]
    if space:
        settings += [{field: _sample(rule, rng) for field, rule in space.items()} for _ in range(count - 1)]
    # To the nearest: rounded up, a search on a short training would lean to the costly side.
    settings = [registry.scaled_epochs(setting, benchmark.options.train.epochs, whole=round) for setting in settings]
    defaults = registry.defaults(name)
    target, parameters = defaults.pop("_target_"), defaults
    made = []
    for changes in settings:
        spec = MethodSpec(name, "trial", target, parameters | changes)
        made.append(Trial(name, changes, Unlearning(benchmark.originals, spec, SEED, "paired")))
    return made


def _sample(rule: Any, rng: np.random.Generator) -> Any:
    """``{log: [low, high]}``, ``{uniform: [low, high]}`` or a list of choices; numbers are rounded to three digits."""
    if isinstance(rule, list):
        return rule[int(rng.integers(len(rule)))]
    ((kind, (low, high)),) = rule.items()
    value = rng.uniform(low, high) if kind == "uniform" else np.exp(rng.uniform(np.log(low), np.log(high)))
    return float(f"{value:.3g}")


def _evaluate(benchmark: Benchmark, store: Store, trials: list[Trial], *, draws: int, retrained: int) -> pd.DataFrame:
    wanted = tuple(range(draws))
    retrain = benchmark.unlearned[0]  # for the operations of retraining
    pools = [Pool(benchmark.originals, wanted), Pool(benchmark.retrained, tuple(range(retrained))), Pool(retrain, (0,))]
    pools += list({trial.stage.key: Pool(trial.stage, wanted) for trial in trials}.values())
    with Executor(store, in_process=False, workers=benchmark.workers) as executor, Progress(pools, store) as progress:
        failures = executor.fill(pools, progress.report)
        executor.count_flops([retrain, *(trial.stage for trial in trials if trial.stage.key not in failures)])
    reference = scoring.load(store, benchmark.retrained, range(retrained), benchmark.task).outputs
    full_cost = _flops(store, retrain)
    rows = []
    for i, trial in enumerate(trials):
        row: dict[str, Any] = {"method": trial.method, "trial": i, "settings": OmegaConf.to_yaml(trial.changes).strip()}
        if trial.stage.key in failures:
            rows.append(row | {"reason": failures[trial.stage.key].reason})
            continue
        outputs = scoring.load(store, trial.stage, wanted, benchmark.task)
        statistic, _ = ks_test(unlearned=outputs.outputs.confidences, retrained=reference.confidences)
        ratios = [
            min(1.0, float(outputs.outputs.accuracy[split].mean() / reference.accuracy[split].mean()))
            for split in ("retain", "test")
        ]
        row |= {"ks_statistic": float(statistic.mean()), "retain_ratio": ratios[0], "test_ratio": ratios[1]}
        row |= {
            "objective": (1 - row["ks_statistic"]) * ratios[0] * ratios[1],
            "cost": _flops(store, trial.stage) / full_cost,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _flops(store: Store, stage: Unlearning) -> float:
    record = store.get_record(f"flops-{stage.key}")
    return float(record["flops"]) if record else float("nan")  # not every operation can be counted


def _write(task: str, name: str, table: pd.DataFrame, trials: list[Trial], budget: str) -> None:
    """The best setting within the cost limit, or of all; no file where there is nothing to tune, or where nothing ran."""
    file = ROOT / "conf" / "tuned" / task / f"{name}.yaml"
    file.unlink(missing_ok=True)
    usable = table.dropna(subset=["objective"]) if "objective" in table else table.iloc[:0]
    if usable.empty:
        print(f"{name:18s} nothing ran: {table['reason'].iloc[0]}")
        return
    cheap = usable[usable["cost"].fillna(0) <= COST_LIMIT]
    best = (cheap if len(cheap) else usable).sort_values("objective").iloc[-1].to_dict()
    changes = trials[best["trial"]].changes
    found, given = best["objective"], usable["objective"].iloc[0]
    print(f"{name:18s} objective {found:.3f}, authors' {given:.3f}, cost {best['cost']:.1%}: {changes}")
    if len(table) > 1:
        note = f"# Best of {budget}: objective {found:.3f}, with the authors' constants {given:.3f}.\n"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(note + OmegaConf.to_yaml(changes))


if __name__ == "__main__":
    main()
