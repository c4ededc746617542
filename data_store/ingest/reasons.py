"""Free-text reasons sorted into the few classes that a report counts."""

from __future__ import annotations

import re

OTHER = "other"
# The first pattern found in a reason gives its class.
_CLASSES: tuple[tuple[str, str], ...] = (
    (r"process that read it died", "the process reading it died"),
    (r"unexpected \w+: ", "fault of Foldline"),
    (r"already in the store", "already in the store"),
    (r"stands for .* already|gives '.*' already", "second file of one name"),
    (r"no structure|names \d+ structures|does not exist|there is no such entry", "no structure"),
    (r"no folder of alignments|no alignment NAME", "no alignment"),
    (r"not ingested|is not read|are not read|never opened|lies in no chain's folder", "format or place not read"),
    (r"\.gz but is not gzip|packed|damaged gzip", "gzip damaged or misnamed"),
    (r"is empty; |are empty; |cannot be read", "file empty or unreadable"),
    (r"not a valid (mmCIF|PDB)", "structure file damaged"),
    (r"no coordinates|no _atom_site", "no coordinates of a macromolecule"),
    (r"holds no protein chain", "no protein"),
    (r"its protein chains are|several protein chains", "no such chain"),
    (r"there is no backbone|no residue of the twenty", "no backbone to learn from"),
    (r"no pLDDT", "no pLDDT"),
    (r"is not the sequence of chain|not of one sequence|its first line", "alignment of another sequence"),
    (r"alignment|A3M|Stockholm|its query|first sequence|HHR|hit \d+|begin with|rows? ", "alignment or hits damaged"),
    (r"cannot be stored|given twice", "breaks a rule of the store"),
)
_REPAIRS: tuple[tuple[str, str], ...] = (
    (r"stored with the query alone", "no alignment: the query alone"),
    (r"is empty: left out", "one of several alignments empty"),
    (r"coordinates mapped by alignment", "coordinates mapped onto the alignment's query"),
    (r"rows of .* dropped", "alignment rows dropped"),
    (r"residue numbering does not fit|does not fit its coordinates", "numbering aligned with the sequence"),
    (r"columns behind", "old PDB columns ignored"),
    (r"have a backbone: check", "less than half of the residues observed"),
    (r"fractions of pLDDT", "pLDDT given as fractions"),
)
_TEMPLATES: tuple[tuple[str, str], ...] = (
    (r"query's own entry", "the query's own entry"),
    (r"was released|release date", "released too late or without a date"),
    (r"folder|no file|holds no", "structure not in the folder"),
    (r"exact piece", "the query again"),
    (r"residues, .* are needed", "too little aligned"),
    (r"that of a template before", "same aligned sequence as one before"),
)


def quarantine_class(reason: str) -> str:
    """The class of why an entry is not stored."""
    return _first(_CLASSES, reason)


def repair_classes(reason: str) -> tuple[str, ...]:
    """The classes of what was repaired in an entry; several notes may stand in one reason."""
    return tuple(name for pattern, name in _REPAIRS if re.search(pattern, reason)) or (OTHER,)


def template_class(note: str) -> str:
    """The class of why a template hit was passed over or realigned."""
    return _first(_TEMPLATES, note)


def _first(table: tuple[tuple[str, str], ...], text: str) -> str:
    return next((name for pattern, name in table if re.search(pattern, text)), OTHER)
