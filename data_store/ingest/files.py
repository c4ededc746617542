"""The files of a source by what they are: structures, alignments, template hits, and formats that are refused by name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import FoldlineError
from ..parse.structure import MMCIF_KINDS, PDB_KINDS
from ..parse.text import stem_and_kind
from .outcome import Outcome, quarantined

STRUCTURES = MMCIF_KINDS + PDB_KINDS
STOCKHOLM = (".sto", ".stockholm", ".stk")
ALIGNMENTS = (".a3m", *STOCKHOLM)
HITS = (".hhr",)
# Stockholm files that hmmsearch wrote: alignments to structures' sequences, not to the family.
_HIT_STOCKHOLM = re.compile(r"(.*[._-])?(pdb_hits|pdb_seqres_hits|hmm_output|hmmsearch)")
_REFUSED = {
    ".bcif": "BinaryCIF is not read; fetch the same entry as .cif.gz",
    ".mmtf": "MMTF is not read; fetch the same entry as .cif.gz",
    ".fasta": "FASTA files are not ingested; give an alignment as .a3m",
    ".aln": "this alignment format is not read; give .a3m or .sto",
    ".m8": "tables of hits are not read; give template hits as .hhr or pdb_hits.sto",
    ".hhm": "profiles are not read; give an alignment as .a3m or .sto",
    ".pkl": "pickles are never opened; give structures as .cif or .pdb and alignments as .a3m or .sto",
    ".npz": "arrays are not read; give structures as .cif or .pdb and alignments as .a3m or .sto",
}
_SAME_AS = {".fa": ".fasta", ".faa": ".fasta"}
# The order in which AlphaFold2 stacks its alignments; others follow by name.
_MSA_ORDER = ("uniref90", "bfd", "mgnify")


def source_files(root: Path) -> list[Path]:
    """All files under ``root``, sorted by path, hidden ones left out. FoldlineError when it is no folder."""
    if not root.is_dir():
        raise FoldlineError(f"{root} is not a folder; give the folder that holds NAME.cif or .pdb and NAME.a3m files, or a .csv manifest")
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder) / name for name in names if not name.startswith(".")]
    return sorted(found)


def is_hits(path: Path) -> bool:
    """Whether ``path`` holds template hits: HHsearch's .hhr, or the Stockholm file of a search of structures' sequences."""
    stem, kind = stem_and_kind(path)
    return kind in HITS or (kind in STOCKHOLM and _HIT_STOCKHOLM.fullmatch(stem) is not None)


def is_alignment(path: Path) -> bool:
    """Whether ``path`` holds an alignment of the chain's family."""
    return stem_and_kind(path)[1] in ALIGNMENTS and not is_hits(path)


def is_structure(path: Path) -> bool:
    """Whether ``path`` is named like coordinates that are read."""
    return stem_and_kind(path)[1] in STRUCTURES


def refusal(path: Path) -> Outcome | None:
    """Why a file of a biological format is not read; None for one that is, and for files of other kinds (a README)."""
    kind = stem_and_kind(path)[1]
    reason = _REFUSED.get(_SAME_AS.get(kind, kind))
    return None if reason is None else quarantined(path.name, reason)


def in_order(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Alignments as AlphaFold2 stacks them: UniRef90, BFD, MGnify, then the others by name."""

    def key(path: Path) -> tuple[int, str]:
        name = path.name.lower()
        return next((i for i, start in enumerate(_MSA_ORDER) if start in name), len(_MSA_ORDER)), str(path)

    return tuple(sorted(paths, key=key))


@dataclass
class Structures:
    """Structure files by name; an archive's 'pdb1abc.ent' and '1ABC.cif' both answer to '1abc'."""

    by_stem: dict[str, Path] = field(default_factory=dict)
    duplicates: list[Outcome] = field(default_factory=list)
    _alias: dict[str, str] = field(default_factory=dict)

    @classmethod
    def among(cls, paths: Iterable[Path]) -> Structures:
        """The structures among ``paths``; of two files of one stem the first is taken, the other one named."""
        found = cls()
        for path in paths:
            stem, kind = stem_and_kind(path)
            if kind not in STRUCTURES:
                continue
            if stem in found.by_stem:
                reason = f"{found.by_stem[stem].name} stands for '{stem}' already; keep one of the two"
                found.duplicates.append(quarantined(path.name, reason))
                continue
            found.by_stem[stem] = path
            for alias in (stem.lower(), stem.lower().removeprefix("pdb")):
                found._alias.setdefault(alias, stem)
        return found

    def find(self, name: str) -> str | None:
        """The stem that ``name`` stands for, itself or but for upper case and the archive's prefix."""
        return name if name in self.by_stem else self._alias.get(name.lower())
