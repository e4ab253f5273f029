"""Made-up results, for tests of result files and boards."""

from __future__ import annotations

from typing import Any

from harness.scores.results import CellResult, Cost, Null, ProtocolInfo, TaskInfo, Value

TASK = {
    "name": "digits",
    "forget_kind": "random",
    "hash": "ab" * 16,
    "classes": 10,
    "sizes": {"retain": 320, "forget": 80, "valid": 150, "test": 1000},
    "split_seed": 0,
    "notes": {},
}


def cell(method: str = "finetune", *, score: float | None = 0.1, seed: int = 0, **changes: Any) -> CellResult:
    """An ``ok`` result; ``changes`` replaces fields, or keys of task, protocol and cost as ``task__name=``."""
    nested = {key: value for key, value in changes.items() if "__" in key}
    node: dict[str, Any] = {
        "method": method,
        "recipe": "authors",
        "target": f"methods.{method}.{method.title()}",
        "parameters": {"lr": 0.001},
        "task": TASK,
        "model": {"_target_": "harness.models.small_cnn", "widths": [4, 4, 4]},
        "training": {"lr": 0.1, "epochs": 2},
        "protocol": {"kind": "reuse_n_n", "n": 8, "experiments": 1, "experiment": 0},
        "seeds": {"train": seed, "unlearn": seed, "evaluate": seed},
        "ceiling": method == "retrain",
        "status": "ok",
        "estimator": "official",
        "metrics": metrics(score),
        "retrained_accuracy": {"retain": 1.0, "forget": 0.9, "valid": 0.9, "test": 0.9},
        "cost": {
            "seconds_per_model": 2.0,
            "retraining_seconds": 20.0,
            "ratio": 0.1,
            "flops": 5.0,
            "over_limit": False,
            "comparable": True,
        },
        "numeric_class": "cpu/float32/sequential",
        "environment": {"python": "3.11"},
        "created": "2026-01-01T00:00:00+00:00",
    } | {key: value for key, value in changes.items() if "__" not in key}
    for key, value in nested.items():
        part, _, name = key.partition("__")
        node[part] = {**node[part], name: value}
    kinds = {"task": TaskInfo, "protocol": ProtocolInfo, "cost": Cost}
    built = {key: kinds[key](**node[key]) for key in kinds if isinstance(node[key], dict)}
    return CellResult(**(node | built))


def metrics(score: float | None) -> dict[str, Value]:
    null = Null(mean=0.15, low=0.1, high=0.2)
    values = {
        "score": score,
        "forgetting_quality": score,
        "epsilon_median": 1.5,
        "ks_statistic": 0.4,
        "ks_rejected": 0.25,
        "kl": 0.5,
        "retain_accuracy": 0.99,
        "forget_accuracy": 0.8,
        "test_accuracy": 0.85,
    }
    return {name: Value(value=value, null=null if name == "score" else None) for name, value in values.items()}


def failed(method: str, reason: str = "draw 0: ValueError: boom", **changes: Any) -> CellResult:
    return cell(method, **({"status": "failed", "reason": reason, "metrics": {}, "cost": None} | changes))
