"""The page stands alone, holds the right numbers, and its inputs are right: secondary structure, superposition, alignment summary."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import gemmi
import numpy as np
import pytest

from foldline.data_store.fold_input import read_fold_input
from foldline.data_store.residues import CA
from foldline.data_store.types import ChainRecord
from foldline.export.comparison import compare
from foldline.export.report import Report, index_html, msa_summary, report_html
from foldline.export.secondary import secondary_structure
from foldline.export.structures import Structure
from foldline.tests.export.conftest import DEMO


@pytest.fixture(scope="module")
def ubiquitin() -> ChainRecord:
    (record,) = read_fold_input(next(DEMO.rglob("1ubq_A.a3m.gz")))
    return record


@pytest.fixture(scope="module")
def report(ubiquitin: ChainRecord) -> Report:
    n = len(ubiquitin.sequence)
    rng = np.random.default_rng(0)
    moved = ubiquitin.positions + rng.normal(0, 0.5, ubiquitin.positions.shape).astype(np.float32)
    structure = Structure(
        "1ubq_A",
        ubiquitin.aatype,
        ubiquitin.residue_index,
        moved,
        ubiquitin.mask,
        np.linspace(40, 98, n),
        0.71,
        title="</script><b>a title that would break out",
    )
    mask = ubiquitin.mask.copy()
    mask[20:24] = 0
    comparison = compare(moved, ubiquitin.positions, mask)
    pae = np.tile(np.linspace(0, 31, n), (n, 1)).astype(np.float32)
    return Report(structure, ubiquitin.msas[0].rows, [("features", 0.1), ("pass 1", 2.0)], [("seed", "0")], pae, 31.75, comparison)


class Links(HTMLParser):
    """Every address a browser would load or go to, and the text of the scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


def page_data(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def test_the_page_needs_no_network(report: Report) -> None:
    page = report_html(report)
    links = Links()
    links.feed(page)
    assert links.found == []
    assert links.tags.count("script") == 2
    assert not {"link", "iframe", "img", "base"} & set(links.tags)
    for pattern in (r"https?:", r"\bfetch\(", r"XMLHttpRequest", r"\bimport[ (]", r"@import", r"url\("):
        assert not re.search(pattern, page), pattern
    assert "{{" not in page


def test_the_page_holds_the_numbers(report: Report) -> None:
    data = page_data(report_html(report))
    assert report.comparison is not None
    figures = {figure["label"]: figure["value"] for figure in data["figures"]}  # type: ignore[attr-defined]
    assert figures["mean pLDDT"] == "69.0"
    assert figures["predicted TM-score"] == "0.71"
    assert figures["lDDT-Cα to the experiment"] == f"{100 * report.comparison.lddt_ca:.1f}"
    assert data["title"] == report.structure.title
    assert data["lddt"][20:24] == [None] * 4  # type: ignore[index]
    values = np.frombuffer(base64.b64decode(data["pae"]["values"]), np.uint8).reshape(76, 76)  # type: ignore[index]
    np.testing.assert_allclose(values / 255 * 31.75, report.pae, atol=0.07)
    assert data["experiment"]["breaks"] == [20]  # type: ignore[index]
    assert data["experiment"]["rows"][20] == 24  # type: ignore[index]
    assert gemmi.cif.read_string(data["mmcif"]).sole_block().name == "1ubq_A"  # type: ignore[arg-type]


def test_pages_without_experiment_or_error_head(report: Report) -> None:
    data = page_data(report_html(replace(report, comparison=None, pae=None)))
    assert data["experiment"] is data["pae"] is data["lddt"] is None


def test_secondary_structure_agrees_with_the_depositors(ubiquitin: ChainRecord) -> None:
    found = secondary_structure(ubiquitin.positions, ubiquitin.mask, ubiquitin.aatype)
    entry = gemmi.read_structure(str(next(DEMO.rglob("1ubq_A.cif.gz"))))
    (helix,) = [h for h in entry.helices if h.end.res_id.seqid.num - h.start.res_id.seqid.num > 6]
    spans = {"H": [(helix.start, helix.end)], "E": [(s.start, s.end) for sheet in entry.sheets for s in sheet.strands]}
    for kind, ends in spans.items():
        rows = [i for a, b in ends for i in range(a.res_id.seqid.num - 1, b.res_id.seqid.num)]
        assert np.mean([found[i] == kind for i in rows]) > 0.7
        assert np.mean([found[i] == kind for i in range(len(found)) if i not in rows]) < 0.1


def test_secondary_structure_needs_a_backbone(ubiquitin: ChainRecord) -> None:
    mask = ubiquitin.mask.copy()
    mask[:, 4] = 0
    assert set(secondary_structure(ubiquitin.positions, mask, ubiquitin.aatype)) == {"C"}


def rotation(rng: np.random.Generator) -> np.ndarray:
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def test_comparison_is_blind_to_rigid_motion_and_sees_the_rest(ubiquitin: ChainRecord) -> None:
    rng = np.random.default_rng(1)
    turn, shift = rotation(rng), rng.normal(0, 30, 3)
    moved = ubiquitin.positions @ turn.T + shift
    same = compare(moved, ubiquitin.positions, ubiquitin.mask)
    assert same is not None
    assert same.rmsd < 1e-3
    assert same.lddt_ca > 0.9999
    assert same.distance.max() < 1e-3
    np.testing.assert_allclose(same.positions[ubiquitin.mask > 0], moved[ubiquitin.mask > 0], atol=1e-3)
    mirror = compare(moved * [1, 1, -1], ubiquitin.positions, ubiquitin.mask)
    assert mirror is not None
    assert mirror.rmsd > 5
    assert compare(moved, ubiquitin.positions, np.zeros_like(ubiquitin.mask)) is None


def test_unresolved_residues_do_not_count(ubiquitin: ChainRecord) -> None:
    mask = ubiquitin.mask.copy()
    mask[:10] = 0
    broken = ubiquitin.positions.copy()
    broken[:10] += 50
    result = compare(broken, ubiquitin.positions, mask)
    assert result is not None
    assert result.rmsd < 1e-3
    assert np.isnan(result.lddt[:10]).all()
    assert np.isnan(result.distance[:10]).all()
    assert not np.isnan(result.lddt[10:][mask[10:, CA] > 0]).any()


def test_alignment_summary() -> None:
    query = np.arange(10, dtype=np.uint8)
    half = np.where(np.arange(10) < 5, query, 21).astype(np.uint8)
    far = np.where(np.arange(10) < 5, query, 19).astype(np.uint8)
    summary = msa_summary(np.stack([query, far, half, query]))
    assert summary["depth"] == 4
    assert summary["coverage"] == [4] * 5 + [3] * 5
    assert summary["identity"] == [1.0, 1.0, 1.0, 0.5]
    present = np.unpackbits(np.frombuffer(base64.b64decode(summary["present"]), np.uint8).reshape(4, 2), axis=-1)[:, :10]
    assert present.sum(-1).tolist() == [10, 5, 10, 10]
    assert summary["effective"] == pytest.approx(1 / 3 + 1 / 3 + 1 / 4 + 1 / 2, abs=0.06)
    assert len(msa_summary(np.repeat(query[None], 1000, 0))["identity"]) == 256


def test_overview_escapes_names() -> None:
    page = index_html([{"protein": "<a&b>", "pLDDT": "90", "link": 'x"y.html'}])
    assert "&lt;a&amp;b&gt;" in page
    assert 'href="x&quot;y.html"' in page
    assert "{{" not in page
