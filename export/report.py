"""One HTML page per protein that works without a network: structure, confidence, alignment, time, provenance."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from ..data_store.residues import CA, GAP, decode_sequence
from .comparison import Comparison
from .secondary import secondary_structure
from .structures import Structure, mmcif_text

SCRIPTS = ("report_ribbon.js", "report_viewer.js", "report_charts.js", "report_page.js")
ROWS_SHOWN = 256  # of the alignment
ROWS_COUNTED = 1000  # for the effective depth
SAME_SEQUENCE = 0.8  # identity from which two rows count as one


@dataclass(frozen=True)
class Report:
    """What a page shows. ``msa`` uint8 [depth, N_res], row 0 the query; ``pae`` [N_res, N_res] ångström with its largest possible value.

    ``timings`` are (what, seconds), ``provenance`` (key, value) pairs in the order of the page.
    """

    structure: Structure
    msa: np.ndarray
    timings: Sequence[tuple[str, float]]
    provenance: Sequence[tuple[str, str]]
    pae: np.ndarray | None = None
    pae_max: float = 0.0
    comparison: Comparison | None = None


def report_html(report: Report) -> str:
    """The whole page as text: styles, scripts, data and the mmCIF file are inside it."""
    values = {
        "title": html.escape(f"{report.structure.name} · Foldline"),
        "style": _resource("report.css"),
        "script": "\n".join(_resource(name) for name in SCRIPTS),
        "data": json.dumps(_page_data(report), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    }
    page = _resource("report.html")
    for name, value in values.items():
        before, _, after = page.partition("{{" + name + "}}")
        page = before + value + after
    return page


def msa_summary(rows: np.ndarray) -> dict[str, Any]:
    """What the alignment plot draws: rows by falling identity to the query (at most 256 of them), and their count per residue.

    ``effective`` is the number of sequences that differ by more than 20 %, from the first 1,000 rows.
    """
    present = rows != GAP
    identity = ((rows == rows[0]) & present).sum(-1) / np.maximum(present.sum(-1), 1)
    order = np.argsort(-identity, kind="stable")
    shown = order[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), ROWS_SHOWN)).astype(int))]
    return {
        "depth": len(rows),
        "effective": round(_effective_depth(rows[:ROWS_COUNTED]), 1),
        "coverage": present.sum(0).tolist(),
        "identity": [round(float(value), 3) for value in identity[shown]],
        "present": _base64(np.packbits(present[shown], axis=-1)),
    }


def _page_data(report: Report) -> dict[str, Any]:
    structure, comparison = report.structure, report.comparison
    data: dict[str, Any] = {
        "name": structure.name,
        "title": structure.title,
        "sequence": decode_sequence(structure.aatype),
        "names": structure.residue_names,
        "numbers": (structure.residue_index + 1).tolist(),
        "plddt": _rounded(structure.plddt, 2),
        "figures": _figures(report),
        "predicted": _trace(structure.positions, structure.atom_mask > 0.5, structure.aatype),
        "experiment": None,
        "lddt": None,
        "distance": None,
        "pae": None,
        "msa": msa_summary(report.msa),
        "timings": [[label, round(seconds, 4)] for label, seconds in report.timings],
        "provenance": [list(pair) for pair in report.provenance],
        "mmcif": mmcif_text(structure),
    }
    if comparison is not None:
        data["experiment"] = _trace(comparison.positions, comparison.mask, structure.aatype)
        data["lddt"], data["distance"] = _rounded(comparison.lddt, 3), _rounded(comparison.distance, 2)
    if report.pae is not None:
        scaled = np.rint(np.clip(report.pae / report.pae_max, 0, 1) * 255).astype(np.uint8)
        data["pae"] = {"values": _base64(scaled), "maximum": round(report.pae_max, 2), "mean": round(float(report.pae.mean()), 2)}
    return data


def _figures(report: Report) -> list[dict[str, Any]]:
    """The numbers at the top of the page; ``level`` is the pLDDT whose colour stands beside the number."""
    plddt = float(report.structure.plddt.mean())
    figures: list[tuple[str, str, str, float | None]] = [("mean pLDDT", f"{plddt:.1f}", "", round(plddt, 2))]
    if report.structure.ptm is not None:
        figures.append(("predicted TM-score", f"{report.structure.ptm:.2f}", "", None))
    if report.comparison is not None:
        figures.append(("lDDT-Cα to the experiment", f"{100 * report.comparison.lddt_ca:.1f}", "", None))
        figures.append(("Cα RMSD to the experiment", f"{report.comparison.rmsd:.2f}", "Å", None))
    figures.append(("residues", str(len(report.structure.aatype)), "", None))
    return [{"label": label, "value": value, "unit": unit, "level": level} for label, value, unit, level in figures]


def _trace(positions: np.ndarray, mask: np.ndarray, aatype: np.ndarray) -> dict[str, Any]:
    """The Cα trace a cartoon is drawn from; a piece ends where residues are missing."""
    rows = np.flatnonzero(mask[:, CA])
    kinds = secondary_structure(positions, mask, aatype)
    carbonyl = np.where((mask[:, 2] & mask[:, 4])[:, None], positions[:, 4] - positions[:, 2], [0.0, 0.0, 1.0])
    return {
        "ca": np.round(positions[rows, CA].astype(float), 3).tolist(),
        "side": np.round(carbonyl[rows].astype(float), 3).tolist(),
        "ss": "".join(kinds[row] for row in rows),
        "breaks": (np.flatnonzero(np.diff(rows) > 1) + 1).tolist(),
        "rows": rows.tolist(),
    }


def _effective_depth(rows: np.ndarray) -> float:
    present = rows != GAP
    total = 0.0
    for row, here in zip(rows, present, strict=True):
        shared = np.maximum((present & here).sum(-1), 1)
        total += 1.0 / max(1, int((((rows == row) & here).sum(-1) / shared >= SAME_SEQUENCE).sum()))
    return total


def _rounded(values: np.ndarray, digits: int) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), digits) for value in values]


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def index_html(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of all proteins of one call, each row linking to its page: columns are the keys of the rows, ``link`` the address."""
    columns = [key for key in rows[0] if key != "link"]
    head = "".join(f"<th>{html.escape(key)}</th>" for key in columns)
    body = ""
    for row in rows:
        first, *rest = (html.escape(row[key]) for key in columns)
        link = html.escape(row["link"], quote=True)
        body += f'<tr><td><a href="{link}">{first}</a></td>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>\n'
    page = _resource("report_index.html")
    return page.replace("{{style}}", _resource("report.css")).replace("{{head}}", head).replace("{{body}}", body)
