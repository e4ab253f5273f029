"""Fill a pool in a process of its own: ``python -m tests.fill_pool SETTINGS.json``; prints how many draws it made."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from harness.draws.executor import Executor, Pool
from harness.draws.stages import Training, Unlearning
from harness.draws.store import Store
from tests.helpers import method, tiny_task, training


def pools(settings: dict[str, Any]) -> tuple[Training, Unlearning, list[Pool]]:
    """Originals, and a method that leaves a trace of when it ran."""
    originals = training(tiny_task(), precision="float32")
    traced = method("traced", log=settings["log"], sleep=settings["sleep"])
    unlearned = Unlearning(originals, traced, 0, "paired")
    draws = tuple(range(settings["n"]))
    return originals, unlearned, [Pool(originals, draws), Pool(unlearned, draws)]


def main(settings: dict[str, Any]) -> None:
    store = Store(Path(settings["store"]))
    _, _, wanted = pools(settings)
    made: dict[str, int] = {}

    def report(stage: Training | Unlearning, count: int) -> None:
        made[stage.key] = made.get(stage.key, 0) + count

    with Executor(store, in_process=False, workers=settings["workers"]) as executor:
        if folder := settings.get("meet"):  # wait until the other process has a worker too
            executor._workers().submit(os.getpid).result()
            (Path(folder) / str(os.getpid())).touch()
            while len(list(Path(folder).iterdir())) < 2:
                time.sleep(0.01)
        failures = executor.fill(wanted, report)
    print(json.dumps({"made": made, "failures": {key: failure.reason for key, failure in failures.items()}}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
