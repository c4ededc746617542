"""A store on S3, read and written through tensorstore. Credentials and region come from the usual AWS variables and files, the server
from AWS_ENDPOINT_URL where it is set."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import FoldlineError
from .engine import tensorstore_or_none
from .places import BLOCK

_SECONDS = 30.0  # for one request of at most BLOCK bytes
_RETRIES = {"max_retries": 2, "initial_delay": "200ms", "max_delay": "1s"}


class S3Place:
    """The objects below ``s3://bucket/prefix``."""

    def __init__(self, url: str) -> None:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise FoldlineError(f"{url} names no bucket; give s3://BUCKET/PREFIX")
        self.path: Path | str = url
        self._bucket, self._prefix = bucket, prefix.rstrip("/")

    def names(self) -> list[str]:
        found = self._ask(self._root().list())
        return sorted(key.decode() for key in found)

    def read(self, name: str) -> bytes:
        found = self._ask(self._root().read(name))
        if found.state != "value":
            raise FileNotFoundError(f"{self.path} has no object {name}")
        return bytes(found.value)

    def blocks(self, name: str, size: int) -> Iterator[bytes]:
        root = self._root()
        for start in range(0, size, BLOCK):
            yield self._range(root, name, start, min(size, start + BLOCK))
        if more := self._range(root, name, size, size + 1):
            yield more

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.read(name))

    def write(self, name: str, data: bytes) -> None:
        """Put one object."""
        self._ask(self._root().write(name, data), seconds=_SECONDS * (1 + len(data) / BLOCK))

    def entries(self, name: str) -> list[str]:
        tensorstore = self._tensorstore()
        zipped = tensorstore.KvStore.open({"driver": "zip", "base": self.kvstore(name)}, context=tensorstore.Context(self.context()))
        return sorted(key.decode(errors="replace") for key in self._ask(self._ask(zipped).list()))

    def kvstore(self, name: str) -> dict[str, Any]:
        return {**self._address(), "path": f"{self._prefix}/{name}".lstrip("/")}

    def context(self) -> dict[str, Any]:
        by_variables = "AWS_ACCESS_KEY_ID" in os.environ  # without this, tensorstore searches for files first and complains of each
        return {"s3_request_retries": _RETRIES, **({"aws_credentials": {"type": "environment"}} if by_variables else {})}

    def faults(self) -> list[str]:
        return []

    def _address(self) -> dict[str, Any]:
        endpoint = {"endpoint": os.environ["AWS_ENDPOINT_URL"].rstrip("/")} if os.environ.get("AWS_ENDPOINT_URL") else {}
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return {
            "driver": "s3",
            "bucket": self._bucket,
            **endpoint,
            **({"aws_region": region or "us-east-1"} if region or endpoint else {}),
        }

    def _root(self) -> Any:
        tensorstore = self._tensorstore()
        spec = {**self._address(), "path": f"{self._prefix}/".lstrip("/")}
        return self._ask(tensorstore.KvStore.open(spec, context=tensorstore.Context(self.context())))

    def _tensorstore(self) -> Any:
        tensorstore = tensorstore_or_none()
        if tensorstore is None:
            raise FoldlineError(
                f"{self.path} cannot be read here: S3 needs the package tensorstore, in a process that was not forked from one that uses "
                f"it; pip install tensorstore, start workers with the spawn method, or copy the store to a folder"
            )
        return tensorstore

    def _range(self, root: Any, name: str, start: int, stop: int) -> bytes:
        """Bytes of an object; fewer where it ends before."""
        try:
            return bytes(self._ask(root.read(name, byte_range=slice(start, stop))).value)
        except FoldlineError as error:
            if isinstance(error.__cause__, ValueError):  # what tensorstore makes of a range beyond the end
                return b""
            raise

    def _ask(self, future: Any, seconds: float = _SECONDS) -> Any:
        try:
            return future.result(timeout=seconds)
        except Exception as error:  # tensorstore has no class of its own for what a network does
            what = f"no answer within {seconds:.0f} s" if isinstance(error, TimeoutError) else str(error).split(" [")[0][:300]
            server = os.environ.get("AWS_ENDPOINT_URL", "Amazon's servers")
            raise FoldlineError(
                f"{self.path} cannot be reached at {server} ({what}); check the bucket, AWS_ENDPOINT_URL and the credentials "
                "(AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
            ) from error
