"""What is written is read again and compared bit by bit: a disk that keeps other bytes is found before the checkpoint counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foldline.errors import FoldlineError
from foldline.trainer import checkpoint
from foldline.trainer.checkpoint import file_hash, write_tensors

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([0.0, float("nan")])}


def test_whole_tensors_are_written_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    assert write_tensors(path, TENSORS, {}) == file_hash(path) != ""


@pytest.mark.parametrize("at", [-1, -8, -20])  # of both tensors; the last byte of 0.0 and of NaN among them
def test_a_disk_that_keeps_other_bytes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    plain = checkpoint.sync_file

    def unreliable(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 0x80
        path.write_bytes(data)
        plain(path)

    monkeypatch.setattr(checkpoint, "sync_file", unreliable)
    path = tmp_path / "w.safetensors"
    with pytest.raises(FoldlineError, match=f"{path} was read back with other values than were written .*the disk is not reliable"):
        write_tensors(path, TENSORS, {})
