"""Layout: folders of structures with their alignments and template hits beside them, or in a folder named after the chain.

``1ubq_A.cif`` or ``1ubq.cif`` with ``1ubq_A.a3m``, ``1ubq_A.uniref90.sto``, ``1ubq_A.hhr`` or ``1ubq_A/uniref90_hits.a3m``. AlphaFold DB's
models (``AF-P01112-F1-model_v4.cif``) are entries of the distillation set.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..metadata_table import Overrides, read_metadata_table
from ..parse.text import stem_and_kind
from ..sources import NAMED_CHAIN
from .entry import Entry, Listing, Wanted
from .files import Structures, in_order, is_alignment, is_hits, refusal, source_files
from .outcome import Outcome, quarantined

METADATA_TABLE = "metadata.tsv"
SUBFOLDERS = ("a3m", "hhr")  # of a chain's folder in OpenProteinSet
_AFDB = re.compile(r"(AF-([A-Z0-9]+)-F\d+)(-model_v\d+)?")


def list_folder(source: Path, *, predicted: bool = False) -> Listing:
    """The entries of a folder with its sub-folders. With ``predicted`` every structure is a prediction with its pLDDT.

    Raises FoldlineError when ``source`` is no folder or its metadata.tsv is wrong.
    """
    files = source_files(source)
    table = read_metadata_table(source / METADATA_TABLE)
    structures = Structures.among(files)
    names = _Names(structures, predicted)
    owned, orphans = assign(files, names.owner)
    of_entry: dict[str, dict[str, list[Path]]] = defaultdict(dict)
    for owner, paths in owned.items():
        of_entry[names.entry(owner)][owner] = paths
    rows: dict[str, dict[str, Overrides]] = defaultdict(dict)
    for chain_id, row in table.items():
        rows[names.entry(chain_id)][chain_id] = row
    taken: dict[str, list[str]] = defaultdict(list)
    for name in names.stems:
        taken[name.rpartition("_")[0]].append(name)
    entries = []
    for name, stem in names.stems.items():
        model = predicted or is_afdb(stem)
        named = None if model else NAMED_CHAIN.fullmatch(stem)
        if model or named:
            wanted: tuple[Wanted, ...] = (make_wanted(name, named[2] if named else "", of_entry[name].get(name, [])),)
        else:
            wanted = tuple(make_wanted(o, o.removeprefix(stem).removeprefix("_"), paths) for o, paths in of_entry[name].items())
        rest, source_kind = not (model or named), "distillation" if model else "experimental"
        entries.append(Entry(name, structures.by_stem[stem], wanted, rest, tuple(sorted(taken[name])), source_kind, rows[name]))
    refused = [outcome for outcome in map(refusal, files) if outcome is not None]
    promised = tuple((chain_id, METADATA_TABLE) for chain_id in table)
    return Listing(
        "afdb" if predicted else "folder", tuple(entries), (*structures.duplicates, *names.doubles, *refused, *orphans), promised
    )


def assign(files: Iterable[Path], owner: Callable[[str], str | None]) -> tuple[dict[str, list[Path]], list[Outcome]]:
    """Owner -> its alignments and hits, and the files that have none. ``owner`` turns a name into the chain or entry it stands for."""
    owned: dict[str, list[Path]] = defaultdict(list)
    orphans = []
    for path in files:
        if is_alignment(path) or is_hits(path):
            found = next((o for o in map(owner, _candidates(path)) if o is not None), None)
            if found is None:
                orphans.append(quarantined(path.name, "no structure beside it"))
            else:
                owned[found].append(path)
    return owned, orphans


def make_wanted(chain_id: str, chain: str, paths: Iterable[Path]) -> Wanted:
    """The chain with its files sorted into alignments and hits."""
    paths = list(paths)
    return Wanted(chain_id, chain, in_order(p for p in paths if is_alignment(p)), tuple(sorted(p for p in paths if is_hits(p))))


def is_afdb(stem: str) -> bool:
    """Whether a structure file of this name is a model of AlphaFold DB."""
    return _AFDB.fullmatch(stem) is not None


class _Names:
    """Which names stand for which entry: ``stems`` maps an entry's name to its structure's stem."""

    def __init__(self, structures: Structures, predicted: bool) -> None:
        self._predicted = predicted
        self.stems: dict[str, str] = {}
        self.doubles: list[Outcome] = []
        self._aliases: dict[str, str] = {}
        for stem, path in structures.by_stem.items():
            model = _AFDB.fullmatch(stem)
            name = model[1] if model else stem
            if name in self.stems:
                self.doubles.append(quarantined(path.name, f"{self.stems[name]} stands for '{name}' already; keep one of the two"))
                continue
            self.stems[name] = stem
            self._aliases[stem] = name
            if model:
                self._aliases.setdefault(model[2], name)

    def owner(self, name: str) -> str | None:
        """The entry ``name`` stands for, or ``name`` itself when it is a chain of an entry; None for neither."""
        if name in self.stems or name in self._aliases:
            return name if name in self.stems else self._aliases[name]
        return name if self.entry(name) != name else None

    def entry(self, owner: str) -> str:
        """The entry that gives the chain ``owner``: PDBID for PDBID_CHAIN where that has no structure of its own."""
        named = NAMED_CHAIN.fullmatch(owner)
        whole = named is not None and owner not in self.stems and named[1] in self.stems
        return named[1] if named is not None and whole and not self._predicted and not NAMED_CHAIN.fullmatch(named[1]) else owner


def _candidates(path: Path) -> Iterator[str]:
    """The names that a file may belong to, the likeliest first: its own, its own up to the first dot, its folder's, the one above."""
    stem = stem_and_kind(path)[0]
    yield stem
    if "." in stem:
        yield stem.partition(".")[0]
    yield path.parent.name
    if path.parent.name in SUBFOLDERS:
        yield path.parent.parent.name
