"""Runs the program MMseqs2 on the sequences of a store. Its results name numbers, not chain ids, which it would cut or reinterpret."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import FoldlineError

_SHORTEST = 14  # residues
_TOLD = 8  # lines of a failed run that its error repeats


def find_mmseqs(purpose: str) -> str:
    """The path of the program; FoldlineError saying how to install it, for ``purpose``, where it is missing."""
    program = shutil.which("mmseqs")
    if program is None:
        raise FoldlineError(
            f"{purpose} needs the program 'mmseqs' (MMseqs2), which is not on PATH; install it: apt install mmseqs2, or "
            "conda install -c conda-forge -c bioconda mmseqs2"
        )
    return program


def easy_cluster(sequences: Sequence[str], identity: float, coverage: float, threads: int) -> list[list[int]]:
    """Clusters of ``sequences`` by their places, the representative first; each sequence is in one.

    Identical sequences always share one, and one shorter than 14 residues shares its cluster with its copies alone.
    A member is at least ``identity`` identical to its representative over at least ``coverage`` of its own length (--cov-mode 1), so a
    construct that was cut short joins the whole chain: both teach the same fold. Both directions would make a cluster of every truncation.
    """
    program = find_mmseqs("clustering by sequence")
    copies: dict[str, list[int]] = {}  # identical chains, of which the PDB has many, are compared once
    for place, sequence in enumerate(sequences):
        copies.setdefault(sequence, []).append(place)
    unique = list(copies)
    joined: dict[int, list[int]] = {}
    if _comparable(unique):
        with tempfile.TemporaryDirectory(prefix="foldline_cluster_") as name:
            folder = Path(name)
            fasta = _write_fasta(folder / "all.fasta", unique)
            options = ["--min-seq-id", str(identity), "-c", str(coverage), "--cov-mode", "1", "-s", "7.5", "--cluster-reassign", "1"]
            _run([program, "easy-cluster", str(fasta), str(folder / "out"), str(folder / "tmp"), *options], threads)
            for line in (folder / "out_cluster.tsv").read_text().splitlines():
                representative, member = map(int, line.split("\t"))
                members = joined.setdefault(representative, [representative])
                if member != representative:
                    members.append(member)
    placed = {member for members in joined.values() for member in members}
    clusters = [*joined.values(), *([number] for number in range(len(unique)) if number not in placed)]
    return [[place for number in members for place in copies[unique[number]]] for members in clusters]


def easy_search(
    queries: Sequence[str], targets: Sequence[str], identity: float, coverage: float, threads: int
) -> list[tuple[int, int, float, float]]:
    """Pairs (query, target, identity 0..1, share of the shorter chain that the alignment covers), the most identical first.

    Only pairs at least ``identity`` identical over at least ``coverage`` of either chain.
    """
    program = find_mmseqs("comparing sequences")
    if not (_comparable(queries) and _comparable(targets)):
        return []
    with tempfile.TemporaryDirectory(prefix="foldline_search_") as name:
        folder = Path(name)
        query, target = (_write_fasta(folder / f"{n}.fasta", s) for n, s in (("query", queries), ("target", targets)))
        options = ["--min-seq-id", str(identity), "-s", "7.5", "--max-seqs", "10000", "--format-output", "query,target,fident,qcov,tcov"]
        _run([program, "easy-search", str(query), str(target), str(folder / "out.tsv"), str(folder / "tmp"), *options], threads)
        rows = [line.split("\t") for line in (folder / "out.tsv").read_text().splitlines()]
    pairs = [(int(q), int(t), float(same), max(float(q_cover), float(t_cover))) for q, t, same, q_cover, t_cover in rows]
    return sorted((p for p in pairs if p[3] >= coverage), key=lambda p: (-p[2], -p[3], p[:2]))


def _comparable(sequences: Sequence[str]) -> list[int]:
    """The places of the sequences in which MMseqs2 finds words to compare; it fails when there is none."""
    return [number for number, sequence in enumerate(sequences) if len(sequence) >= _SHORTEST]


def _write_fasta(path: Path, sequences: Sequence[str]) -> Path:
    with path.open("w") as file:
        file.writelines(f">{number}\n{sequences[number]}\n" for number in _comparable(sequences))
    return path


def _run(command: list[str], threads: int) -> None:
    if threads < 0:
        raise FoldlineError(f"--threads {threads} must be at least 0; 0 takes all cores")
    full = [*command, "--threads", str(threads or len(os.sched_getaffinity(0))), "-v", "2"]
    done = subprocess.run(full, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    if done.returncode:
        told = "\n".join(done.stdout.splitlines()[-_TOLD:])
        raise FoldlineError(f"{' '.join(command[:2])} ended with exit code {done.returncode}; it said:\n{told}")
