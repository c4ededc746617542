"""README and docs as text: their blocks of code, spans of code within running text, and foldline's command lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")])
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S)
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")


class Command(NamedTuple):
    """A command line of a page. ``whole``: nothing is left out, so that the parser must take it as it stands."""

    place: str
    text: str
    whole: bool


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, body) of each fenced block."""
    return [(found["language"], found["body"]) for found in FENCE.finditer(text)]


def spans(text: str) -> list[str]:
    """Code within running text, on one line each."""
    return [found.replace("\n", " ") for found in SPAN.findall(FENCE.sub("", text))]


def code(text: str) -> list[str]:
    """Every line of code: of fenced and indented blocks (a line that goes on below is one), and spans."""
    lines = [line for _, body in blocks(text) for line in joined(body)]
    indented = "\n".join(line for line in FENCE.sub("", text).splitlines() if line.startswith("    "))
    return [*lines, *joined(indented), *spans(text)]


def joined(body: str) -> list[str]:
    """The lines of a block; ``\\`` at an end, or an option that stands further in, go on with the line above."""
    return re.sub(r"\\\n\s*|\n {5,}(?=\[?--)", " ", body).splitlines()


def commands(page: Path) -> Iterator[Command]:
    """The foldline command lines of a page, behind whatever starts them."""
    text = page.read_text()
    place = str(page.relative_to(ROOT))
    in_blocks = {line for _, body in blocks(text) for line in joined(body)}
    for line in code(text):
        if not re.search(r"\bfoldline(\.cli)? [a-z]", line):
            continue
        bare = re.sub(r"\s+# .*", "", line)
        for piece in re.split(r";\s+|(?<=\s)&&\s", bare):
            found = re.search(r"(?:^|\s)foldline(?:\.cli)? (?P<rest>[a-z].*)", piece.strip())
            if found:
                rest = without_brackets(found["rest"])
                yield Command(place, rest.replace("…", " ").strip(), whole=line in in_blocks and "…" not in rest)


def without_brackets(text: str) -> str:
    """``[--option VALUE]`` -> ``--option VALUE``, nested ones too."""
    before = ""
    while before != text:
        before, text = text, re.sub(r"\[(-[^\[\]]*)\]", r"\1", text)
    return text
