"""HH-suite and MMseqs2, the real programs on databases built from real alignments; no program outlives its search."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foldline.data_store.search import hhsuite, mmseqs, programs
from foldline.data_store.search.databases import check_databases
from foldline.data_store.search.options import Options
from foldline.data_store.search.parameters import HHBLITS, HHSEARCH, MMSEQS
from foldline.data_store.search.plan import make_plan
from foldline.errors import FoldlineError

from .search_cases import DATA, NAMES, database, need, need_programs, queries, run, small_database

CSTRANSLATE = [Path("/usr/libexec/hhsuite/cstranslate-sse3"), Path("/usr/bin/cstranslate"), Path("/usr/lib/hhsuite/bin/cstranslate")]
CONTEXT = Path("/usr/share/hhsuite/data")


@pytest.fixture(scope="module")
def hh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HH-suite database of four real alignments."""
    need_programs("hhblits", "hhsearch", "hhmake", "ffindex_build")
    cstranslate = next((path for path in CSTRANSLATE if path.exists()), None)
    if cstranslate is None or not CONTEXT.exists():
        pytest.skip("cstranslate of HH-suite or its context data are not installed")
    names = ("1ctf_A", "1bxy_A", "1t8k_A", "5pti_A")
    need(*(DATA / "msas" / f"{name}.a3m.gz" for name in names))
    folder = tmp_path_factory.mktemp("hh")
    for kind in ("a3m", "hhm"):
        (folder / kind).mkdir()
    for name in names:
        (folder / "a3m" / name).write_bytes(gzip.decompress((DATA / "msas" / f"{name}.a3m.gz").read_bytes()))
        run("hhmake", "-v", "0", "-i", folder / "a3m" / name, "-o", folder / "hhm" / name)
    for kind in ("a3m", "hhm"):
        run("ffindex_build", "-s", folder / f"db_{kind}.ffdata", folder / f"db_{kind}.ffindex", folder / kind)
    data = ["-A", CONTEXT / "cs219.lib", "-D", CONTEXT / "context_data.lib", "-x", "0.3", "-c", "4", "-f", "-I", "a3m", "-b"]
    run(cstranslate, *data, "-i", folder / "db_a3m", "-o", folder / "db_cs219")
    return folder / "db"


def test_hhblits_and_hhsearch_find_the_family(hh_database: Path, tmp_path: Path) -> None:
    (query,) = queries("1ctf_A")
    family = database(f"bfd={hh_database}", tmp_path)
    rows = hhsuite.search_msa(query, family, HHBLITS, Options(), tmp_path)
    assert rows[0] == (query.header, query.sequence.encode())
    assert len(rows) > 50
    data, hits = hhsuite.search_templates(rows, family, HHSEARCH, Options(), tmp_path)
    assert data.startswith(b"Query         1ctf_A")
    assert hits == data.count(b"\nNo ") >= 1
    assert data.split(b"\nNo 1\n")[1].startswith(b">1ctf_A")


def test_af2s_options_reach_hhblits(hh_database: Path, tmp_path: Path) -> None:
    two = check_databases([f"bfd={hh_database},{hh_database}"], tmp_path / "cache.json")[0]
    flags = " ".join(map(str, hhsuite._flags(HHBLITS, two, Options(threads=3))))
    wanted = "-n 3 -e 0.001 -maxseq 1000000 -realign_max 100000 -maxfilt 100000 -min_prefilter_hits 1000"
    assert flags == f"-v 1 -cpu 3 {wanted} -d {hh_database} -d {hh_database}"


@pytest.fixture(scope="module")
def mmseqs_databases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A plain MMseqs2 database of real families and, of the same sequences, one of clusters with members as ColabFold's are."""
    need_programs("mmseqs")
    folder = tmp_path_factory.mktemp("mmseqs")
    fasta = small_database(folder / "small.fasta", others=100)
    seq, prefix = folder / "plain", folder / "clusters"
    run("mmseqs", "createdb", fasta, seq)
    run("mmseqs", "linclust", seq, folder / "clu", folder / "tmp", "--min-seq-id", "0.3", "-c", "0.8", "--threads", "1")
    run("mmseqs", "align", seq, seq, folder / "clu", folder / "aln", "-a", "-e", "inf", "--threads", "1")
    run("mmseqs", "result2profile", seq, seq, folder / "aln", folder / "prof", "--threads", "1")
    run("mmseqs", "profile2consensus", folder / "prof", folder / "cons", "--threads", "1")
    for source, end in (("cons", ""), ("plain", "_seq"), ("plain_h", "_h"), ("aln", "_aln")):
        run("mmseqs", "prefixid", folder / source, f"{prefix}{end}.tsv", "--tsv", "--threads", "1")
    run("mmseqs", "tsv2exprofiledb", prefix, f"{prefix}_db")
    return seq, Path(f"{prefix}_db")


def test_mmseqs_searches_plain_and_expandable_databases_in_one_batch(mmseqs_databases: tuple[Path, Path], tmp_path: Path) -> None:
    plain, clusters = mmseqs_databases
    given = check_databases([f"uniref30={clusters}", f"env={plain}"], tmp_path / "cache.json")
    assert [d.expandable for d in given] == [True, False]
    wanted = queries(*NAMES)
    found = mmseqs.search_msas(wanted, given, MMSEQS, Options(), tmp_path)
    for query in wanted:
        for name, least in (("uniref30", 50), ("env", 50)):
            rows = found[name][query.name]
            assert rows[0].columns.decode() == query.sequence
            assert len(rows) > (least if query.name != "5pti_A" else 0)
    headers = [{row.header.split("\t")[0] for row in found[name]["1ctf_A"]} for name in ("uniref30", "env")]
    assert len(headers[0] & headers[1]) > 0.8 * len(headers[1]), "the members of the clusters were not found again"


def test_gpu_server_needs_a_program_that_has_it(mmseqs_databases: tuple[Path, Path], tmp_path: Path) -> None:
    plain = database(f"plain={mmseqs_databases[0]}", tmp_path)
    options = Options(gpu_server=True)
    if programs.has_option("mmseqs", "search", "--gpu-server"):
        assert make_plan([plain], None, "auto", options, tmp_path).options.gpu_server
    else:
        with pytest.raises(FoldlineError, match="install MMseqs2 16"):
            make_plan([plain], None, "auto", options, tmp_path)


def test_versions_are_read(hh_database: Path) -> None:
    need_programs("jackhmmer", "mmseqs")
    for name in ("jackhmmer", "hhblits", "hhsearch", "mmseqs"):
        assert programs.program_version(name)[0].isdigit()


def test_a_failure_shows_what_the_program_said(tmp_path: Path) -> None:
    need_programs("jackhmmer")
    with pytest.raises(FoldlineError, match=r"jackhmmer failed with exit code 1: .*nowhere\.fasta"):
        programs.run_program([programs.find_program("jackhmmer"), "nowhere.fasta", "nowhere.fasta"], tmp_path / "log", None)


def test_the_time_limit_kills_the_program_and_its_children(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/child; wait"
    with pytest.raises(FoldlineError, match=r"took longer than --timeout 0.5 s"):
        programs.run_program(["/bin/sh", "-c", script], tmp_path / "log", 0.5)
    assert gone(int((tmp_path / "child").read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_kills_the_program(number: signal.Signals, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from foldline.data_store.pool import worker_pool\n"
        "from foldline.data_store.search.programs import run_program\n"
        f"with worker_pool(1, False): run_program(['/bin/sh', '-c', 'echo $$ > {tmp_path}/pid; sleep 60'], Path('{tmp_path}/log'), None)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    process.wait(timeout=10)
    assert gone(int((tmp_path / "pid").read_text()))


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that nobody fetched has)."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
