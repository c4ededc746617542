"""`foldline store show`: every kind of chain is printed and drawn; a mistake is one message and leaves no file."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from foldline.cli import main
from foldline.data_store.show.marks import bars, braille, shrink
from foldline.data_store.show.picture import draw_chain
from foldline.data_store.show.terminal import print_chain
from foldline.data_store.show.view import ChainView
from foldline.data_store.types import ChainRecord, Templates
from foldline.tests.data_store.show_cases import chain, predicted, query_alone, with_gap_columns, without_structure

KINDS: dict[str, Callable[[], ChainRecord]] = {
    "plain": lambda: chain(80, 60),
    "without structure": lambda: without_structure(chain(40, 30)),
    "query alone": lambda: query_alone(chain(40, 2)),
    "query alone without structure": lambda: query_alone(without_structure(chain(40, 2))),
    "ten residues": lambda: chain(10, 8),
    "one residue": lambda: chain(1, 3),
    "six residues": lambda: chain(6, 3),
    "gap columns": lambda: with_gap_columns(chain(40, 12)),
    "prediction": lambda: predicted(chain(60, 20)),
}


def text(record: ChainRecord, encoding: str = "utf-8", *, terminal: bool = False, width: int = 80, top: int = 5) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(file=stream, force_terminal=terminal, width=width, highlight=False, markup=False, soft_wrap=True)
    print_chain(ChainView(record), top, console)
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_printed(self, kind: str) -> None:
        record = KINDS[kind]()
        for encoding in ("utf-8", "ascii"):
            out = text(record, encoding)
            assert record.metadata.chain_id in out
            assert ("no structure" in out) == ("without structure" in kind)
            assert ("no co-evolution to see" in out) == (kind.startswith("query alone") or kind == "one residue")
            assert ("pLDDT" in out) == (kind == "prediction")
            assert "nan" not in out
            assert "\x1b" not in out

    def test_drawn(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("foldline.data_store.show.picture._DPI", 40)
        path = tmp_path / "chain.png"
        draw_chain(ChainView(KINDS[kind]()), path)
        assert picture_colours(path) > 20


def picture_colours(path: Path) -> int:
    pixels = (imread(path)[..., :3] * 255).astype(np.uint8)
    assert pixels.shape[1] > 1.5 * pixels.shape[0] >= 450
    return len(np.unique(pixels.reshape(-1, 3), axis=0))


class TestText:
    def test_a_real_chain(self, records: list[ChainRecord]) -> None:
        (record,) = [r for r in records if r.metadata.chain_id == "2hba_A"]
        out = text(record, top=3)
        lines = out.splitlines()
        assert f"sequence    1 {record.sequence} 52" in lines
        assert "1     F5  M12      7  0.222  7.7 Å  contact" in out
        assert len([line for line in lines if " Å  " in line]) == 3
        (near,) = [line for line in lines if "6 or more residues apart" in line and "%" in line]
        assert near.split()[-4:] == ["70%", "62%", "33%", "6.8%"]

    def test_tracks_stand_under_their_residues(self) -> None:
        record = chain(137, 20)
        lines = text(record, width=80).splitlines()
        first = [line for line in lines if line.startswith("sequence")]
        assert "".join(line[14:].split()[0] for line in first) == record.sequence
        for start, line in enumerate(lines):
            if line.startswith("sequence"):
                residues = line[14:].split()[0]
                assert [len(lines[start + k][14:]) for k in (1, 2, 3)] == [len(residues)] * 3
                assert lines[start - 1].index("0") == 23

    def test_ascii_output_says_what_it_can(self) -> None:
        record = chain(30, 20)
        record = replace(record, metadata=replace(record.metadata, title="un récepteur à 3.1 Å", resolution=3.1))
        out = text(record, "ascii")
        assert "un r?cepteur ? 3.1 A" in out
        assert "3.10 A" in out
        assert "\\" in out  # the map's diagonal

    def test_colours_only_in_a_terminal(self) -> None:
        record = chain(60, 40)
        assert "\x1b[" in text(record, terminal=True)
        assert "\x1b[" not in text(record)

    def test_a_narrow_terminal_is_not_overrun_by_the_sequence(self) -> None:
        lines = text(chain(200, 5), terminal=True, width=60).splitlines()
        assert sum("sequence " in line for line in lines) == 5

    def test_templates_are_listed(self, templated: ChainRecord) -> None:
        assert "not searched" in text(chain(20, 3))
        out = text(templated)
        assert "template" in out
        assert "not searched" not in out
        assert isinstance(templated.templates, Templates)
        assert len([line for line in out.splitlines() if line.split()[:1] in (["1"], ["2"], ["3"]) and "%" in line]) == 3


class TestMarks:
    def test_bars(self) -> None:
        values = np.array([0.0, 0.49, 1.0, np.nan])
        assert bars(values, True) == "▁▄█."
        assert bars(values, False) == "049."

    def test_braille_dots(self) -> None:
        dots = np.zeros((4, 4), bool)
        dots[0, 0] = dots[3, 3] = True
        assert braille(dots) == ["⠁⢀"]

    def test_shrinking_loses_no_contact_and_does_not_stretch(self) -> None:
        matrix = np.zeros((100, 100), bool)
        matrix[99, 0] = matrix[42, 17] = True
        small = shrink(matrix, 10, 20)
        assert small.shape == (10, 20)
        assert small[9, 0]
        assert small[4, 3]
        assert small.sum() == 2
        assert shrink(matrix, 300, 300).shape == (100, 100)


class TestLongChain:
    @pytest.fixture(scope="class")
    def long(self) -> ChainRecord:
        return chain(700, 300)

    def test_a_long_chain_is_shown_from_fewer_rows_and_says_so(self, long: ChainRecord, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("foldline.data_store.show.coevolution._MOST_WORK", 1e9)
        out = text(long)
        assert "co-evolution from 200 evenly spaced rows of 300: the chain is long" in out
        widest = max(len(line) for line in out.splitlines() if "\u2800" in line)
        assert widest <= 122


class TestCommand:
    def test_text_and_picture(self, demo_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        png = tmp_path / "chain.png"
        assert main(["store", "show", str(demo_store), "2hba_A", "--png", str(png), "--top", "2"]) == 0
        out = capsys.readouterr().out
        assert out.count(" Å  contact\n") + out.count(" Å  apart\n") == 2
        assert str(png) in out
        assert 40_000 < png.stat().st_size < 250_000
        assert picture_colours(png) > 200

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["9xyz_Q"], "9xyz_Q"),
            (["2hba_A", "--top", "-1"], "--top -1"),
            (["2hba_A", "--png", "{tmp}/chain.jpg"], ".png"),
            (["2hba_A", "--png", "{tmp}/none/chain.png"], "does not exist"),
            (["2hba_A", "--png", "{tmp}/folder.png"], "is a folder"),
        ],
    )
    def test_mistakes(
        self, demo_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
    ) -> None:
        (tmp_path / "folder.png").mkdir()
        assert main(["store", "show", str(demo_store), *(part.format(tmp=tmp_path) for part in arguments)]) == 2
        said = capsys.readouterr()
        assert message in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""
        assert [path.name for path in tmp_path.rglob("*")] == ["folder.png"]
