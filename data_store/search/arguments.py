"""The command line of `foldline search`: argparse alone."""

from __future__ import annotations

import argparse
from pathlib import Path

_TEXT = """\
One folder per query: NAME_hits.a3m for each database, pdb_hits.sto or .hhr for templates, and provenance.json (tool, version,
parameters, database hash). Results that are there and unchanged are kept: the same command continues a killed run.

A database is a FASTA file (.gz or not; pyhmmer or jackhmmer), the prefix of an MMseqs2 database (ColabFold's parameters), or the prefix
of an HH-suite database (hhblits; several, joined by commas, are searched together). All are checked before work starts.

examples:
  foldline search query.fasta --db uniref90=uniref90.fasta --db mgnify=mgy_clusters.fa --template-db pdb_seqres.txt --out alignments
  foldline search query.fasta --db uniref30=/db/uniref30_2302_db --db env=/db/colabfold_envdb_202108_db --out alignments
  mpirun -n 33 foldline search query.fasta --db … --out alignments --mpi --threads 4
  sbatch --array=0-99 … foldline search query.fasta --db … --out alignments --shard $SLURM_ARRAY_TASK_ID/100
"""


def add_search(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `search`."""
    sub = commands.add_parser(
        "search",
        help="sequences -> alignments and template hits",
        description="Search sequence databases with each query of a FASTA file.",
        epilog=_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("query", type=Path, help="FASTA file (.gz or not) of protein sequences; the header's first word names the results")
    sub.add_argument(
        "--db", action="append", required=True, metavar="NAME=PATH", help="database to build an alignment from; give several times"
    )
    sub.add_argument("--out", type=Path, required=True, help="folder for the results")
    sub.add_argument("--template-db", metavar="PATH", help="sequences of structures: FASTA (pdb_seqres; hmmsearch) or HH-suite (hhsearch)")
    sub.add_argument(
        "--profile", metavar="NAME", help="database whose alignment the template search starts from (default uniref90, else the first)"
    )
    tools = ("auto", "pyhmmer", "jackhmmer", "hhblits", "mmseqs")
    sub.add_argument(
        "--tool", choices=tools, default="auto", help="program for the databases that it can search (auto: the embedded pyhmmer)"
    )
    sub.add_argument("--iterations", type=int, default=1, metavar="N", help="passes of pyhmmer and jackhmmer (default 1, as AF2)")
    sub.add_argument(
        "--max-rows",
        action="append",
        default=[],
        metavar="NAME=N",
        help="rows to keep, query included; 0: all (default uniref90 10000, mgnify 501, uniprot 50000 as AF2, others all)",
    )
    sub.add_argument("--workers", type=int, default=1, metavar="N", help="processes, each with one query at a time (default 1)")
    sub.add_argument("--threads", type=int, metavar="N", help="per worker (default: cores divided by workers; 1 with --mpi)")
    sub.add_argument("--mpi", action="store_true", help="the ranks of this MPI job are the workers; rank 0 hands out queries")
    sub.add_argument("--shard", default="0/1", metavar="I/N", help="only every N-th query from the I-th on, I from 0: for Slurm arrays")
    sub.add_argument("--timeout", type=float, metavar="SECONDS", help="for one search of one query (MMseqs2: one step of a batch)")
    sub.add_argument(
        "--memory", type=float, default=2.0, metavar="GIB", help="per worker, to keep a FASTA database in (default 2); else streamed"
    )
    sub.add_argument("--gpu-server", action="store_true", help="let MMseqs2 ask its running gpuserver")
    sub.set_defaults(run=_run_search)


def _run_search(args: argparse.Namespace) -> int:
    from .command import Request, search_command

    return search_command(
        Request(
            query=args.query,
            out=args.out,
            databases=args.db,
            template_db=args.template_db,
            tool=args.tool,
            profile=args.profile,
            iterations=args.iterations,
            max_rows=args.max_rows,
            workers=args.workers,
            threads=args.threads,
            mpi=args.mpi,
            shard=args.shard,
            timeout=args.timeout,
            memory=args.memory,
            gpu_server=args.gpu_server,
        )
    )
