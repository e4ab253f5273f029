"""Files that are whole or not there at all, and the one spelling of JSON that is hashed and compared."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def key_of(value: Any) -> str:
    """SHA-256 of the canonical JSON, 32 hexadecimal digits: an address."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:32]


def default_root() -> Path:
    """Of the store: ``$UNLEARN_STORE``, or a folder of the user's cache directory."""
    given = os.environ.get("UNLEARN_STORE")
    return Path(given).expanduser() if given else user_cache_path("unlearn")


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` is either the old file or the whole new one, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
