"""The layouts in which raw data come: each on real files, and each with its mistakes."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from foldline.data_store.ingest import IngestReport, ingest
from foldline.data_store.ingest.layouts import guess
from foldline.data_store.ingest.run import IngestSettings
from foldline.data_store.parse.a3m import read_a3m
from foldline.data_store.parse.structure import read_structure
from foldline.data_store.store import Store
from foldline.errors import FoldlineError
from foldline.tests.data_store.ingest_cases import names
from foldline.tests.data_store.store_cases import DEMO, need_data


def run(source: Path | list[Path], tmp_path: Path, **settings: object) -> tuple[IngestReport, Store]:
    store = tmp_path / "store"
    return ingest(source, store, IngestSettings(**settings)), Store.open(store)  # type: ignore[arg-type]


def reason(report: IngestReport, name: str) -> str:
    (found,) = [o.reason for o in (*report.stored, *report.repaired, *report.quarantined) if o.name == name]
    return found


class TestFolder:
    @pytest.mark.parametrize("place", ["1ubq_A.second.a3m", "1ubq_A/second.a3m", "deep/1ubq_A/second.a3m"])
    def test_several_alignments_of_one_chain(self, tmp_path: Path, place: str) -> None:
        source = tmp_path / "source"
        (source / place).parent.mkdir(parents=True)
        for name in ("1ubq_A.cif.gz", "1ubq_A.a3m.gz"):
            shutil.copy(DEMO / name, source / name)
        rows = gzip.decompress((DEMO / "1ubq_A.a3m.gz").read_bytes()).decode().split(">")
        (source / place).write_text(f">{rows[1]}>{rows[2]}>new\n{'A' * 76}\n")
        _, store = run(source, tmp_path)
        record = store.record("1ubq_A")
        assert {msa.name: len(msa.rows) for msa in record.msas} == {"a3m": 69, "second": 1}

    def test_stockholm_beside_a3m(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir()
        shutil.copy(DEMO / "1ubq_A.cif.gz", source)
        shutil.copy(DEMO / "1ubq_A.a3m.gz", source)
        shutil.copy(need_data("demo_jackhmmer/1ubq_A.sto.gz"), source)
        report, store = run(source, tmp_path)
        msas = store.record("1ubq_A").msas
        assert [msa.name for msa in msas] == ["a3m", "sto"]
        both = np.concatenate([msa.rows for msa in msas])
        assert len(np.unique(both, axis=0)) == len(both)
        assert names(report.stored) == {"1ubq_A"}

    def test_alignments_of_two_proteins_on_one_chain(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        shutil.copytree(DEMO, source)
        shutil.copy(DEMO / "2hba_A.a3m.gz", source / "1ubq_A.other.a3m.gz")
        report, _ = run(source, tmp_path)
        assert "are not of one sequence" in reason(report, "1ubq_A")

    def test_an_empty_one_of_several_is_left_out(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        shutil.copytree(DEMO, source)
        (source / "1ubq_A.mgnify.a3m").touch()
        report, store = run(source, tmp_path)
        assert "1ubq_A.mgnify.a3m is empty: left out" in reason(report, "1ubq_A")
        assert len(store.record("1ubq_A").msas) == 1


class TestOpenProteinSet:
    @pytest.fixture
    def archive(self, tmp_path: Path) -> Path:
        """As published: two chains of one entry (one named by the list of duplicates alone) and one without a structure."""
        for name in ("2q2k_A", "1a3p_A"):
            for path in need_data(f"templates/{name}").glob("*hits*"):
                target = tmp_path / "archive" / name / ("hhr" if ".hhr" in path.name else "a3m") / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        (tmp_path / "archive" / "duplicate_pdb_chains.txt").write_text("2q2k_A 2q2k_B\n")
        return tmp_path / "archive"

    def test_chains_meet_their_structures(self, archive: Path, tmp_path: Path) -> None:
        assert guess(archive) == "openproteinset"
        report, store = run(archive, tmp_path, structures=need_data("structures_only"))
        assert set(store.chain_ids) == {"2q2k_A", "2q2k_B"}
        assert "no structure of that name" in reason(report, "1a3p_A")
        record = store.record("2q2k_B")
        assert [msa.name for msa in record.msas][:2] == ["uniref90_hits", "bfd_uniclust_hits"]
        assert record.sequence.startswith("MGSSHHHHHH")

    def test_structures_need_a_layout_that_uses_them(self, tmp_path: Path) -> None:
        with pytest.raises(FoldlineError, match="is of no use to"):
            ingest(DEMO, tmp_path / "store", IngestSettings(structures=DEMO))

    def test_template_hits_become_templates(self, tmp_path: Path) -> None:
        source, lysozyme = tmp_path / "source" / "133l_A", need_data("templates/P61626_lysozyme")
        source.mkdir(parents=True)
        for name in ("uniref90_hits.sto.gz", "mgnify_hits.sto.gz", "pdb_hits.sto.gz"):
            shutil.copy(lysozyme / name, source)
        folder = lysozyme / "mmcif"
        report, store = run(source.parent, tmp_path, structures=folder, templates=folder)
        record = store.record("133l_A")
        released = record.metadata.release_date
        assert record.templates is not None
        assert len(record.templates.names) > 0
        for name in record.templates.names:
            assert not name.startswith("133l")
            assert read_structure(folder / f"{name[:4]}.cif.gz").release_date <= released
        assert report.template_reasons()["released too late or without a date"] > 0
        assert report.template_reasons()["the query's own entry"] > 0

    def test_hits_without_a_folder_of_structures_are_said(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        shutil.copytree(DEMO, source)
        shutil.copy(need_data("templates/1a3p_A/pdb70_hits.hhr.gz"), source / "1ubq_A.hhr.gz")
        report, store = run(source, tmp_path)
        assert store.record("1ubq_A").templates is None
        assert list(report.template_reasons()) == ["no folder of template structures was given (--templates)"]

    def test_a_wrong_date(self, tmp_path: Path) -> None:
        with pytest.raises(FoldlineError, match="give an ISO date"):
            ingest(DEMO, tmp_path / "store", IngestSettings(max_template_date="May 2018"))


class TestColabFold:
    def test_a_complex_gives_its_chains(self, tmp_path: Path) -> None:
        folder = need_data("predicted/ColabFold_1.5.5")
        assert guess(folder) == "colabfold"
        report, store = run(folder, tmp_path)
        assert set(store.chain_ids) == {"beta_amyloid_dimer_d2fa3_0_A", "beta_amyloid_dimer_d2fa3_0_B"}
        record = store.record("beta_amyloid_dimer_d2fa3_0_B")
        assert record.sequence == "DAEFRHDSGYEVHHQKLVFFAEDVGSNKGAIIGLMVGGVVIA"
        assert record.metadata.source == "distillation"
        assert record.plddt is not None
        assert 30 < record.plddt.mean() < 100
        assert report.quarantined == ()

    def test_columns_of_a_complex_are_shared_out(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir()
        first, second = (read_structure(DEMO / name).chains["A"].sequence for name in ("1ubq_A.cif.gz", "2hba_A.pdb.gz"))
        n, m = len(first), len(second)
        rows = f">101\t102\n{first}{second}\n>one\n{'A' * n}{'-' * m}\n>two\n{'-' * n}{'C' * m}\n"
        (source / "pair.a3m").write_text(f"#{n},{m}\t1,1\n{rows}")
        model = _pdb(DEMO / "1ubq_A.cif.gz", "A") + _pdb(DEMO / "2hba_A.pdb.gz", "B")
        (source / "pair_unrelaxed_rank_001_alphafold2_multimer_v3_model_1_seed_000.pdb").write_text(model)
        _, store = run(source, tmp_path)
        assert [len(store.record(f"pair_{c}").msas[0].rows) for c in "AB"] == [2, 2]
        assert store.record("pair_B").sequence == second

    def test_an_alignment_alone_finds_its_structure_elsewhere(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir()
        alignment = need_data("templates/P61626_lysozyme/colabfold/P61626.a3m.gz")
        shutil.copy(alignment, source / "133l_A.a3m.gz")
        _, store = run(source, tmp_path, structures=need_data("templates/P61626_lysozyme/mmcif"))
        record = store.record("133l_A")
        assert record.metadata.source == "experimental"
        assert sum(len(msa.rows) for msa in record.msas) == len(np.unique(read_a3m(alignment).rows, axis=0))


class TestAlphaFoldDB:
    def test_models_are_distillation_entries_with_plddt(self, tmp_path: Path) -> None:
        folder = need_data("predicted/AFDB")
        assert guess(folder) == "afdb"
        source = Path(shutil.copytree(folder, tmp_path / "source"))
        sequence = read_structure(source / "AF-P01112-F1-model_v4.cif.gz").chains["A"].sequence
        (source / "P01112.a3m").write_text(f">q\n{sequence}\n>r\n{'A' * len(sequence)}\n")
        report, store = run(source, tmp_path)
        assert set(store.chain_ids) == {"AF-P01112-F1", "AF-V9WDR2-F1", "AF-Q5VSL9-F1"}
        ras = store.record("AF-P01112-F1")
        assert ras.metadata.source == "distillation"
        assert ras.plddt is not None
        assert ras.plddt[:2].tolist() == pytest.approx([89.31, 96.61], abs=0.01)
        assert ras.plddt.mean() == pytest.approx(91.985, abs=0.001)
        assert len(ras.msas[0].rows) == 2
        assert names(report.stored) == {"AF-P01112-F1"}
        assert store.record("AF-Q5VSL9-F1").plddt.min() > 10

    def test_an_experimental_structure_is_no_prediction(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir()
        text = gzip.decompress((DEMO / "2hba_A.pdb.gz").read_bytes()).decode()
        (source / "x.pdb").write_text("".join(f"{line[:60]}150.00{line[66:]}\n" for line in text.splitlines() if line.startswith("ATOM")))
        with pytest.raises(FoldlineError, match="they are no pLDDT"):
            ingest(source, tmp_path / "store", IngestSettings(layout="afdb"))


class TestManifest:
    @pytest.fixture
    def table(self, tmp_path: Path) -> Path:
        shutil.copytree(DEMO, tmp_path / "files")
        path = tmp_path / "files" / "set.csv"
        path.write_text(
            "id,structure,chain,msas,hits,source,cluster_id,resolution\n"
            "first,1ubq_A.cif.gz,A,1ubq_A.a3m.gz;1ubq_A.a3m.gz,,,c1,\n"
            'second,2hba_A.pdb.gz,,2hba_A.a3m.gz,,distillation,"c,2",1.5\n'
            "third,1gcc_A.pdb.gz,B,1gcc_A.a3m.gz,,,,\n"
            "fourth,missing.pdb,A,,,,,\n"
        )
        return path

    def test_its_columns(self, table: Path, tmp_path: Path) -> None:
        report, store = run(table, tmp_path)
        assert set(store.chain_ids) == {"first", "second"}
        assert store.metadata("second").cluster_id == "c,2"
        assert store.metadata("second").resolution == 1.5
        assert store.record("second").plddt is not None
        assert len(store.record("first").msas[0].rows) == 69
        assert "no protein chain 'B'" in reason(report, "third")
        assert "missing.pdb does not exist; correct line 5" in reason(report, "fourth")

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("id,structure", "name,structure", "no column 'id'"),
            ("id,structure", "id,file", "no column 'structure'"),
            ("cluster_id", "cluster_ids", "unknown column 'cluster_ids'; did you mean 'cluster_id'"),
            ("second,", "first,", "id 'first' is given twice"),
            (",1.5", ",good", "resolution is 'good', not a number"),
            ("distillation", "dream", "valid: experimental, distillation"),
            (",1.5", ",1.5,9", "more cells"),
        ],
    )
    def test_a_mistake_in_it(self, table: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
        table.write_text(table.read_text().replace(old, new, 1))
        with pytest.raises(FoldlineError, match=message):
            ingest(table, tmp_path / "store")
        assert not (tmp_path / "store").exists()

    def test_columns_of_other_people_are_named(self, tmp_path: Path) -> None:
        path = tmp_path / "few.tsv"
        folder = need_data("manifest.tsv").parent
        lines = (folder / "manifest.tsv").read_text().splitlines()[:4]
        path.write_text("\n".join(lines).replace("structures/", f"{folder}/structures/").replace("msas/", f"{folder}/msas/"))
        report, store = run(path, tmp_path)
        assert len(store.chain_ids) == 3
        assert "msa_depth_full" in report.remarks[0]


class TestSeveralSources:
    def test_they_come_together_and_a_name_counts_once(self, tmp_path: Path) -> None:
        second = tmp_path / "second"
        second.mkdir()
        for name in ("1ubq_A.cif.gz", "1ubq_A.a3m.gz"):
            shutil.copy(DEMO / name, second / name)
            shutil.copy(DEMO / name, second / name.replace("1ubq", "9ubq"))
        report, store = run([DEMO, second], tmp_path)
        assert len(store.chain_ids) == 9
        (refused,) = report.quarantined
        assert refused.name == "1ubq_A"
        assert "an earlier source gives '1ubq_A' already" in refused.reason


def _pdb(path: Path, chain: str) -> str:
    """The atoms of a file as PDB lines of chain ``chain``, B-factor 90."""
    import gemmi

    structure = gemmi.read_structure(str(path))
    structure.setup_entities()
    structure.remove_ligands_and_waters()
    lines = structure.make_pdb_string(gemmi.PdbWriteOptions(minimal=True)).splitlines()
    return "".join(f"{x[:21]}{chain}{x[22:60]} 90.00{x[66:]}\n" for x in lines if x.startswith("ATOM"))
