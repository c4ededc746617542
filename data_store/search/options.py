"""How a search runs: nothing here changes what it finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """``threads`` per worker; ``timeout`` seconds per search, None for none; ``memory`` GiB per worker for a database kept between queries;
    ``gpu_server``: let MMseqs2 ask its running GPU server."""

    threads: int = 1
    timeout: float | None = None
    memory: float = 2.0
    gpu_server: bool = False
