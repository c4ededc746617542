"""What training must never see: chains held out by list, cluster or date, and on request their relatives."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import FoldlineError
from ..settings import nearest
from .chain_table import ChainTable
from .config import DataConfig


def held_out_reasons(chains: ChainTable, data: DataConfig) -> np.ndarray:
    """Why each chain is held out, '' where it is not: objects (str) [N_chains].

    Raises FoldlineError for a chain or cluster that the store lacks and a file that cannot be read.
    """
    reasons = np.full(len(chains.chain_id), "", dtype=object)
    for names, key in (
        (data.validation, "validation"),
        (data.hold_out, "hold_out"),
        (_names(data.hold_out_file, "hold_out_file"), "hold_out_file"),
    ):
        _mark(reasons, _is_one_of(chains.rows_of(names, f"data.{key}"), len(reasons)), f"held out by data.{key}")
    _mark(reasons, _in_clusters(chains, data.hold_out_clusters), "held out by data.hold_out_clusters")
    if data.hold_out_after:
        late = ~chains.is_distilled & (chains.release_date > data.hold_out_after)
        _mark(reasons, late, f"held out by data.hold_out_after = {data.hold_out_after}")
    return reasons


def left_out_reasons(chains: ChainTable, held_out: np.ndarray, data: DataConfig) -> np.ndarray:
    """Why a chain that is not held out itself must not be trained on for the sake of those that are (bool ``held_out`` [N_chains])."""
    reasons = np.full(len(chains.chain_id), "", dtype=object)
    if data.hold_out_after:
        unknown = ~chains.is_distilled & (chains.release_date == "")
        _mark(reasons, unknown, "no release date, which data.hold_out_after asks for")
    if data.hold_out_relatives:
        for column, kin in ((chains.cluster_id, "cluster"), (np.char.lower(chains.pdb_id), "PDB entry")):
            theirs = np.unique(column[held_out])
            _mark(reasons, (column != "") & np.isin(column, theirs), f"shares a {kin} with a held-out chain (data.hold_out_relatives)")
    return reasons


def _mark(reasons: np.ndarray, which: np.ndarray, reason: str) -> None:
    reasons[(reasons == "") & which] = reason


def _is_one_of(rows: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(count, bool)
    mask[rows] = True
    return mask


def _in_clusters(chains: ChainTable, file: str) -> np.ndarray:
    """The members of the clusters that ``file`` names, by their ids or by a chain of theirs."""
    wanted = set()
    clusters = set(np.unique(chains.cluster_id).tolist()) - {""}
    of_chain = dict(zip(chains.chain_id.tolist(), chains.cluster_id.tolist(), strict=True)) if file else {}
    alone = set()
    for name in _names(file, "hold_out_clusters"):
        if name in clusters:
            wanted.add(name)
        elif name not in of_chain:
            raise FoldlineError(
                f"data.hold_out_clusters: {file} names '{name}', which is neither a cluster nor a chain of the store; "
                f"{nearest(name, sorted(clusters)[:10_000])}"
            )
        elif of_chain[name]:
            wanted.add(of_chain[name])
        else:
            alone.add(name)
    return np.isin(chains.cluster_id, sorted(wanted)) | np.isin(chains.chain_id, sorted(alone))


def _names(file: str, key: str) -> tuple[str, ...]:
    """The first word of each line of ``file``; empty lines and those that begin with # do not count. () when no file is given."""
    if not file:
        return ()
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FoldlineError(f"data.{key} = {file} cannot be read ({error}); give a text file with one id a line") from None
    names = tuple(line.split()[0] for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not names:
        raise FoldlineError(f"data.{key} = {file} names nothing; give one id a line, or leave the key out")
    return names
