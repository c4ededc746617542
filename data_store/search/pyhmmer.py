"""The embedded search: HMMER's own code through pyhmmer, on FASTA files, in blocks that bound the memory."""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ...errors import FoldlineError
from .alignment import Row, digital_msa, rows_of_msa, stockholm_text, without_repeats
from .databases import Database, open_fasta
from .options import Options
from .parameters import Parameters
from .queries import Query

_BLOCK = 1_000_000  # residues that are searched at a time; a few of them are in memory per thread
_BYTES_PER_RESIDUE = 3  # of a digital sequence with its name and description, roughly
_MERGE = 64  # results of blocks that are gathered before they are merged
_loaded: dict[str, list[Any]] = {}  # one database that fits into memory, by its digest, for the next query of this process


def pyhmmer_version() -> str:
    """Version of pyhmmer, which carries its own HMMER."""
    from pyhmmer import __version__

    return str(__version__)


def search_msa(query: Query, database: Database, parameters: Parameters, options: Options) -> list[Row]:
    """jackhmmer: rows in the query's columns, the query first, then by E-value. FoldlineError for damaged FASTA and at the time limit."""
    from pyhmmer.easel import Alphabet, TextSequence
    from pyhmmer.plan7 import Background, Builder, Trace

    alphabet = Alphabet.amino()
    sequence = TextSequence(name=query.name.encode(), sequence=query.sequence).digitize(alphabet)
    background, builder = Background(alphabet), Builder(alphabet, architecture="hand")
    hmm, _, _ = builder.build(sequence, background)
    seen: set[str] = set()
    thresholds = {name: parameters[name] for name in ("E", "incE", "incdomE", "F1", "F2", "F3")}
    for iteration in range(1, parameters["iterations"] + 1):
        hits = _search(hmm, database, thresholds, options)
        msa = hits.to_msa(alphabet, sequences=[sequence], traces=[Trace.from_sequence(sequence)], digitize=True, all_consensus_cols=True)
        found = {str(hit.name) for hit in hits.included}
        if found <= seen or iteration == parameters["iterations"]:
            break
        seen = found
        msa.name = query.name.encode()
        hmm, _, _ = builder.build_msa(msa, background)
    return rows_of_msa(msa.textize(), query.name)


def search_templates(rows: list[Row], query: Query, database: Database, parameters: Parameters, options: Options) -> tuple[bytes, int]:
    """hmmsearch with the profile of an alignment on structures' sequences: Stockholm text as hmmsearch -A writes it, and its rows.

    The profile is AF2's: rows unique in the query's columns, one model position per query column (hmmbuild --hand).
    """
    from pyhmmer.easel import Alphabet
    from pyhmmer.plan7 import Background, Builder

    alphabet = Alphabet.amino()
    profile = digital_msa(stockholm_text(without_repeats(rows), query.name))
    hmm, _, _ = Builder(alphabet, architecture="hand").build_msa(profile, Background(alphabet))
    hits = _search(_as_written(hmm), database, dict(parameters), options)
    if not len(hits.included):
        return b"# STOCKHOLM 1.0\n//\n", 0
    msa = hits.to_msa(alphabet, all_consensus_cols=True)
    msa.name = query.name.encode()
    text = io.BytesIO()
    msa.write(text, "stockholm")
    return text.getvalue(), len(msa.sequences)


def _as_written(hmm: Any) -> Any:
    """A profile as hmmsearch reads it from hmmbuild's file, which has five decimals; they decide between hits that nearly tie."""
    from pyhmmer.plan7 import HMMFile

    text = io.BytesIO()
    hmm.write(text)
    text.seek(0)
    with HMMFile(text) as file:
        return file.read()


def _search(hmm: Any, database: Database, thresholds: dict[str, Any], options: Options) -> Any:
    """Merged hits of all blocks; E-values count every sequence of the database, as an unblocked search does."""
    from pyhmmer.easel import Alphabet
    from pyhmmer.plan7 import Pipeline

    def one(block: Any) -> Any:
        return Pipeline(Alphabet.amino(), **thresholds).search_hmm(hmm, block)

    deadline = time.monotonic() + options.timeout if options.timeout else float("inf")
    parts: list[Any] = []
    for result in _in_threads(one, _blocks(database, options.memory), options.threads):
        if time.monotonic() > deadline:
            raise FoldlineError(f"the search of {database.name} took longer than --timeout {options.timeout:g} s; raise it or --threads")
        parts.append(result)
        if len(parts) == _MERGE:
            parts = [parts[0].merge(*parts[1:])]
    # Both a search and a merge leave hits sorted by E-value and judged by the count of sequences so far.
    return parts[0].merge(*parts[1:]) if len(parts) > 1 else parts[0]


def _in_threads(work: Callable[[Any], Any], blocks: Iterator[Any], threads: int) -> Iterator[Any]:
    """Results in the blocks' order, with at most two blocks waiting per thread. pyhmmer frees the interpreter while it searches."""
    if threads == 1:
        yield from map(work, blocks)
        return
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for block in blocks:
            waiting.append(pool.submit(work, block))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _blocks(database: Database, memory: float) -> Iterator[Any]:
    """Blocks of sequences, kept for the next query of this process as long as they fit into ``memory`` GiB."""
    key = database.identity.digest
    if key in _loaded:
        yield from _loaded[key]
        return
    kept: list[Any] | None = []
    size = 0
    for block in _read(database):
        size += sum(map(len, block)) * _BYTES_PER_RESIDUE
        if size > memory * 2**30:
            kept = None
        if kept is not None:
            kept.append(block)
        yield block
    if kept is not None:
        _loaded.clear()
        _loaded[key] = kept


def _read(database: Database) -> Iterator[Any]:
    from pyhmmer.easel import Alphabet, SequenceFile

    path = database.paths[0]
    try:
        with open_fasta(path) as raw, SequenceFile(raw, format="fasta", digital=True, alphabet=Alphabet.amino()) as file:
            while block := file.read_block(residues=_BLOCK):
                yield block
    except (ValueError, EOFError, OSError) as error:
        raise FoldlineError(f"database {database.name}: {path} cannot be read to its end: {error}; fetch it again") from None
