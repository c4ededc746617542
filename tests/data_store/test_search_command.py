"""`foldline search` as a user runs it: results, resume, shards, workers, MPI, and what a bad query or a kill costs."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foldline.data_store.parse.a3m import read_a3m
from foldline.data_store.search.command import Request, search_command
from foldline.errors import FoldlineError

from .search_cases import NAMES, PDB_QUERIES, SEQRES, TOY, need, need_programs, queries, small_database, write_queries

SCRIPT = Path(sys.executable).parent / "foldline"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_database(tmp_path_factory.mktemp("small") / "small.fasta")


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    return write_queries(tmp_path / "query.fasta", *NAMES)


def search(fasta: Path, small: Path, **changes: object) -> int:
    values = {"query": fasta, "out": fasta.parent / "out", "databases": [f"small={small}"], "threads": 1}
    return search_command(Request(**{**values, **changes}))  # type: ignore[arg-type]


def results(out: Path) -> dict[str, bytes]:
    """The alignments and hits by name."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("*/*_hits.*"))}


def test_results_and_their_provenance(fasta: Path, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need(SEQRES)
    assert search(fasta, small, template_db=str(SEQRES), max_rows=["small=50"]) == 0
    out = fasta.parent / "out"
    assert sorted(results(out)) == sorted(f"{name}/{file}" for name in NAMES for file in ("pdb_hits.sto", "small_hits.a3m"))
    assert not list(out.glob("**/.work*"))
    for query in queries(*NAMES):
        parsed = read_a3m(out / query.name / "small_hits.a3m")
        assert (parsed.query, parsed.notes) == (query.sequence, ())
        told = json.loads((out / query.name / "provenance.json").read_text())
        entry = told["searches"]["small"]
        assert told["complete"] is True
        assert (entry["tool"], entry["rows"], entry["parameters"]["E"]) == ("pyhmmer", len(parsed.names), 1e-4)
        assert entry["files"][0]["path"] == str(small)
        assert entry["version"] == importlib.import_module("pyhmmer").__version__
        assert (out / f"{query.name}.fasta").read_text() == query.fasta
    assert read_a3m(out / "1ctf_A" / "small_hits.a3m").rows.shape[0] == 50
    assert "3 searched, 0 already there, 0 failed, 0 left out" in capsys.readouterr().out


def test_only_what_changed_is_searched_again(fasta: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(**changes: object) -> str:
        assert search(fasta, small, **changes) == 0
        return capsys.readouterr().out

    out = fasta.parent / "out"
    assert "3 searched" in told()
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}
    assert "0 searched, 3 already there" in told()
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*")} == stamps
    assert told(iterations=2).count("searched again: small (other parameters)") == 3
    moved = shutil.copyfile(small, tmp_path / "moved.fasta")
    assert "0 searched, 3 already there" in told(databases=[f"small={moved}"], iterations=2)
    moved.write_text(moved.read_text() + ">new\nMKVLAAGHWYRND\n")
    assert told(databases=[f"small={moved}"], iterations=2).count("searched again: small (another database)") == 3
    (out / "1ctf_A" / "small_hits.a3m").write_text(">cut\n")
    (out / "1ubq_A" / "small_hits.a3m").unlink()
    again = told(databases=[f"small={moved}"], iterations=2)
    assert "1ctf_A: searched again: small (small_hits.a3m was changed)" in again
    assert "1ubq_A: searched again: small (small_hits.a3m is missing)" in again
    assert "2 searched, 1 already there" in again
    (out / "5pti_A" / "provenance.json").write_text("{")
    assert "1 searched, 2 already there" in told(databases=[f"small={moved}"], iterations=2)
    assert "3 searched" in told(databases=[f"small={moved}", f"second={small}"], iterations=2)


def test_a_failing_query_and_a_bad_one_cost_no_other(fasta: Path, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fasta.write_text(fasta.read_text() + ">bad\nAC-DE\n")
    (fasta.parent / "out").mkdir()
    (fasta.parent / "out" / "1ctf_A").write_text("a file where the folder must be")
    assert search(fasta, small) == 1
    said = capsys.readouterr()
    assert "2 searched, 0 already there, 1 failed, 1 left out" in said.out
    assert "query bad left out: '-' is no residue" in said.err
    assert "query 1ctf_A failed: FileExistsError" in said.err


def test_shards_and_workers_together_give_the_results_of_one(fasta: Path, small: Path, tmp_path: Path) -> None:
    assert search(fasta, small) == 0
    whole = results(tmp_path / "out")
    for part in range(2):
        assert search(fasta, small, out=tmp_path / "shards", shard=f"{part}/2", workers=2) == 0
    assert results(tmp_path / "shards") == whole
    assert search(fasta, small, out=tmp_path / "shards", shard="7/9") == 0, "an empty shard is no error"


def test_mpi_ranks_give_the_results_of_one(fasta: Path, small: Path, tmp_path: Path) -> None:
    mpirun = shutil.which("mpirun", path=f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}")
    if mpirun is None or importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpirun and mpi4py are not installed")
    assert search(fasta, small) == 0
    command = [mpirun, "--allow-run-as-root", "--oversubscribe", "-n", "3", SCRIPT, "search", fasta, "--db", f"small={small}"]
    done = subprocess.run([*command, "--mpi", "--threads", "1", "--out", tmp_path / "mpi"], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("searched, ") == 1
    assert results(tmp_path / "mpi") == results(tmp_path / "out")


def test_a_killed_search_continues_and_ends_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need(TOY, PDB_QUERIES)
    names = ("1ubq_A", "2hhb_A", "1ctf_A", "1ake_A", "3tgi_E", "5pti_A")
    fasta = write_queries(tmp_path / "query.fasta", *names)
    command = [SCRIPT, "search", fasta, "--db", f"toy={TOY}", "--workers", "2", "--threads", "1", "--out", tmp_path / "killed"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "killed").glob("*/provenance.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert search(fasta, TOY, databases=[f"toy={TOY}"], out=tmp_path / "killed") == 0
    said = capsys.readouterr().out
    kept = int(said.split(" already there")[0].rsplit(" ", 1)[1])
    assert 2 <= kept < len(names)
    assert search(fasta, TOY, databases=[f"toy={TOY}"], out=tmp_path / "whole") == 0
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert not list((tmp_path / "killed").glob("**/.work*"))


def test_jackhmmer_is_used_where_asked_and_not_on_gzip(fasta: Path, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need_programs("jackhmmer")
    assert search(fasta, small) == 0
    embedded = results(fasta.parent / "out")
    (fasta.parent / "out" / "1ctf_A" / ".work" / "of_a_killed_run").mkdir(parents=True)
    assert search(fasta, small, tool="jackhmmer") == 0
    assert capsys.readouterr().out.count("searched again: small (another tool)") == 3
    assert results(fasta.parent / "out") == embedded
    with pytest.raises(FoldlineError, match="cannot rewind gzip"):
        search(fasta, small, tool="jackhmmer", databases=[f"toy={TOY}"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tool": "hhblits"}, "--tool hhblits searches HH-suite databases, but only FASTA"),
        ({"databases": ["small=/nowhere.fasta"]}, "there is no FASTA file /nowhere.fasta"),
        ({"template_db": "/nowhere.fasta"}, "database pdb: there is no FASTA file"),
        ({"max_rows": ["smal=3"]}, "there is no database 'smal' among --db small"),
        ({"max_rows": ["small=many"]}, "--max-rows 'small=many'"),
        ({"profile": "uniref90"}, "there is no database 'uniref90'"),
        ({"workers": 0}, "--workers 0"),
        ({"iterations": 0}, "--iterations 0"),
        ({"gpu_server": True}, "--gpu-server is for MMseqs2"),
        ({"shard": "2/2"}, "--shard '2/2'"),
    ],
)
def test_what_cannot_work_is_said_before_any_work(changes: dict[str, object], reason: str, fasta: Path, small: Path) -> None:
    with pytest.raises(FoldlineError) as caught:
        search(fasta, small, **changes)
    assert reason in str(caught.value)
    assert not list(fasta.parent.glob("out/*/*"))


def test_a_missing_program_is_named_with_its_package(fasta: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FoldlineError, match="jackhmmer is not on PATH; install the system package hmmer"):
        search(fasta, small, tool="jackhmmer")
