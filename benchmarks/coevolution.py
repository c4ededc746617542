"""How well co-evolution finds contacts: the couplings of `foldline store show` beside mutual information, both APC-corrected.

    python benchmarks/coevolution.py [DATA] [--rows N]

DATA (default: FOLDLINE_DATA or ../shared/data) holds manifest.tsv with columns id, msa_file, structure_file. Chains with at least 100
effective sequences are scored: the precision of the L/5 strongest pairs that lie 6 or more and 24 or more residues apart.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from foldline.data_store.ingest import ingest
from foldline.data_store.residues import UNKNOWN
from foldline.data_store.show.alignment import Alignment, read_alignment, sequence_weights, spaced_rows
from foldline.data_store.show.coevolution import average_product_correction, coevolution
from foldline.data_store.show.contacts import contact_rate, distance_map, precision
from foldline.data_store.store import Store

LEAST_N_EFF = 100
PSEUDOCOUNT = 0.1  # of mutual information; 0.5 does worse


def mutual_information(alignment: Alignment) -> np.ndarray:
    """Mutual information of each pair of columns over the twenty residues, in nats: [N_res, N_res] (Dunn 2008 before correction)."""
    rows, weights = alignment.rows, alignment.weights
    length = rows.shape[1]
    hot = (np.minimum(rows, UNKNOWN)[..., None] == np.arange(21)).astype(np.float32).reshape(len(rows), -1)
    share = (weights / weights.sum()).astype(np.float32)
    single = (1 - PSEUDOCOUNT) * (share @ hot).reshape(length, 21) + PSEUDOCOUNT / 21
    pair = (1 - PSEUDOCOUNT) * ((hot * share[:, None]).T @ hot).reshape(length, 21, length, 21) + PSEUDOCOUNT / 21**2
    pair, single = pair[:, :UNKNOWN, :, :UNKNOWN], single[:, :UNKNOWN]
    return np.einsum("iajb,iajb->ij", pair, np.log(pair / (single[:, :, None, None] * single)))


METHODS = {
    "couplings": lambda alignment: coevolution(alignment)[0],
    "mutual information": lambda alignment: average_product_correction(mutual_information(alignment)),
}


def collect(data: Path, folder: Path) -> Path:
    """A store of the chains that the manifest lists."""
    source = folder / "source"
    source.mkdir()
    with (data / "manifest.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            ending = row["structure_file"].split(".", 1)[1]
            shutil.copy(data / row["structure_file"], source / f"{row['id']}.{ending}")
            shutil.copy(data / row["msa_file"], source / f"{row['id']}.a3m.gz")
    ingest(source, folder / "store")
    return folder / "store"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path(os.environ.get("FOLDLINE_DATA", "../shared/data")))
    parser.add_argument("--rows", type=int, default=0, help="take this many evenly spaced rows (0: all)")
    arguments = parser.parse_args()
    results: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(collect(arguments.data, Path(folder)))
        for chain_id in store.chain_ids:
            record = store.record(chain_id)
            alignment = read_alignment(record.msas)
            if alignment.n_eff < LEAST_N_EFF:
                continue
            if arguments.rows:
                rows = spaced_rows(alignment.rows, arguments.rows)
                alignment = Alignment(rows, sequence_weights(rows), alignment.total)
            distances, fifth = distance_map(record), max(1, len(record.sequence) // 5)
            for name, method in METHODS.items():
                start = time.process_time()
                scores = method(alignment)
                seconds = time.process_time() - start
                near, far = (precision(scores, distances, fifth, apart) for apart in (6, 24))
                results[name].append((near, far, contact_rate(distances), seconds))
    print(f"{'':<20}{'chains':>8}{'L/5, 6 apart':>14}{'L/5, 24 apart':>15}{'any pair':>10}{'s/chain':>9}")
    for name, values in results.items():
        near, far, chance, seconds = np.nanmean(values, axis=0)
        print(f"{name:<20}{len(values):>8}{near:>14.1%}{far:>15.1%}{chance:>10.1%}{seconds:>9.2f}")


if __name__ == "__main__":
    main()
