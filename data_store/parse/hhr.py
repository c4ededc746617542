"""HHR files of HHsearch and HHblits: pairwise alignments of the query with database sequences.

A hit is a paragraph that begins with 'No N': '>name', a line of scores, and blocks of lines 'Q name first LETTERS last (length)' and
'T ...'. Consensus, secondary structure and confidence lines are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import FoldlineError
from ..templates.hit import TemplateHit, numbered
from .text import read_source

_CUT_OFF = "the file is cut off or damaged; search again, or remove this hit"
_SCORE = re.compile(r"(\w+)=\s*(\S+)")
# The name is cut to 14 characters; numbers are as wide as they need.
_ROW = re.compile(r"([QT]) (\S+) +(\d+) ([A-Za-z.~-]+) +(\d+) \(\d+\)\s*")


def read_hhr(path: Path) -> tuple[TemplateHit, ...]:
    """Read an .hhr file, plain or .gz. Raises FoldlineError as ``parse_hhr`` does, and for a damaged file."""
    return parse_hhr(read_source(path).decode(errors="replace"), path.name)


def parse_hhr(text: str, where: str) -> tuple[TemplateHit, ...]:
    """The hits of HHR text in the file's order; ``where`` names it in errors. No hits give an empty tuple.

    The table at the top may list more hits than have an alignment (hhsearch's -B, or a file cut off between two hits): only alignments
    count. Raises FoldlineError when the text is no HHR, or an alignment is cut off or contradicts its own numbers.
    """
    lines = text.splitlines()
    if not any(line.startswith(("Query ", "Match_columns", " No Hit")) for line in lines[:20]):
        raise FoldlineError(f"{where} is no HHR file (no 'Query' and ' No Hit' lines at its top); give hhsearch's or hhblits' -o output")
    starts = [i for i, line in enumerate(lines) if re.match(r"No \d+\s*$", line)]
    ends = [*starts, len(lines)][1:]
    return tuple(_hit(lines[start:end], start + 1, where) for start, end in zip(starts, ends, strict=True))


def _hit(lines: list[str], first_line: int, where: str) -> TemplateHit:
    index = int(lines[0].split()[1])
    name = lines[1][1:].strip() if len(lines) > 1 and lines[1].startswith(">") else ""
    scores = dict(_SCORE.findall(lines[2])) if len(lines) > 2 else {}
    place = f"{where}, line {first_line}: hit {index}"
    try:
        aligned_cols, sum_probs = int(scores["Aligned_cols"]), float(scores["Sum_probs"])
    except (KeyError, ValueError):
        raise FoldlineError(f"{place} has no line 'Probab=... Aligned_cols=... Sum_probs=...': {_CUT_OFF}") from None
    if not name:
        raise FoldlineError(f"{place} has no '>' line with a name: {_CUT_OFF}")
    query, hit = _rows(lines[3:], place)
    if len(query[0]) != len(hit[0]):
        raise FoldlineError(f"{place} has {len(query[0])} columns of the query and {len(hit[0])} of the template: {_CUT_OFF}")
    both = sum(q != "-" != t for q, t in zip(query[0], hit[0], strict=True))
    if both != aligned_cols:
        raise FoldlineError(f"{place} shows {both} aligned columns and announces {aligned_cols}: {_CUT_OFF}")
    return TemplateHit(index, name, aligned_cols, sum_probs, query[0], hit[0], query[1], hit[1])


def _rows(lines: list[str], place: str) -> tuple[tuple[str, tuple[int, ...]], tuple[str, tuple[int, ...]]]:
    """(row, numbers of its letters) of the query and of the template, blocks joined."""
    rows: dict[str, str] = {"Q": "", "T": ""}
    numbers: dict[str, tuple[int, ...]] = {"Q": (), "T": ()}
    for line in lines:
        match = _ROW.fullmatch(line)
        if match is None or match[2] == "Consensus":
            continue
        letters = re.sub("[.~]", "-", match[4]).upper()
        first, last = int(match[3]), int(match[5])
        count = len(letters) - letters.count("-")
        if count and last - first + 1 != count:
            raise FoldlineError(f"{place} has a row numbered {first} to {last} with {count} letters: {_CUT_OFF}")
        rows[match[1]] += letters
        numbers[match[1]] += numbered(letters, first - 1)
    return (rows["Q"], numbers["Q"]), (rows["T"], numbers["T"])
