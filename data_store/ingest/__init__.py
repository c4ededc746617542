"""From raw files to a store: layouts list entries, units of entries are read side by side, every entry ends with a reason."""

from __future__ import annotations

from .report import IngestReport
from .run import ingest

__all__ = ["IngestReport", "ingest"]
