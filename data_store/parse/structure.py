"""mmCIF and PDB files -> protein chains in AlphaFold2's atom37 layout.

Rules, as in AF2 (supplement 1.2.1): the first model; chains by their author id; selenomethionine read as methionine; arginine NH1 is
the one nearer to CD; D-amino acids and unknown residues are X, of which backbone and CB are kept; other modified residues count
as their parent. Water, ligands and nucleic acids are left out. Coordinates in ångström.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import gemmi
import numpy as np

from ...errors import FoldlineError
from ..residues import ATOM37_MASK, ATOM_INDEX, N_ATOM37, RESTYPES, UNKNOWN, encode_sequence
from .align import align
from .text import read_source, stem_and_kind

BLANK_CHAIN = "A"  # what a chain without a name is called
MMCIF_KINDS = (".cif", ".mmcif")
PDB_KINDS = (".pdb", ".ent")
BACKBONE_CB = tuple(ATOM_INDEX[name] for name in ("N", "CA", "C", "O", "CB"))
_PEPTIDES = (gemmi.PolymerType.PeptideL, gemmi.PolymerType.PeptideD)
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
# Columns of the PDB format that every writer of the 1990s filled alike; behind them are charges now, were line numbers then.
_OLD_PDB_WIDTH = 72
_MIN_PLACED_IDENTITY = 0.9
_DEPOSITED = "_pdbx_database_status.recvd_initial_deposition_date"


@dataclass(frozen=True)
class ParsedChain:
    """One protein chain: ``sequence`` of N_res letters (the twenty and X), ``positions`` float32 [N_res, 37, 3] ångström, ``mask`` uint8
    [N_res, 37], and ``notes`` on what had to be repaired to read it."""

    name: str
    sequence: str
    positions: np.ndarray
    mask: np.ndarray
    notes: tuple[str, ...] = ()


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
        self._chains: dict[str, ParsedChain | None] = {}

    @property
    def chain_names(self) -> tuple[str, ...]:
        """Author ids of all chains of the first model, proteins or not."""
        return tuple(chain.name for chain in self.structure[0])

    def chain(self, name: str) -> ParsedChain | None:
        """The protein of author chain ``name``, parsed once; None when there is no such chain or no protein in it."""
        if name not in self._chains:
            found = next((chain for chain in self.structure[0] if chain.name == name), None)
            self._chains[name] = None if found is None else _protein(self.structure, found, self._notes)
        return self._chains[name]


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


def _protein(structure: gemmi.Structure, chain: gemmi.Chain, notes: tuple[str, ...]) -> ParsedChain | None:
    """The longest protein of an author chain, or None."""
    peptides = []
    for span in chain.subchains():
        if span[0].entity_type != gemmi.EntityType.Polymer:
            continue
        entity = structure.get_entity_of(span)  # None in a PDB file that leaves the chain blank
        stated = gemmi.PolymerType.Unknown if entity is None else entity.polymer_type
        if (span.check_polymer_type() if stated == gemmi.PolymerType.Unknown else stated) in _PEPTIDES:
            peptides.append((span, [_letter(gemmi.Entity.first_mon(name)) for name in entity.full_sequence] if entity else []))
    if not peptides:
        return None
    span, full = max(peptides, key=lambda pair: len(pair[0]))
    groups = [list(group) for _, group in groupby(span, key=lambda residue: str(residue.seqid))]
    places, sequence, placing = _place(groups, "".join(full))
    positions = np.zeros((len(sequence), N_ATOM37, 3), np.float32)
    mask = np.zeros((len(sequence), N_ATOM37), np.uint8)
    for group, place in zip(groups, places, strict=True):
        if place >= 0:
            residue = _choose(group, sequence[place])
            positions[place], mask[place] = _atoms(residue, int(encode_sequence(sequence[place])[0]))
    return ParsedChain(chain.name.strip() or BLANK_CHAIN, sequence, positions, mask, notes + placing)


def _place(groups: list[list[gemmi.Residue]], full: str) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """Position of each observed residue in the chain's sequence, that sequence, and notes.

    The file's own numbering against its full sequence is taken when it is consistent; else the two are aligned; a file without a
    full sequence (or with a foreign one) gets the observed residues as its sequence.
    """
    letters = [{_letter(residue.name) for residue in group} for group in groups]
    observed = "".join(_letter(_choose(group, "").name) for group in groups)
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


def _choose(group: list[gemmi.Residue], letter: str) -> gemmi.Residue:
    """One residue where several types share a place: the one that the sequence names, else the highest occupancy (ties: the first)."""
    named = [residue for residue in group if _letter(residue.name) == letter] or group
    return max(named, key=lambda residue: max((atom.occ for atom in residue), default=0.0))


def _letter(name: str) -> str:
    """Residue name -> one of the twenty letters or X."""
    facts = gemmi.find_tabulated_residue(name)
    if not facts.is_amino_acid() or facts.kind == gemmi.ResidueKind.AAD:
        return "X"
    letter = facts.one_letter_code.upper()
    return letter if letter in RESTYPES else "X"


def _atoms(residue: gemmi.Residue, restype: int) -> tuple[np.ndarray, np.ndarray]:
    """([37, 3] ångström, [37] mask) of one residue, holding only the atoms that its type has."""
    positions, mask = np.zeros((N_ATOM37, 3), np.float32), np.zeros(N_ATOM37, np.uint8)
    allowed = np.isin(np.arange(N_ATOM37), BACKBONE_CB) if restype == UNKNOWN else ATOM37_MASK[restype] > 0
    for atom in _one_conformer(residue):
        name = "SD" if residue.name == "MSE" and atom.name == "SE" else atom.name
        place = np.array(atom.pos.tolist(), np.float32)
        index = ATOM_INDEX.get(name, -1)
        # A coordinate field left blank reads as the origin; no deposited atom lies exactly there.
        if index >= 0 and allowed[index] and not mask[index] and np.isfinite(place).all() and place.any():
            positions[index], mask[index] = place, 1
    if restype == RESTYPES.index("R"):
        _order_arginine(positions, mask)
    return positions, mask


def _one_conformer(residue: gemmi.Residue) -> list[gemmi.Atom]:
    """The atoms of the alternative location with the highest mean occupancy (ties: the first label), and those without alternatives.

    An atom that this location lacks is taken from the location where it has its highest occupancy.
    """
    occupancies: dict[str, list[float]] = {}
    for atom in residue:
        occupancies.setdefault(atom.altloc, []).append(atom.occ)
    labels = [label for label in sorted(occupancies) if label != "\0"]
    best = max(labels, key=lambda label: sum(occupancies[label]) / len(occupancies[label]), default="\0")
    return sorted(residue, key=lambda atom: (atom.altloc not in ("\0", best), -atom.occ))


def _order_arginine(positions: np.ndarray, mask: np.ndarray) -> None:
    """Swap NH1 and NH2 in place when NH2 is the one nearer to CD."""
    first, second, anchor = (ATOM_INDEX[name] for name in ("NH1", "NH2", "CD"))
    if mask[[first, second, anchor]].all():
        distances = np.linalg.norm(positions[[first, second]] - positions[anchor], axis=-1)
        if distances[1] < distances[0]:
            positions[[first, second]] = positions[[second, first]]


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
