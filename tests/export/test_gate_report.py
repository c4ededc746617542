"""The gate's page stands alone, shows every value with its limit, and speed never without accuracy."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from foldline.export.bench import BenchReport, Cell
from foldline.export.bench_memory import Peak
from foldline.export.gate import Folded, GateReport, Scores
from foldline.export.gate_checks import ANY, DISTOGRAM, LDDT, REFUSAL, REPEAT, RMSD, Check
from foldline.export.gate_proteins import Bin
from foldline.export.gate_report import geometric_mean, report_html, write_report

HOSTILE = "<script>alert(1)</script>"
ABOUT = {"kind": "onnxruntime", "build_seconds": 12.5, "bytes": 31_000_000, "versions": {"torch": "2.9"}, "weights": "ab" * 32}


def folded(name: str, residues: int) -> Folded:
    return Folded(name, residues, 501, 124, 377, "store", Scores(0.81234, 88.0, 0.7), Scores(0.81239, 88.0, 0.7))


def checks(name: str, rmsd: float) -> tuple[Check, ...]:
    return (
        Check(name, RMSD, rmsd, 0.02, " Å"),
        Check(name, LDDT, 0.00031, 0.002, ""),
        Check(name, DISTOGRAM, 0.0, 0.002, ""),
        Check(name, REPEAT, 0.0, 0.0, ""),
    )


GATE = GateReport(
    "onnxruntime",
    "torch",
    (*checks("1aaa_A", 0.0123), *checks("2bbb_A", 0.0042), Check(ANY, REFUSAL, 0.0, 0.0, "")),
    "fp32",
    1,
    (folded("1aaa_A", 100), folded("2bbb_A", 300)),
    (Bin(1, 128, "1aaa_A", ""), Bin(129, 256, "", "no protein of this length"), Bin(257, 384, "2bbb_A", "")),
)
BENCH = BenchReport(
    ("PyTorch", "onnxruntime"),
    3,
    2,
    "cpu",
    (
        Cell("PyTorch", "1aaa_A", 100, 501, 2.0, (1.0, 1.1, 1.2), (1.0, 1.0, 1.0), 0.0, 0.0, Peak(400_000_000, "resident")),
        Cell("onnxruntime", "1aaa_A", 100, 501, 0.7, (0.5, 0.55, 0.4), (2.0, 2.0, 3.0), -0.0004, 0.0123, Peak(1_250_000_000, "resident")),
    ),
    ("torch.compile: no C++ compiler",),
)


class Page(HTMLParser):
    """Cells of each table as text, and every address or script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.open = True

    def handle_endtag(self, tag: str) -> None:
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.tables[-1][-1][-1] += data


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = report_html(GATE, BENCH, ABOUT)
    page = Page(text)
    assert page.links == []
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert "{{" not in text


def test_every_value_stands_under_its_limit() -> None:
    accuracy, speed, stability = Page(report_html(GATE, BENCH, ABOUT)).tables
    head, limits, first, second, empty = accuracy
    column = head.index("RMSDÅ, all atoms")
    assert [row[column] for row in (limits, first, second)] == ["0.02", "0.012", "0.0042"]
    assert first[:5] == ["1–128", "1aaa_A store", "100", "501 124 + 377", "0.812 → 0.812"]
    assert empty == ["129–256", "not covered: no protein of this length"]
    assert stability[2][0] == "1aaa_A"
    assert speed[0][-2:] == ["Δ lDDT-Cα", "RMSD, Å"]
    assert speed[2][2:] == ["onnxruntime", "0.50 s", "0.40 s – 0.55 s", "2.00×", "0.70 s", "1.25 GB", "-0.0004", "0.012"]


def test_what_is_over_its_limit_is_marked_and_named() -> None:
    passing = report_html(GATE, None, ABOUT)
    assert 'class="bad"' not in passing
    assert ">passed<" in passing
    failing = report_html(replace(GATE, checks=(*GATE.checks, Check("1aaa_A", LDDT, 0.5, 0.002, ""))), None, ABOUT)
    assert failing.count('<td class="bad">') == 1
    assert ">refused<" in failing
    assert "1aaa_A: change of lDDT-Cα 0.5, limit 0.002" in failing
    unknown = report_html(replace(GATE, checks=(Check("1aaa_A", LDDT, float("nan"), 0.002, ""),)), None, ABOUT)
    assert re.search(r'<td class="bad">nan', unknown)
    taken = replace(GATE, checks=(Check(ANY, REFUSAL, 1.0, 0.0, "", "N_res = 513"),))
    assert "Not refused with the limit: N_res = 513" in report_html(taken, None, ABOUT)


def test_names_cannot_break_out_of_the_page() -> None:
    hostile = replace(GATE, engine=HOSTILE, proteins=(folded(HOSTILE, 3),), checks=(Check(HOSTILE, RMSD, 1.0, 0.1, HOSTILE, HOSTILE),))
    page = Page(report_html(hostile, BENCH, {HOSTILE: HOSTILE}))
    assert "script" not in page.tags


def test_both_files_are_written_and_the_json_holds_everything(tmp_path: Path) -> None:
    paths = write_report(tmp_path, GATE, BENCH, ABOUT)
    assert [path.name for path in paths] == ["gate.json", "gate.html"]
    data = json.loads(paths[0].read_text())
    assert (data["passed"], data["precision"], len(data["checks"])) == (True, "fp32", 9)
    assert data["bench"]["cells"][1]["peak"] == {"bytes": 1_250_000_000, "method": "resident"}
    assert data["bench"]["cells"][1]["rmsd"] == 0.0123
    assert data["about"] == ABOUT
    assert [one["protein"] for one in data["bins"]] == ["1aaa_A", "", "2bbb_A"]
    assert GateReport.from_dict(data) == GATE
    broken = replace(GATE, checks=(Check("1aaa_A", LDDT, float("inf"), 0.002, ""),))
    assert GateReport.from_dict(broken.to_dict()) == broken


def test_ratios_are_averaged_as_ratios() -> None:
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
