"""Pictures as text files: the same figure always gives the same bytes, and refers to nothing outside itself."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Text stays text, so that it can be read and searched. It is measured in the first font, which comes with matplotlib and is
# wide: whatever a reader's machine has in its place fits.
_ALWAYS: Mapping[str, Any] = {
    "svg.hashsalt": "unlearn",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    "axes.spines.top": False,
    "axes.spines.right": False,
}

_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@contextmanager
def drawing(style: Mapping[str, Any]) -> Iterator[None]:
    """Draw, and call :func:`svg`, in here."""
    settings: dict[Any, Any] = {**_ALWAYS, **style}
    with matplotlib.rc_context(settings):
        yield


def svg(figure: Figure) -> str:
    """The figure as a document of its own."""
    buffer = io.BytesIO()
    FigureCanvasSVG(figure).print_figure(buffer, format="svg", metadata=_NO_METADATA)
    return buffer.getvalue().decode()
