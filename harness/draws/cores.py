"""The machine's cores, shared by every run of one user on it: whoever computes a draw holds one of as many slots."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def core_slot() -> Iterator[None]:
    """Hold a core slot. A slot is an advisory file lock, so it is freed when its holder dies, however it dies.

    With all slots taken, wait in the kernel's queue of one of them, so that a run that starts late gets its turn.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no slots
        yield
        return
    folder = Path(tempfile.gettempdir()) / f"unlearn-cores-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    with ExitStack() as files:
        slots = [files.enter_context(open(folder / f"{i}.lock", "w")) for i in range(cores())]
        for slot in slots:
            try:
                fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                continue
        else:
            fcntl.flock(slots[os.getpid() % len(slots)], fcntl.LOCK_EX)
        yield
