"""Where tables are printed."""

from __future__ import annotations

from rich.console import Console


def console() -> Console:
    """A board is a wide table: never wrap it to a narrow pipe."""
    screen = Console()
    return screen if screen.is_terminal else Console(width=190)
