"""The doctor reports every topic and survives what is broken."""

from __future__ import annotations

import pytest

from foldline.cluster import doctor


# Each package is imported by a process of its own: all of them take half a minute.
@pytest.mark.parametrize(
    "packages", [("gemmi", "mpi4py"), pytest.param(tuple(doctor.PACKAGES), marks=pytest.mark.slow)], ids=["two", "all"]
)
def test_every_topic_is_reported(packages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", {name: doctor.PACKAGES[name] for name in packages})
    found = doctor.examine()
    findings = {finding.topic: finding for finding in found}
    assert {"python", "machine", "gpu", "mpirun", "compiler", "kernels", *packages} <= set(findings)
    assert {findings[name].state for name in packages if name in ("torch", "gemmi", "mpi4py")} == {"works"}
    assert all(finding.detail for finding in findings.values())
    assert [f.detail.partition(":")[0] for f in found if f.topic == "not bit-equal"] == list(doctor.NOT_DETERMINISTIC)


def test_a_check_that_raises_becomes_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def _machine() -> list[doctor.Finding]:
        raise OSError("no /proc here")

    monkeypatch.setattr(doctor, "_machine", _machine)
    monkeypatch.setattr(doctor, "PACKAGES", {})
    (finding,) = [f for f in doctor.examine() if f.topic == "machine"]
    assert (finding.state, finding.detail) == ("broken", "OSError: no /proc here")


def test_a_package_whose_import_fails_is_broken_and_an_absent_one_is_absent(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brokenpackage.py").write_text("raise ImportError('libfoo.so.1 is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    broken = doctor._package("brokenpackage", "broken-package", "", "nothing")
    assert broken.state == "broken"
    assert "libfoo.so.1" in broken.detail
    absent = doctor._package("absentpackage", "absent-package", "train", "training")
    assert absent.state == "absent"
    assert "foldline[train]" in absent.detail
