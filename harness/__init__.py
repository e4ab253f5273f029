"""unlearn: a benchmark for machine unlearning.

For authors of methods: ``from harness import Data, Ensemble, Net, NotApplicable, Rng, losses`` and what else ``__all__``
names. These paths are stable; the modules behind them may move. Each is imported when it is first asked for.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.engine import losses
    from harness.engine.batches import Data, GaussianNoise, Split
    from harness.engine.ensemble import Ensemble
    from harness.engine.losses import Net
    from harness.engine.training import train
    from harness.errors import NotApplicable, UserError
    from harness.models import head
    from harness.streams import Rng

__all__ = [
    "Data",
    "Ensemble",
    "GaussianNoise",
    "Net",
    "NotApplicable",
    "Rng",
    "Split",
    "UserError",
    "head",
    "losses",
    "train",
]

try:
    __version__ = version("unlearn-bench")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0+source"

_HOMES = {
    "Data": "harness.engine.batches",
    "Ensemble": "harness.engine.ensemble",
    "GaussianNoise": "harness.engine.batches",
    "Net": "harness.engine.losses",
    "NotApplicable": "harness.errors",
    "Rng": "harness.streams",
    "Split": "harness.engine.batches",
    "UserError": "harness.errors",
    "head": "harness.models",
    "losses": "harness.engine",
    "train": "harness.engine.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(_unknown(name), name=name)
    home = import_module(_HOMES[name])
    value = getattr(home, name) if hasattr(home, name) else import_module(f"{home.__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, __all__, n=3)
    return f"module 'harness' has no attribute '{name}'" + (f"; did you mean {' or '.join(near)}?" if near else "")
