"""Real queries and databases for the searches: families of proteins from the data collection, cut small."""

from __future__ import annotations

import gzip
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from foldline.data_store.search.databases import Database, check_databases
from foldline.data_store.search.queries import Query, read_queries

from .store_cases import DATA

TOY = DATA / "db" / "toy_swissprot.fasta.gz"
SEQRES = DATA / "db" / "af3_miniature" / "pdb_seqres_2022_09_28__subsampled_1000.fasta.gz"
PDB_QUERIES = DATA / "queries.fasta"
NAMES = ("1ubq_A", "1ctf_A", "5pti_A")


def need(*paths: Path) -> None:
    """Skip the test where part of the data collection is missing."""
    for path in paths:
        if not path.exists():
            pytest.skip(f"{path} is missing: set FOLDLINE_DATA to the data collection")


def need_programs(*names: str) -> None:
    """Skip the test where a program is not installed."""
    for name in names:
        if shutil.which(name) is None:
            pytest.skip(f"the program {name} is not installed")


def queries(*names: str) -> tuple[Query, ...]:
    """Real queries by name."""
    need(PDB_QUERIES)
    found = {query.name: query for query in read_queries(PDB_QUERIES)[0]}
    return tuple(found[name] for name in names)


def write_queries(path: Path, *names: str) -> Path:
    """A FASTA file of real queries."""
    path.write_text("".join(query.fasta for query in queries(*names)))
    return path


def small_database(path: Path, others: int = 300) -> Path:
    """A plain FASTA file: every 40th sequence of a real database, and the relatives of ``NAMES`` that published alignments name."""
    need(TOY, DATA / "msas")
    wanted = set()
    for name in NAMES:
        with gzip.open(DATA / "msas" / f"{name}.a3m.gz", "rt") as lines:
            wanted |= {line[1:].split()[0].split("/")[0].split("\t")[0] for line in lines if line.startswith(">")}
    records = gzip.decompress(TOY.read_bytes()).decode().split(">")[1:]
    relatives = [record for record in records if {record.split()[0], record.split()[0].split("|")[-1]} & wanted]
    rest = random.Random(0).sample(records, others)
    path.write_text("".join(f">{record}" for record in dict.fromkeys([*relatives, *rest])))
    return path


def database(text: str, folder: Path) -> Database:
    """A checked database."""
    return check_databases([text], folder / "cache.json")[0]


def run(*command: str | Path) -> None:
    """Run a program that prepares a test; what it said is in the error."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
