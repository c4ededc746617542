"""A chain as text: facts, alignment, sequence with its tracks, co-evolving pairs, a contact map.

Coloured in a terminal, plain in a pipe or file; block and braille characters where the output is UTF-8, ASCII where it is not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..residues import CA, GAP
from ..types import Msa, Templates
from .alignment import IDENTITY
from .contacts import CONTACT, SEPARATION
from .marks import bars
from .text_map import contact_map_lines
from .view import FRACTIONS, ChainView

LONG_RANGE = 24  # residues apart: CASP's long-range contacts
_PIPE_WIDTH = 100  # columns where the output is no terminal
_MARGIN = 19  # track names and residue numbers beside the sequence
_FEW = 32  # effective sequences, below which couplings say little
_ASCII = str.maketrans({"Å": "A", "α": "A", "β": "B"})

Part = Table | Text | str


def print_chain(view: ChainView, top: int, console: Console | None = None) -> None:
    """Print a chain with its ``top`` strongest co-evolving pairs."""
    console = console or Console(highlight=False, markup=False, soft_wrap=True)
    unicode = (console.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")
    width = console.width if console.is_terminal else _PIPE_WIDTH
    parts: list[Part] = [_facts(view), _alignments(view), _templates(view.record.templates)]
    parts += [*_sequence(view, width, unicode), _pairs(view, top)]
    if view.has_homologs:
        parts += [*_precision_lines(view), "", *contact_map_lines(view, width, unicode)]
    for part in parts:
        _print(console, part, unicode, width)


def _print(console: Console, part: Part, unicode: bool, width: int) -> None:
    """Print a part; where the output holds no UTF-8, what cannot be said in ASCII becomes '?'."""
    if unicode:
        console.print(part, width=None if not isinstance(part, Table) else max(width, 4 * _PIPE_WIDTH), crop=False)
        return
    with console.capture() as captured:
        console.print(part, width=4 * _PIPE_WIDTH, crop=False)
    console.print(captured.get().translate(_ASCII).encode("ascii", "replace").decode(), end="")


def _facts(view: ChainView) -> Text:
    record, data = view.record, view.record.metadata
    atoms = f"{int(record.mask[:, CA].sum())} with CA, {int(record.mask.sum())} atoms" if view.has_structure else "no structure"
    facts = {
        "chain": data.chain_id,
        "title": data.title,
        "PDB id": data.pdb_id,
        "released": data.release_date,
        "method": data.method,
        "resolution": f"{data.resolution:.2f} Å" if data.resolution > 0 else "",
        "source": data.source,
        "cluster": data.cluster_id,
        "weight": f"{data.weight:g}",
        "asym, entity, sym": f"{data.asym_id}, {data.entity_id}, {data.sym_id}",
        "length": f"{view.length} residues, {atoms}",
    }
    if record.plddt is not None:
        facts["mean pLDDT"] = f"{record.plddt.mean():.1f}, {float((record.plddt >= 70).mean()):.0%} of residues at 70 or more"
    return _two_columns(facts)


def _alignments(view: ChainView) -> Text:
    facts = {f"MSA '{msa.name}'": _describe(msa) for msa in view.record.msas}
    seen, total = len(view.alignment.rows), view.alignment.total
    looked_at = f" (of {seen:,} evenly spaced rows out of {total:,})" if seen < total else ""
    if view.has_homologs:
        per_residue = view.alignment.n_eff / view.length
        facts["N_eff"] = f"{view.alignment.n_eff:.1f} at {IDENTITY:.0%} identity, {per_residue:.2f} per residue{looked_at}"
    else:
        facts["N_eff"] = "1: the query alone; there is no conservation and no co-evolution to see"
    return _two_columns(facts)


def _describe(msa: Msa) -> str:
    deleted = int((msa.deletions > 0).sum())
    return f"{len(msa.rows):,} rows, {float((msa.rows == GAP).mean()):.0%} gaps, insertions at {deleted:,} places"


def _templates(templates: Templates | None) -> Table | str:
    if templates is None:
        return "templates          not searched"
    if not len(templates.aatype):
        return "templates          none found"
    table = Table("template", "residues", "coverage", "sum of probabilities", box=None, pad_edge=False)
    for row, aatype in enumerate(templates.aatype):
        residues = int(templates.mask[row, :, CA].sum())
        name = templates.names[row] if row < len(templates.names) else str(row + 1)
        probability = f"{templates.sum_probs[row]:.1f}" if row < len(templates.sum_probs) else "-"
        table.add_row(name, str(residues), f"{residues / len(aatype):.0%}", probability)
    return table


def _two_columns(facts: dict[str, str]) -> Text:
    return Text("\n".join(f"{name:<17}  {text or '-'}" for name, text in facts.items()))


def _sequence(view: ChainView, width: int, unicode: bool) -> Iterator[Text]:
    """The sequence in lines of whole tens, numbered, each with its tracks below."""
    step = max(10, (width - _MARGIN) // 10 * 10)
    tracks = _tracks(view, unicode)
    letters = _coloured_sequence(view)
    for first in range(0, view.length, step):
        last = min(first + step, view.length)
        yield Text("\n" + " " * 12 + _ruler(first, last), style="dim")
        yield Text(f"sequence {first + 1:>4} ") + letters[first:last] + Text(f" {last}")
        for name, characters, style in tracks:
            yield Text(f"{name:<13} ") + Text(characters[first:last], style=style)


def _ruler(first: int, last: int) -> str:
    """The numbers of whole tens, each ending above its residue."""
    line = [" "] * (last - first + 2)
    for ten in range(first + 10, last + 1, 10):
        place = ten - first + 2 - len(str(ten))
        line[place : place + len(str(ten))] = str(ten)
    return "".join(line).rstrip()


def _tracks(view: ChainView, unicode: bool) -> list[tuple[str, str, str]]:
    tracks = []
    if view.has_homologs:
        tracks.append(("coverage", bars(view.coverage, unicode), "cyan"))
        tracks.append(("conservation", bars(view.conservation, unicode), "yellow"))
    if view.has_structure:
        tracks.append(("structure", view.secondary, "magenta"))
    if view.record.plddt is not None:
        tracks.append(("pLDDT", bars(view.record.plddt / 100, unicode), "blue"))
    return tracks


def _coloured_sequence(view: ChainView) -> Text:
    """The sequence; conserved residues bold, those without coordinates dim where the chain has a structure."""
    text = Text(view.record.sequence)
    conserved = view.conservation >= 0.6 if view.has_homologs else np.zeros(view.length, bool)
    observed = view.record.mask[:, CA] > 0
    for place in range(view.length):
        if view.has_structure and not observed[place]:
            text.stylize("dim", place, place + 1)
        elif conserved[place]:
            text.stylize("bold yellow", place, place + 1)
    return text


def _pairs(view: ChainView, top: int) -> Table | str:
    pairs = view.pairs(top)
    if not view.has_homologs:
        return ""
    if not pairs:
        return f"\nno pair of residues is {SEPARATION} or more apart\n" if top else ""
    table = Table("rank", "i", "j", "|i-j|", "score", "Cβ-Cβ", "", box=None, pad_edge=False, title_justify="left", title_style="bold")
    table.title = f"\nstrongest co-evolving pairs, {SEPARATION} or more residues apart"
    for column in table.columns[3:6]:
        column.justify = "right"
    sequence = view.record.sequence
    for rank, pair in enumerate(pairs, 1):
        known = not np.isnan(pair.distance)
        verdict = Text("contact", "green") if pair.in_contact else Text("apart", "red") if known else Text("not known", "dim")
        names = (f"{sequence[place]}{place + 1}" for place in (pair.i, pair.j))
        distance = f"{pair.distance:.1f} Å" if known else "-"
        table.add_row(str(rank), *names, str(pair.j - pair.i), f"{pair.score:.3f}", distance, verdict)
    return table


def _precision_lines(view: ChainView) -> Iterator[str]:
    alignment, used = view.alignment, view.rows_used
    if used < len(alignment.rows):
        yield f"co-evolution from {used:,} evenly spaced rows of {alignment.total:,}: the chain is long"
    if alignment.n_eff < _FEW:
        yield f"fewer than {_FEW} effective sequences: co-evolution is mostly noise here"
    if not view.has_structure:
        yield "no structure: predicted contacts have nothing to be compared with"
        return
    yield f"\nprecision (share of pairs with Cβ-Cβ < {CONTACT:g} Å)   " + "".join(f"{name:>7}" for name in FRACTIONS) + "   any pair"
    for separation in (SEPARATION, LONG_RANGE):
        cells = "".join(f"{value:>7.0%}" if not np.isnan(value) else f"{'-':>7}" for value in view.precisions(separation).values())
        rate = view.contact_rate(separation)
        yield f"  {separation:>2} or more residues apart{'':<21}{cells}{'-' if np.isnan(rate) else f'{rate:.1%}':>11}"
