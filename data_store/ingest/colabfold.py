"""Layout: a folder that ColabFold wrote: NAME.a3m with a line '#lengths<tab>copies', the ranked models NAME_*rank_001*.pdb beside it.

The best relaxed model (else the best unrelaxed one) is the structure of a distillation entry; its B-factors are the pLDDT. An alignment
without a model (colabfold_search, --msa-only) takes its structure from --structures.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from ...errors import FoldlineError
from ..metadata_table import read_metadata_table
from ..parse.text import read_source, stem_and_kind
from .entry import Entry, Listing, Wanted
from .files import Structures, is_hits, is_structure, refusal, source_files
from .folder import METADATA_TABLE
from .openproteinset import attach
from .outcome import Outcome, quarantined

_HEADER = re.compile(rb"\s*#([\d,]+)\t([\d,]+)")
_BEST = re.compile(r"_(?:un)?relaxed_(?:rank_0*1_.*|.*_rank_0*1|model_1)")
_CHAIN_NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def list_colabfold(source: Path, structures: Path | None) -> Listing:
    """The predictions of a ColabFold folder. Raises FoldlineError when a folder is none or metadata.tsv is wrong."""
    files = [path for path in source_files(source) if not any(parent.name.endswith("_env") for parent in path.parents)]
    table = read_metadata_table(source / METADATA_TABLE)
    alignments = {stem_and_kind(path)[0]: path for path in files if stem_and_kind(path)[1] == ".a3m"}
    models = _best_models([path for path in files if is_structure(path)], alignments)
    entries, outcomes, lone = [], [], []
    for name, path in alignments.items():
        if name not in models:
            lone.append((name, [path]))
            continue
        try:
            wanted = _chains(name, path)
        except FoldlineError as error:
            outcomes.append(quarantined(name, str(error)))
            continue
        rows = {w.chain_id: table[w.chain_id] for w in wanted if w.chain_id in table}
        entries.append(Entry(name, models[name], wanted, source="distillation", overrides=rows))
    own = Structures.among(path for path in files if is_structure(path) and not _BEST.search(stem_and_kind(path)[0]))
    experimental, lost = attach(lone, own if structures is None else Structures.among(source_files(structures)), table)
    used = {entry.structure for entry in experimental}
    strange = [p for p in own.by_stem.values() if p not in used and structures is None and not _by_product(p, alignments)]
    outcomes += [quarantined(path.name, "no alignment NAME.a3m of ColabFold beside it") for path in strange]
    refused = [outcome for path in files if not is_hits(path) and (outcome := _refusal(path)) is not None]
    promised = tuple((chain_id, METADATA_TABLE) for chain_id in table)
    return Listing("colabfold", (*entries, *experimental), (*outcomes, *refused, *lost), promised)


def is_colabfold(path: Path) -> bool:
    """Whether an A3M begins as ColabFold writes it; False for a file that cannot be read."""
    try:
        return _HEADER.match(read_source(path)[:200]) is not None
    except FoldlineError:
        return False


def is_ranked(path: Path) -> bool:
    """Whether a structure file is named as ColabFold names its best model."""
    return is_structure(path) and re.search(r"_(un)?relaxed_.*rank_0*1(_|$)", stem_and_kind(path)[0]) is not None


def _best_models(paths: list[Path], alignments: dict[str, Path]) -> dict[str, Path]:
    found: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        match = _BEST.search(stem_and_kind(path)[0])
        if match and (name := stem_and_kind(path)[0][: match.start()]) in alignments:
            found[name].append(path)
    return {name: min(models, key=lambda path: ("_unrelaxed_" in path.name, path.name)) for name, models in found.items()}


def _chains(name: str, alignment: Path) -> tuple[Wanted, ...]:
    """The chains of a prediction: lengths and copies stand in the alignment's first line, the models name them A, B, … in that order."""
    header = _HEADER.match(read_source(alignment)[:1000])
    if header is None:
        return (Wanted(name, "", (alignment,)),)
    lengths, copies = ([int(n) for n in group.split(b",") if n] for group in header.groups())
    if len(lengths) != len(copies) or sum(copies) > len(_CHAIN_NAMES):
        raise FoldlineError(f"{alignment.name}: its first line gives {len(lengths)} lengths and {len(copies)} numbers of copies")
    if sum(copies) == 1:
        return (Wanted(name, "", (alignment,)),)
    chains: list[Wanted] = []
    start = 0
    for length, count in zip(lengths, copies, strict=True):
        for _ in range(count):
            letter = _CHAIN_NAMES[len(chains)]
            chains.append(Wanted(f"{name}_{letter}", letter, (alignment,), columns=(start, start + length)))
        start += length
    return tuple(chains)


def _by_product(path: Path, alignments: dict[str, Path]) -> bool:
    """Whether a structure is a model of lower rank."""
    name = re.split(r"_(?:un)?relaxed_", stem_and_kind(path)[0])[0]
    return name in alignments


def _refusal(path: Path) -> Outcome | None:
    """ColabFold's own tables of hits are by-products, not entries."""
    return None if path.suffix == ".m8" else refusal(path)
