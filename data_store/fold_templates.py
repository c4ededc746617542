"""Templates for what a user folds: hits beside the alignments, structures in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import FoldlineError
from .parse.hhr import read_hhr
from .parse.hmmsearch import read_hmmsearch
from .parse.text import stem_and_kind
from .templates.featurize import build_templates
from .templates.limits import TemplateLimits
from .templates.structures import TemplateStructures
from .types import ChainRecord

# Beside NAME.a3m or in the folder NAME that `foldline search` writes; plain or .gz.
_HIT_FILES = ("{}.hhr", "{}_pdb_hits.hhr", "{}_pdb_hits.sto", "{}/pdb_hits.hhr", "{}/pdb_hits.sto", "{}/pdb70_hits.hhr")


def with_templates(
    records: Sequence[ChainRecord], source: Path, structures: Path, max_release_date: str = ""
) -> tuple[list[ChainRecord], tuple[str, ...]]:
    """``records``, read from ``source``, with templates from their hits there, and a note 'NAME: …' for each on what was found.

    Hits are NAME.hhr, NAME_pdb_hits.sto or .hhr, or those of `foldline search` in NAME/ (plain or .gz); ``structures`` is a folder of PDB
    entries. A protein named after a PDB entry is never shown that entry. Raises FoldlineError for damaged hits, a folder that is none, a
    wrong date, and when no record has a file of hits.
    """
    folder = source if source.is_dir() else source.parent
    found = TemplateStructures(structures)
    changed, notes = [], []
    for record in records:
        name = record.metadata.chain_id
        limits = TemplateLimits(max_release_date=max_release_date, query_pdb_id=record.metadata.pdb_id)
        files = [path for pattern in _HIT_FILES for end in ("", ".gz") if (path := folder / f"{pattern.format(name)}{end}").is_file()]
        if not files:
            changed.append(record)
            notes.append(f"{name}: no hits beside it, folded without templates")
            continue
        hits = [
            hit for path in files for hit in (read_hhr(path) if stem_and_kind(path)[1] == ".hhr" else read_hmmsearch(path, record.sequence))
        ]
        templates, passed_over = build_templates(record.sequence, hits, found, limits)
        changed.append(replace(record, templates=templates))
        notes.append(
            f"{name}: {len(templates.names)} templates of {len(hits)} hits ({', '.join(templates.names[:4]) or _first(passed_over)})"
        )
    if not any(record.templates is not None for record in changed):
        raise FoldlineError(
            f"{folder} holds no template hits; give NAME.hhr or NAME_pdb_hits.sto beside NAME.a3m, or leave --templates out"
        )
    return changed, tuple(notes)


def _first(reasons: Sequence[str]) -> str:
    """Why there is no template, by the example of the first hit."""
    return reasons[0] if reasons else "the file lists none"
