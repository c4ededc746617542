"""What AF2 and ColabFold pass to the search programs; every value here is recorded with the result."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

Parameters = Mapping[str, Any]

# AF2 (supplement 1.2.2 and its published pipeline): one pass of jackhmmer.
JACKHMMER: Parameters = MappingProxyType({"iterations": 1, "E": 1e-4, "incE": 1e-4, "incdomE": 1e-3, "F1": 5e-4, "F2": 5e-5, "F3": 5e-7})
# AF2: hmmbuild --hand on the alignment, then hmmsearch with nearly open filters.
HMMSEARCH: Parameters = MappingProxyType({"E": 100.0, "domE": 100.0, "incE": 100.0, "incdomE": 100.0, "F1": 0.1, "F2": 0.1, "F3": 0.1})
# AF2: BFD and UniClust30.
HHBLITS: Parameters = MappingProxyType(
    {"n": 3, "e": 0.001, "maxseq": 1_000_000, "realign_max": 100_000, "maxfilt": 100_000, "min_prefilter_hits": 1000}
)
HHSEARCH: Parameters = MappingProxyType({"maxseq": 1_000_000})
# ColabFold's search; its expansion and filters apply to databases of clusters.
MMSEQS: Parameters = MappingProxyType(
    {
        "search": ("--num-iterations", "3", "-a", "-e", "0.1", "--max-seqs", "10000", "-s", "8"),
        "expand": ("--expansion-mode", "0", "-e", "inf", "--expand-filter-clusters", "1", "--max-seq-id", "0.95"),
        "align": ("-e", "10", "--max-accept", "100000", "--alt-ali", "10", "-a"),
        "filter": ("--qid", "0", "--qsc", "0.8", "--diff", "0", "--max-seq-id", "1.0", "--filter-min-enable", "100"),
        "msa": (
            *("--msa-format-mode", "6", "--filter-msa", "1", "--filter-min-enable", "1000", "--diff", "3000"),
            *("--qid", "0.0,0.2,0.4,0.6,0.8,1.0", "--qsc", "0", "--max-seq-id", "0.95"),
        ),
    }
)
# Rows that AF2 keeps of a database's alignment, the query included.
MAX_ROWS: Mapping[str, int] = MappingProxyType({"uniref90": 10_000, "mgnify": 501, "uniprot": 50_000})
