"""Layout: one folder per chain with its alignments and template hits; structures from an archive of their own.

OpenProteinSet as published (``1abc_A/a3m/uniref90_hits.a3m``, ``1abc_A/hhr/pdb70_hits.hhr``) or flattened (``1abc_A/uniref90_hits.a3m``),
and what `foldline search` writes. ``duplicate_pdb_chains.txt`` names chains of one sequence, of which one has the folder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ..metadata_table import Overrides, read_metadata_table
from ..sources import NAMED_CHAIN
from .entry import Entry, Listing, Wanted
from .files import Structures, is_alignment, is_hits, refusal, source_files
from .folder import METADATA_TABLE, SUBFOLDERS, make_wanted
from .outcome import Outcome, quarantined

DUPLICATES = "duplicate_pdb_chains.txt"


def list_openproteinset(source: Path, structures: Path | None) -> Listing:
    """The chains of an alignment archive. Their structures lie in ``structures`` or, without it, beside the chains' folders.

    Raises FoldlineError when one of the two is no folder or metadata.tsv is wrong.
    """
    files = source_files(source)
    folders: dict[str, list[Path]] = defaultdict(list)
    loose = []
    for path in files:
        if is_alignment(path) or is_hits(path):
            home = path.parent.parent if path.parent.name in SUBFOLDERS else path.parent
            if home == source:
                loose.append(quarantined(path.name, "it lies in no chain's folder; this layout needs CHAIN/…"))
            else:
                folders[home.name].append(path)
    for line in _duplicates(source / DUPLICATES):
        given = next((folders[chain] for chain in line if chain in folders), None)
        for chain in line if given is not None else ():
            folders.setdefault(chain, given or [])
    inside = {path.parent for paths in folders.values() for path in paths}
    own = [path for path in files if not any(parent in inside for parent in path.parents)]
    archive = Structures.among(own if structures is None else source_files(structures))
    table = read_metadata_table(source / METADATA_TABLE)
    entries, lost = attach(((chain, paths) for chain, paths in sorted(folders.items())), archive, table)
    if structures is None:
        used = {entry.structure for entry in entries}
        unused = (path for path in archive.by_stem.values() if path not in used)
        lost += [quarantined(path.name, "no folder of alignments is named after a chain of it") for path in unused]
    refused = [outcome for path in own if path.suffix not in (".fasta", ".fa") and (outcome := refusal(path)) is not None]
    promised = tuple((chain_id, METADATA_TABLE) for chain_id in table)
    return Listing("openproteinset", entries, (*loose, *refused, *lost), promised)


def attach(
    chains: Iterable[tuple[str, list[Path]]], archive: Structures, table: dict[str, Overrides]
) -> tuple[tuple[Entry, ...], list[Outcome]]:
    """Entries for (chain id, its files) pairs, one per structure file of ``archive``, and the chains that have no structure in it."""
    wanted: dict[str, list[Wanted]] = defaultdict(list)
    lost = []
    for chain_id, paths in chains:
        named = NAMED_CHAIN.fullmatch(chain_id)
        stem = archive.find(chain_id)
        if stem is not None:
            own = NAMED_CHAIN.fullmatch(stem)
            wanted[stem].append(make_wanted(chain_id, own[2] if own else "", paths))
        elif named is not None and (stem := archive.find(named[1])) is not None:
            wanted[stem].append(make_wanted(chain_id, named[2], paths))
        else:
            lost.append(quarantined(chain_id, "no structure of that name; give the folder of its mmCIF file with --structures"))
    entries = (
        Entry(stem, archive.by_stem[stem], tuple(chains), overrides={w.chain_id: table[w.chain_id] for w in chains if w.chain_id in table})
        for stem, chains in sorted(wanted.items())
    )
    return tuple(entries), lost


def _duplicates(path: Path) -> list[list[str]]:
    """The lines of OpenProteinSet's list of chains with one sequence; [] where there is no such file."""
    return [line.split() for line in path.read_text(errors="replace").splitlines()] if path.is_file() else []
