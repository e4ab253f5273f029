"""unlearn: a benchmark for machine unlearning."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("unlearn")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0+source"
