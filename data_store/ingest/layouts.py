"""Which layout a source has, and the listing of several sources together."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ...errors import FoldlineError
from ..parse.text import stem_and_kind
from .colabfold import is_colabfold, is_ranked, list_colabfold
from .entry import Entry, Listing
from .files import is_alignment, is_hits, is_structure, source_files
from .folder import SUBFOLDERS, is_afdb, list_folder
from .manifest import list_manifest
from .openproteinset import DUPLICATES, list_openproteinset
from .outcome import quarantined

AUTO = "auto"
# The layouts whose alignments may have their structures elsewhere.
_ELSEWHERE: dict[str, Callable[[Path, Path | None], Listing]] = {"openproteinset": list_openproteinset, "colabfold": list_colabfold}
_HERE: dict[str, Callable[[Path], Listing]] = {
    "folder": list_folder,
    "afdb": lambda source: list_folder(source, predicted=True),
    "manifest": list_manifest,
}
_SEARCH_NAME = re.compile(r".*_hits")
_LOOKED_AT = 2_000  # files from which a layout is guessed


def list_sources(sources: Sequence[Path], layout: str = AUTO, structures: Path | None = None) -> tuple[Listing, ...]:
    """One listing per source, entries sorted by name; an entry or chain that an earlier one gives already is named and left out.

    Raises FoldlineError for a source that does not have the layout, and for ``structures`` with a layout that cannot use it.
    """
    seen: set[str] = set()
    listings = []
    for source in sources:
        if not source.exists():
            raise FoldlineError(f"{source} is not a folder or a manifest: it does not exist")
        kind = guess(source) if layout == AUTO else layout
        if structures is not None and kind not in _ELSEWHERE:
            layouts = " or ".join(_ELSEWHERE)
            raise FoldlineError(
                f"--structures {structures} is of no use to {source}, layout '{kind}'; give --layout {layouts}, or leave it out"
            )
        listing = _ELSEWHERE[kind](source, structures) if kind in _ELSEWHERE else _HERE[kind](source)
        listings.append(_without(listing, seen))
    return tuple(listings)


def guess(source: Path) -> str:
    """The layout of ``source``: a table is a manifest; a folder is judged by the names of its first files."""
    if source.is_file():
        return "manifest"
    files = source_files(source)[:_LOOKED_AT]
    nested = [path for path in files if path.parent != source and (is_alignment(path) or is_hits(path))]
    if (source / DUPLICATES).is_file() or any(p.parent.name in SUBFOLDERS or _SEARCH_NAME.fullmatch(stem_and_kind(p)[0]) for p in nested):
        return "openproteinset"
    alignments = [path for path in files if is_alignment(path)]
    if any(map(is_ranked, files)) or any(map(is_colabfold, alignments[:3])):
        return "colabfold"
    models = [path for path in files if is_structure(path)]
    return "afdb" if models and all(is_afdb(stem_and_kind(path)[0]) for path in models) else "folder"


def _without(listing: Listing, seen: set[str]) -> Listing:
    """``listing`` without what is in ``seen``, which takes up the rest."""
    entries: list[Entry] = []
    outcomes = list(listing.outcomes)
    for entry in sorted(listing.entries, key=lambda entry: entry.name):
        wanted = tuple(w for w in entry.wanted if w.chain_id not in seen)
        twice = [w.chain_id for w in entry.wanted if w.chain_id in seen]
        if entry.rest and entry.name in seen:
            twice, wanted = [entry.name], ()
        outcomes += [
            quarantined(name, f"{entry.structure.name}: an earlier source gives '{name}' already; keep one of the two") for name in twice
        ]
        if wanted or (entry.rest and not twice):
            entries.append(replace(entry, wanted=wanted))
    seen |= {w.chain_id for entry in entries for w in entry.wanted} | {entry.name for entry in entries}
    return replace(listing, entries=tuple(entries), outcomes=tuple(outcomes))
