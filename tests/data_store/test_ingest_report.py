"""The report of an ingest: counts that add up, distributions that hold every chain, a page that needs nothing beside it."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from foldline.cli import main
from foldline.data_store.ingest import ingest
from foldline.data_store.ingest.outcome import Facts, Outcome
from foldline.data_store.ingest.report import IngestReport, histograms
from foldline.data_store.ingest.run import IngestSettings
from foldline.tests.data_store.store_cases import DEMO


def facts(**changed: object) -> Facts:
    values = {"length": 100, "observed": 90, "depth": 50, "msas": 1, "templates": -1, "resolution": 1.9, "release_date": "2001-02-03"}
    return Facts(**{**values, "source": "experimental", "composition": (5,) * 21, **changed})  # type: ignore[arg-type]


class TestPage:
    def test_it_is_whole_and_stands_alone(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        shutil.copytree(DEMO, source)
        (source / "<b>odd&name.a3m").write_text(">q\nACD\n")
        ingest(source, tmp_path / "store", IngestSettings(report=tmp_path / "page"))
        text = (tmp_path / "page" / "report.html").read_text()
        tags = Tags()
        tags.feed(text)
        assert tags.open == []
        assert text.count("<svg") == len(histograms([facts()]))
        assert "&lt;b&gt;odd&amp;name.a3m" in text
        assert "<b>odd" not in text
        assert not re.search(r'(src|href)="', text)
        assert "http" not in text
        assert not (tmp_path / "store.report").exists()

    def test_its_numbers_are_those_of_the_store(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["ingest", str(DEMO), "--store", str(tmp_path / "store")]) == 0
        assert f"report: {tmp_path}/store.report/report.html" in capsys.readouterr().out
        data = json.loads((tmp_path / "store.report" / "report.json").read_text())
        assert data["counts"] == {"stored": 8, "repaired": 0, "skipped": 0, "quarantined": 0}
        assert data["layouts"] == ["folder"]
        for name in ("Length", "MSA depth", "Observed residues"):
            assert sum(data["distributions"][name]["counts"]) == 8


class TestDistributions:
    def test_every_chain_is_in_one_bin(self) -> None:
        lengths = [1, 31, 32, 63, 64, 2047, 2048, 30_000]
        found = histograms([facts(length=n, depth=n, observed=n) for n in lengths])
        assert sum(found["Length"].counts) == len(lengths)
        assert dict(zip(found["Length"].labels, found["Length"].counts, strict=True))["1–31"] == 2
        assert found["Length"].counts[-1] == 2
        assert sum(found["MSA depth"].counts) == len(lengths)
        assert found["Observed residues"].counts[-1] == len(lengths)

    def test_what_is_not_known_is_counted_beside(self) -> None:
        found = histograms([facts(), facts(resolution=0.0, release_date=""), facts(templates=3)])
        assert sum(found["Resolution"].counts) == 2
        assert found["Resolution"].note == "1 chains without one"
        assert found["Release year"].labels == ("2001",)
        assert found["Templates"].note == "2 chains without a template search"
        assert found["Residue types"].counts == (15,) * 21

    def test_reasons_are_counted_by_class(self) -> None:
        outcomes = [
            Outcome("a", "quarantined", "a.cif is empty; fetch it again"),
            Outcome("b", "quarantined", "b.cif.gz is named .gz but is not gzip; drop the ending or compress it"),
            Outcome("c", "quarantined", "c.cif is empty; fetch it again"),
            Outcome("d", "repaired", "no alignment beside it: stored with the query alone; columns behind 72", facts(passed_over={"x": 2})),
            Outcome("e", "stored", "", facts(passed_over={"x": 1, "y": 1})),
        ]
        report = IngestReport.of([Outcome.from_json(json.loads(json.dumps(o.to_json()))) for o in outcomes])
        assert {k: len(v) for k, v in report.quarantine_reasons().items()} == {"file empty or unreadable": 2, "gzip damaged or misnamed": 1}
        assert list(report.repair_reasons()) == ["no alignment: the query alone", "old PDB columns ignored"]
        assert report.template_reasons() == {"x": 3, "y": 1}
        assert report.count == 2


class Tags(HTMLParser):
    """The tags that are open."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
