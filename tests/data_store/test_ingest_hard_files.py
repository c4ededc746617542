"""The rules of docs/data.md for difficult files, on the hard inputs of the data collection: any folder with an INDEX.tsv will do."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from foldline.data_store.ingest import IngestReport, ingest
from foldline.data_store.ingest.reasons import OTHER, quarantine_class, repair_classes
from foldline.data_store.residues import ATOM37_MASK, ATOM_INDEX
from foldline.data_store.store import Store
from foldline.tests.data_store.store_cases import need_data

# Entry -> how it ends and a part of the reason, where the folder has it.
KNOWN = {
    "1bna": ("quarantined", "holds no protein chain"),
    "4p5j": ("quarantined", "holds no protein chain"),
    "104D_v23": ("quarantined", "holds no protein chain"),
    "1lzh_A": ("quarantined", "no residue of chain A has N, CA and C"),
    "1ffk_Z": ("quarantined", "no residue of chain Z has N, CA and C"),
    "5moo_header": ("quarantined", "holds no coordinates"),
    "2013551": ("quarantined", "no _atom_site loop"),
    "867861-core": ("quarantined", "no _atom_site loop"),
    "1bna-errors": ("quarantined", "not a valid mmCIF"),
    "1ubq_truncated_mid_atom_loop": ("quarantined", "not a valid mmCIF"),
    "1ubq_truncated": ("quarantined", "cut off or damaged gzip"),
    "1ubq_double_gz": ("quarantined", "packed twice"),
    "not_gzip": ("quarantined", "is not gzip"),
    "1AKE_err_b": ("quarantined", "not a valid PDB"),
    "incomplete": ("quarantined", "duplicate MODEL number"),
    "1aki.bcif": ("quarantined", "BinaryCIF is not read"),
    "empty": ("quarantined", "is empty"),
    "4wvp_I": ("quarantined", "no residue of the twenty types"),
    "1crn_A": ("repaired", "columns behind 72"),
    "1ubq_crlf_A": ("repaired", "query alone"),
    "altloc_A": ("repaired", "query alone"),
    "1EN2_A": ("repaired", "query alone"),
    "1igy_B": ("repaired", "query alone"),
    "4ZHL_U": ("repaired", "query alone"),
    "1l2y_A": ("repaired", "query alone"),
    "2BEG_E": ("repaired", "query alone"),
    "1A8O_A": ("repaired", "query alone"),
    "occupancy_A": ("repaired", "query alone"),
    "1grm_updated_A": ("repaired", "query alone"),
    "4hhb_D": ("repaired", "query alone"),
}


@pytest.fixture(scope="module")
def folder() -> Path:
    return need_data("nasty")


@pytest.fixture(scope="module")
def ingested(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[IngestReport, Store]:
    path = tmp_path_factory.mktemp("hard") / "store"
    return ingest(folder, path), Store.open(path)


class TestAnyFolder:
    def test_every_file_ends_with_a_reason(self, folder: Path, ingested: tuple[IngestReport, Store]) -> None:
        report, store = ingested
        index = [row["file"] for row in csv.DictReader((folder / "INDEX.tsv").open(), delimiter="\t")]
        assert index
        named = {o.name for o in (*report.stored, *report.repaired, *report.quarantined)}
        for name in index:
            stem = name.removesuffix(".gz").rpartition(".")[0]
            assert any(n in (name, stem) or n.startswith(f"{stem}_") for n in named), name
        assert all(outcome.reason for outcome in (*report.repaired, *report.quarantined))
        assert store.verify() == []

    def test_no_reason_is_a_fault_of_ours_or_without_a_class(self, ingested: tuple[IngestReport, Store]) -> None:
        report, _ = ingested
        for outcome in report.quarantined:
            assert "unexpected" not in outcome.reason, outcome
            assert quarantine_class(outcome.reason) != OTHER, outcome
        for outcome in report.repaired:
            assert OTHER not in repair_classes(outcome.reason), outcome

    def test_what_is_stored_can_be_learnt_from(self, ingested: tuple[IngestReport, Store]) -> None:
        _, store = ingested
        backbone = [ATOM_INDEX[name] for name in ("N", "CA", "C")]
        for chain_id in store.chain_ids:
            record = store.record(chain_id)
            assert record.mask[:, backbone].all(axis=-1).any(), chain_id
            assert (record.mask <= ATOM37_MASK[record.aatype] + (record.aatype == 20)[:, None]).all(), chain_id
            assert not record.positions[record.mask == 0].any(), chain_id


class TestKnownFiles:
    @pytest.mark.parametrize("name", KNOWN)
    def test_it_ends_as_the_rules_say(self, name: str, folder: Path, ingested: tuple[IngestReport, Store]) -> None:
        if not any(path.name == name or path.name.startswith((f"{name}.", f"{name.rpartition('_')[0]}.")) for path in folder.iterdir()):
            pytest.skip(f"this folder has no {name}")
        report, _ = ingested
        status, words = KNOWN[name]
        (found,) = [o for o in (*report.stored, *report.repaired, *report.quarantined) if o.name == name]
        assert found.status == status
        assert words in found.reason

    def test_selenomethionine_is_methionine(self, ingested: tuple[IngestReport, Store]) -> None:
        record = self.record(ingested, "1A8O_A")
        methionines = [i for i, letter in enumerate(record.sequence) if letter == "M"]
        assert "X" not in record.sequence
        assert len(methionines) == 4
        assert all(record.mask[i, ATOM_INDEX["SD"]] for i in methionines)

    def test_one_model_of_an_ensemble(self, ingested: tuple[IngestReport, Store]) -> None:
        record = self.record(ingested, "1l2y_A")
        assert record.sequence == "NLYIQWLKDGGPSSGRPPPS"
        np.testing.assert_allclose(record.positions[0, ATOM_INDEX["CA"]], [-8.608, 3.135, -1.618], atol=1e-3)

    def test_one_residue_type_where_two_share_a_place(self, ingested: tuple[IngestReport, Store]) -> None:
        record = self.record(ingested, "1EN2_A")
        assert len(record.sequence) == 89
        assert (record.mask[:, ATOM_INDEX["CA"]] <= 1).all()

    def test_d_residues_are_unknown_with_a_backbone(self, ingested: tuple[IngestReport, Store]) -> None:
        record = self.record(ingested, "1grm_updated_A")
        unknown = np.array([letter == "X" for letter in record.sequence])
        assert unknown.any()
        side = np.setdiff1d(np.arange(37), [ATOM_INDEX[name] for name in ("N", "CA", "C", "O", "CB")])
        assert not record.mask[unknown][:, side].any()

    def test_line_ends_do_not_matter(self, ingested: tuple[IngestReport, Store]) -> None:
        record = self.record(ingested, "1ubq_crlf_A")
        assert len(record.sequence) == 76
        assert record.mask.sum() in (601, 602)

    @staticmethod
    def record(ingested: tuple[IngestReport, Store], name: str):
        if name not in ingested[1].chain_ids:
            pytest.skip(f"this folder has no {name}")
        return ingested[1].record(name)
