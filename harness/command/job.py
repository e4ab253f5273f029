"""One Hydra job: build the benchmark of a configuration and run it. Jobs may run in processes and on machines of their own,
so what one of them has to say is left in ``out``: a result file per cell, or a file in ``out/errors``."""

from __future__ import annotations

import traceback
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from harness.benchmark import from_config
from harness.draws.store import Store
from harness.errors import UserError
from harness.files import write_atomically
from harness.run import fill_first, run
from harness.streams import seed_for


def job(cfg: DictConfig) -> str:
    """Returns ``ok``, ``failed`` (a cell failed) or ``error`` (there are no cells)."""
    hydra = HydraConfig.get()
    try:
        store = Store()
        chosen = hydra.runtime.choices.get("method")
        benchmark = from_config(cfg, store, method_name=chosen, fill=partial(fill_first, store=store))
        cells = run(benchmark, store)
    except UserError as error:
        return _error(cfg, hydra, str(error))
    except (Exception, SystemExit):  # code of the user's may call sys.exit while it is imported
        return _error(cfg, hydra, traceback.format_exc())
    return "failed" if any(cell.status == "failed" for cell in cells) else "ok"


def _error(cfg: DictConfig, hydra: Any, message: str) -> str:
    overrides = " ".join(hydra.overrides.task)
    folder = Path(cfg.out).expanduser() / "errors"
    swept = f"{overrides}: " if hydra.mode is not None and hydra.mode.name == "MULTIRUN" else ""
    write_atomically(folder / f"{seed_for(overrides):016x}.txt", f"{swept}{message}\n".encode())
    return "error"
