"""docs/data.md is a walk: its commands and snippets are run in order, in an empty folder, on the bundled proteins.

Of each ``console`` block the lines after "$ " are commands; ``python`` blocks are programs; a block behind ``<!-- file: NAME -->`` is that
file. ``<!-- needs: PROGRAM … -->`` marks a block that is left out where a program is not installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "data.md"
_FENCE = re.compile(r"(?:^<!-- (?P<mark>\w+): (?P<value>[^>]*?) -->\n)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    language: str
    mark: str  # needs, file or ""
    value: str
    body: str
    line: int

    def commands(self) -> list[str]:
        return [line[2:] for line in self.body.splitlines() if line.startswith("$ ")]


def blocks(text: str) -> list[Block]:
    return [
        Block(found["language"], found["mark"] or "", found["value"] or "", found["body"], text[: found.start()].count("\n") + 1)
        for found in _FENCE.finditer(text)
    ]


def run(arguments: list[str], folder: Path, what: str) -> str:
    """Run a program of the page in ``folder``; its output. The page's `foldline` is the code under test."""
    programs = folder / ".bin"
    programs.mkdir(exist_ok=True)
    script = programs / "foldline"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m foldline.cli "$@"\n')
    script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{what} of {PAGE.name} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def walk(page: list[Block], folder: Path) -> list[str]:
    """Run all blocks; the outputs of the commands and snippets, in order."""
    outputs = []
    for block in page:
        missing = [program for program in block.value.split() if shutil.which(program) is None] if block.mark == "needs" else []
        if missing:
            continue
        if block.mark == "file":
            (folder / block.value).write_text(block.body)
        elif block.language == "python":
            outputs.append(run([sys.executable, "-c", block.body], folder, f"the snippet at line {block.line}"))
        elif block.language == "console":
            outputs += [run(["bash", "-ec", command], folder, f"`{command}` at line {block.line}") for command in block.commands()]
    return outputs


def test_every_block_is_of_a_known_kind() -> None:
    text = PAGE.read_text()
    page = blocks(text)
    assert len(page) == text.count("\n```") // 2
    for block in page:
        assert block.mark in ("", "needs", "file"), f"line {block.line}"
        assert block.language in ("console", "python", "text", *(("toml",) if block.mark == "file" else ())), f"line {block.line}"
        assert block.language != "console" or block.commands(), f"line {block.line}"
        assert "foldline " not in block.body or block.language == "console", f"line {block.line}: a command that is not run"


def test_the_walk_from_an_empty_disk_to_a_batch(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    outputs = "\n".join(walk(blocks(PAGE.read_text()), tmp_path))
    assert "torch.Size([2, 32, 64, 49])" in outputs
    assert (tmp_path / "runs" / "walk" / "chain.png").stat().st_size > 40_000


def test_a_command_that_fails_is_seen(tmp_path: Path) -> None:
    page = blocks("```console\n$ foldline store ls nowhere\n```\n")
    with pytest.raises(AssertionError, match="ended with 2"):
        walk(page, tmp_path)


def test_a_block_whose_program_is_missing_is_left_out(tmp_path: Path) -> None:
    page = blocks("<!-- needs: no-such-program -->\n```console\n$ false\n```\n```console\n$ echo done\n```\n")
    assert walk(page, tmp_path) == ["done\n"]
