"""Which library reads arrays: tensorstore where it is installed and its threads live in this process, zarr-python elsewhere."""

from __future__ import annotations

import os
from typing import Any

# The process that started tensorstore's threads. They do not survive a fork, so a child of that process reads with zarr-python instead.
_tensorstore_process: int | None = None


def tensorstore_or_none() -> Any:
    """The tensorstore module, or None where it is not installed or its threads were left behind by a fork."""
    global _tensorstore_process
    if _tensorstore_process not in (None, os.getpid()):
        return None
    try:
        import tensorstore
    except ImportError:
        return None
    _tensorstore_process = os.getpid()
    return tensorstore


def tensorstore_process() -> int | None:
    """The process in which tensorstore reads, None before it was asked for."""
    return _tensorstore_process
