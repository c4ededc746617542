"""Where template structures are found: a folder of PDB entries, opened once each."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path

from ...errors import FoldlineError
from ..parse.structure import MMCIF_KINDS, PDB_KINDS, OpenStructure, open_structure
from ..parse.text import read_source, stem_and_kind

_OPEN_ENTRIES = 64


class TemplateStructures:
    """The structures in ``folder``: PDBID.cif or .pdb (or .mmcif, .ent, pdbPDBID.ent; plain or .gz; either case), in the folder itself or
    in sub-folders named after the two middle characters, as the PDB's archive is laid out ('hl/1hlm.cif.gz').

    ``obsolete`` is the archive's obsolete.dat: an entry that the folder lacks is looked for under its successor's id.
    The last ``keep`` entries stay open. Raises FoldlineError when ``folder`` is no folder.
    """

    def __init__(self, folder: Path, obsolete: Path | None = None, keep: int = _OPEN_ENTRIES) -> None:
        if not folder.is_dir():
            raise FoldlineError(f"{folder} is not a folder; give the folder that holds PDBID.cif files or the archive's sub-folders")
        self.folder, self._keep = folder, keep
        self._successors = _read_obsolete(obsolete) if obsolete else {}
        self._names: dict[str, dict[str, Path]] = {}
        self._entries: OrderedDict[str, OpenStructure | FoldlineError] = OrderedDict()

    def current_id(self, pdb_id: str) -> str:
        """``pdb_id``, or the id of its successor when the folder has no file of it and the entry is obsolete."""
        seen = {pdb_id}
        while self.find(pdb_id) is None and self._successors.get(pdb_id, pdb_id) not in seen:
            pdb_id = self._successors[pdb_id]
            seen.add(pdb_id)
        return pdb_id

    def find(self, pdb_id: str) -> Path | None:
        """The file of an entry (lower case id), None when there is none."""
        return self._files("").get(pdb_id) or self._files(pdb_id[-3:-1]).get(pdb_id)

    def open(self, pdb_id: str) -> OpenStructure:
        """The entry's structure. Raises FoldlineError when it is missing or damaged, again for every call."""
        entry = self._entries.pop(pdb_id, None) or self._open(pdb_id)
        self._entries[pdb_id] = entry
        if len(self._entries) > self._keep:
            self._entries.popitem(last=False)
        if isinstance(entry, FoldlineError):
            raise entry
        return entry

    def _open(self, pdb_id: str) -> OpenStructure | FoldlineError:
        path = self.find(pdb_id)
        if path is None:
            return FoldlineError(
                f"no file of entry {pdb_id} in {self.folder.name} (looked for {pdb_id}.cif, there and in {pdb_id[-3:-1]}/)"
            )
        try:
            return open_structure(path)
        except FoldlineError as error:
            return error

    def _files(self, sub: str) -> dict[str, Path]:
        """Entry id -> file of the folder ('' ) or a sub-folder, listed once; mmCIF before PDB where both are there."""
        if sub not in self._names:
            folder = self.folder / sub
            found: dict[str, Path] = {}
            for path in sorted(folder.iterdir(), key=_preference) if folder.is_dir() else ():
                stem, kind = stem_and_kind(path)
                if kind in (*MMCIF_KINDS, *PDB_KINDS):
                    found.setdefault(re.sub(r"^pdb(?=\d...$)", "", stem.lower()), path)
            self._names[sub] = found
        return self._names[sub]


def _preference(path: Path) -> tuple[bool, str]:
    return stem_and_kind(path)[1] not in MMCIF_KINDS, path.name


def _read_obsolete(path: Path) -> dict[str, str]:
    """Id -> successor's id of each line 'OBSLTE date id successor…'; entries without successor are left out."""
    successors = {}
    for line in read_source(path).decode(errors="replace").splitlines():
        fields = line.lower().split()
        if len(fields) >= 4 and fields[0] == "obslte":
            successors[fields[2]] = fields[3]
    if not successors:
        raise FoldlineError(f"{path.name} has no line 'OBSLTE date id successor'; give the archive's obsolete.dat")
    return successors
