"""mmCIF and PDB files -> protein chains in AlphaFold2's atom37 layout.

Rules, as in AF2 (supplement 1.2.1): the first model; chains by their author id; water, ligands and nucleic acids are left out; residues as
in residue.py. Coordinates in ångström.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import gemmi
import numpy as np

from ...errors import FoldlineError
from ..residues import N_ATOM37, encode_sequence
from .align import align
from .plddt import set_plddt
from .residue import choose_residue, residue_atoms, residue_letter
from .text import read_source, stem_and_kind

BLANK_CHAIN = "A"  # what a chain without a name is called
MMCIF_KINDS = (".cif", ".mmcif")
PDB_KINDS = (".pdb", ".ent")
_PEPTIDES = (gemmi.PolymerType.PeptideL, gemmi.PolymerType.PeptideD)
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
# Columns of the PDB format that every writer of the 1990s filled alike; behind them are charges now, were line numbers then.
_OLD_PDB_WIDTH = 72
_MIN_PLACED_IDENTITY = 0.9
_DEPOSITED = "_pdbx_database_status.recvd_initial_deposition_date"


@dataclass(frozen=True)
class ParsedChain:
    """One protein chain: ``sequence`` of N_res letters (the twenty and X), ``positions`` float32 [N_res, 37, 3] ångström, ``mask`` uint8
    [N_res, 37], ``notes`` on what had to be repaired to read it, ``b_factors`` float32 [N_res] of the CA atoms (0 where there is none): the
    pLDDT of a prediction."""

    name: str
    sequence: str
    positions: np.ndarray
    mask: np.ndarray
    notes: tuple[str, ...] = ()
    b_factors: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


@dataclass(frozen=True)
class ParsedStructure:
    """One file: its protein chains by author id, and what its header says ('' and 0.0 where it says nothing)."""

    chains: dict[str, ParsedChain]
    entry_id: str
    release_date: str
    resolution: float
    method: str
    title: str


def read_structure(path: Path) -> ParsedStructure:
    """Read a .cif, .mmcif, .pdb or .ent file, plain or .gz.

    Raises FoldlineError when the file is damaged, holds no coordinates or no protein chain.
    """
    opened = open_structure(path)
    found = (opened.chain(name) for name in opened.chain_names)
    chains = {chain.name: chain for chain in found if chain is not None}
    if not chains:
        raise FoldlineError(f"{path.name} holds no protein chain (only nucleic acids, ligands or water)")
    info = {"_exptl.method": "", "_struct.title": "", "_entry.id": "", **dict(opened.structure.info)}
    return ParsedStructure(
        chains=chains,
        entry_id=info["_entry.id"].strip().lower(),
        release_date=opened.release_date,
        resolution=float(opened.structure.resolution),
        method=_one_line(info["_exptl.method"]),
        title=_one_line(info["_struct.title"]),
    )


class OpenStructure:
    """A file whose chains are taken out one at a time: for a reader that wants one chain of many, or the date alone."""

    def __init__(self, structure: gemmi.Structure, release_date: str, notes: tuple[str, ...]) -> None:
        self.structure, self.release_date, self._notes = structure, release_date, notes
        self._layouts: dict[str, _Layout | None] = {}
        self._chains: dict[str, ParsedChain] = {}

    @property
    def chain_names(self) -> tuple[str, ...]:
        """Author ids of all chains of the first model, proteins or not."""
        return tuple(chain.name for chain in self.structure[0])

    def sequence(self, name: str) -> str:
        """The sequence of author chain ``name``, '' when there is no such chain or no protein in it."""
        layout = self._layout(name)
        return layout.sequence if layout else ""

    def chain(self, name: str) -> ParsedChain | None:
        """The protein of author chain ``name``, parsed once; None when there is no such chain or no protein in it."""
        if name not in self._chains and (layout := self._layout(name)):
            self._chains[name] = _with_atoms(name, layout)
        return self._chains.get(name)

    def _layout(self, name: str) -> _Layout | None:
        if name not in self._layouts:
            found = next((chain for chain in self.structure[0] if chain.name == name), None)
            self._layouts[name] = None if found is None else _lay_out(self.structure, found, self._notes)
        return self._layouts[name]


def open_structure(path: Path) -> OpenStructure:
    """Open a file as ``read_structure`` does, without parsing its chains. Raises FoldlineError when it is damaged or has no coordinates."""
    data = read_source(path)
    kind = stem_and_kind(path)[1]
    if kind not in (*MMCIF_KINDS, *PDB_KINDS):
        raise FoldlineError(f"{path.name} is not read: structures are {', '.join((*MMCIF_KINDS, *PDB_KINDS))}, plain or .gz")
    structure, release_date, notes = _from_mmcif(path, data) if kind in MMCIF_KINDS else _from_pdb(path, data)
    if len(structure) == 0 or sum(len(chain) for chain in structure[0]) == 0:
        raise FoldlineError(f"{path.name} holds no coordinates of a macromolecule; give the file with its atom records")
    structure.merge_chain_parts()
    structure.setup_entities()
    structure.assign_label_seq_id()
    return OpenStructure(structure, release_date or _iso(dict(structure.info).get(_DEPOSITED, "")), notes)


def _from_mmcif(path: Path, data: bytes) -> tuple[gemmi.Structure, str, tuple[str, ...]]:
    try:
        document = gemmi.cif.read_string(data.decode(errors="replace"))
        block = next((b for b in document if b.find_values("_atom_site.id")), None)
        if block is None:
            raise FoldlineError(f"{path.name} has no _atom_site loop: it is not a macromolecule's mmCIF")
        structure = gemmi.make_structure_from_block(block)
        set_plddt(block, structure)
    except (ValueError, RuntimeError, IndexError) as error:
        raise FoldlineError(f"{path.name} is not a valid mmCIF file ({_one_line(str(error))}); fetch it again") from None
    dates = [
        _iso(date) for tag in ("_pdbx_audit_revision_history.revision_date", "_database_PDB_rev.date") for date in block.find_values(tag)
    ]
    return structure, min(filter(None, dates), default=""), ()


def _from_pdb(path: Path, data: bytes) -> tuple[gemmi.Structure, str, tuple[str, ...]]:
    notes: tuple[str, ...] = ()
    try:
        try:
            structure = gemmi.read_pdb_string(data)
        except (ValueError, RuntimeError) as error:
            if "charge" not in str(error):
                raise
            structure = gemmi.read_pdb_string(data, max_line_length=_OLD_PDB_WIDTH)
            notes = (f"columns behind {_OLD_PDB_WIDTH} of the PDB file are not element and charge and were ignored",)
    except (ValueError, RuntimeError, IndexError) as error:
        raise FoldlineError(f"{path.name} is not a valid PDB file ({_one_line(str(error))}); fetch it again") from None
    revisions = re.findall(rb"^REVDAT.{7}(\d\d-[A-Z]{3}-\d\d)", data, re.MULTILINE)
    return structure, min(filter(None, (_iso(date.decode()) for date in revisions)), default=""), notes


@dataclass(frozen=True)
class _Layout:
    """A chain before its atoms are read: residues by place of the file, and each one's position in ``sequence`` (-1 = none)."""

    groups: list[list[gemmi.Residue]]
    places: np.ndarray
    sequence: str
    notes: tuple[str, ...]


def _lay_out(structure: gemmi.Structure, chain: gemmi.Chain, notes: tuple[str, ...]) -> _Layout | None:
    """The longest protein of an author chain, or None."""
    peptides = []
    for span in chain.subchains():
        if span[0].entity_type != gemmi.EntityType.Polymer:
            continue
        entity = structure.get_entity_of(span)  # None in a PDB file that leaves the chain blank
        stated = gemmi.PolymerType.Unknown if entity is None else entity.polymer_type
        if (span.check_polymer_type() if stated == gemmi.PolymerType.Unknown else stated) in _PEPTIDES:
            peptides.append((span, [residue_letter(gemmi.Entity.first_mon(name)) for name in entity.full_sequence] if entity else []))
    if not peptides:
        return None
    span, full = max(peptides, key=lambda pair: len(pair[0]))
    groups = [list(group) for _, group in groupby(span, key=lambda residue: str(residue.seqid))]
    places, sequence, placing = _place(groups, "".join(full))
    return _Layout(groups, places, sequence, notes + placing)


def _with_atoms(name: str, layout: _Layout) -> ParsedChain:
    positions = np.zeros((len(layout.sequence), N_ATOM37, 3), np.float32)
    mask = np.zeros((len(layout.sequence), N_ATOM37), np.uint8)
    b_factors = np.zeros(len(layout.sequence), np.float32)
    for group, place in zip(layout.groups, layout.places, strict=True):
        if place >= 0:
            letter = layout.sequence[place]
            residue = choose_residue(group, letter)
            positions[place], mask[place] = residue_atoms(residue, int(encode_sequence(letter)[0]))
            b_factors[place] = next((atom.b_iso for atom in residue if atom.name == "CA"), 0.0)
    return ParsedChain(name.strip() or BLANK_CHAIN, layout.sequence, positions, mask, layout.notes, b_factors)


def _place(groups: list[list[gemmi.Residue]], full: str) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """Position of each observed residue in the chain's sequence, that sequence, and notes.

    The file's own numbering against its full sequence is taken when it is consistent; else the two are aligned; a file without a
    full sequence (or with a foreign one) gets the observed residues as its sequence.
    """
    letters = [{residue_letter(residue.name) for residue in group} for group in groups]
    observed = "".join(residue_letter(choose_residue(group, "").name) for group in groups)
    if not full:
        return np.arange(len(groups)), observed, ()
    numbers = np.array([(group[0].label_seq or 0) - 1 for group in groups])
    inside = bool((numbers >= 0).all() and (numbers < len(full)).all() and (np.diff(numbers) > 0).all())
    if inside and all(full[n] in found for n, found in zip(numbers, letters, strict=True)):
        return numbers, full, ()
    places = align(observed, full)
    placed = places >= 0
    same = sum(full[p] in found for p, found in zip(places, letters, strict=True) if p >= 0)
    if same < _MIN_PLACED_IDENTITY * len(groups):
        return (
            np.arange(len(groups)),
            observed,
            ("the file's full sequence does not fit its coordinates: observed residues taken as the sequence",),
        )
    foreign = int((~placed).sum()) + int(placed.sum()) - same
    note = f"the file's residue numbering does not fit its sequence: aligned, {foreign} of {len(groups)} observed residues differ"
    return places, full, (note,)


def _iso(date: str) -> str:
    """'2004-01-31' or '31-JAN-04' -> ISO date; '' for anything else."""
    date = date.strip().strip("'\"")
    if re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        return date
    match = re.fullmatch(r"(\d\d)-([A-Z]{3})-(\d\d)", date)
    if not match or match[2] not in _MONTHS:
        return ""
    century = "19" if int(match[3]) >= 70 else "20"  # the archive opened in 1971
    return f"{century}{match[3]}-{_MONTHS.index(match[2]) + 1:02d}-{match[1]}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
