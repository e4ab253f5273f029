"""Errors whose message is meant for the person at the keyboard, and the helper that suggests near-miss names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The message names the key or file, what was expected and what to do; no traceback is shown."""


class NotApplicable(Exception):
    """Raised by a method that does not apply to the task (a class-forgetting method on a random forget set, say)."""


def unknown_name(kind: str, name: str, known: Iterable[str], *, within: str = "") -> UserError:
    """An error for a name that is not one of ``known``, with the nearest names first. within: the key it stands below."""
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} '{within}{'.' if within else ''}{name}': {hint}")
