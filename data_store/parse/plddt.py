"""The pLDDT of a prediction in ModelCIF: where the file states it per residue, it takes the place of the B-factors."""

from __future__ import annotations

import gemmi

_LOCAL = "_ma_qa_metric_local."
_COLUMNS = ["label_asym_id", "label_seq_id", "metric_id", "metric_value"]


def set_plddt(block: gemmi.cif.Block, structure: gemmi.Structure) -> None:
    """Write the local pLDDT of ``block`` (``_ma_qa_metric_local``) into the B-factors of ``structure``'s first model, if it states one.

    Raises ValueError when a value is no number.
    """
    metrics = block.find("_ma_qa_metric.", ["id", "mode", "name", "type"])
    ids = {row[0] for row in metrics if row.str(1).lower() == "local" and "plddt" in (row.str(2) + row.str(3)).lower()}
    values = {(row.str(0), row.str(1)): float(row.str(3)) for row in block.find(_LOCAL, _COLUMNS) if row[2] in ids}
    if not values or len(structure) == 0:
        return
    for chain in structure[0]:
        for residue in chain:
            place = (residue.subchain, str(residue.label_seq))
            for atom in residue if place in values else ():
                atom.b_iso = values[place]
