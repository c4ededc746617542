"""Laps of a step, the printed line, and the profile of real steps."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from foldline.cli import main
from foldline.trainer.clock import LAPS, Clock, time_metrics
from foldline.trainer.profile import MARK, network_name, operations
from foldline.trainer.recorder import progress_line
from foldline.trainer.speed import matmul_peak

from .runs import write_config


class Hands:
    """A clock's time: it stands still unless moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Slow(nn.Module):
    def __init__(self, hands: Hands) -> None:
        super().__init__()
        self._hands = hands

    def forward(self, seconds: float) -> None:
        self._hands.now += seconds


def test_laps_add_up_and_passes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands()
    monkeypatch.setattr("foldline.trainer.clock.time", hands)
    clock, network = Clock(torch.device("cpu")), Slow(hands)
    clock.watch(network)
    for _ in range(2):  # the second step forgets the first
        clock.start()
        hands.now += 1.0
        clock.lap("data_wait")
        with torch.no_grad():
            network(2.0)
            network(4.0)
        hands.now += 0.25
        network(5.0)
        hands.now += 0.5
        clock.lap("losses")
        found = time_metrics(clock)
    assert found["time/data_wait"] == 1.0
    assert found["time/recycles"] == 6.0
    assert found["time/recycle_each"] == 3.0
    assert found["time/last_pass"] == 5.0
    assert found["time/losses"] == 0.75
    assert found["time/forward"] == 11.75
    assert found["time/backward"] == 0.0
    assert found["time/step"] == sum(found[f"time/{lap}"] for lap in LAPS) == 12.75


def test_the_line_says_what_is_left() -> None:
    names = ("loss/total", "train/lddt_ca", "optim/grad_norm", "optim/lr", "speed/samples_per_second", "speed/data_wait_share", "speed/mfu")
    window = [dict.fromkeys(names, 0.5) | {"time/step": seconds} for seconds in (1.0, 3.0)]
    line = progress_line(100, 10_000, window)
    assert line.endswith("MFU 50.0%  left 5:30:00")
    assert "\n" not in line
    assert len(line) < 140


def test_the_peak_is_a_speed_that_a_machine_can_have() -> None:
    assert 1e6 < matmul_peak(size=128) < 1e14


def test_names_leave_out_the_numbers_of_blocks() -> None:
    assert network_name("evoformer.blocks.3.pair.transition") == "evoformer.pair.transition"


class Event:
    """As torch.profiler hands them out."""

    device_type, self_device_time_total = "DeviceType.CPU", 0.0

    def __init__(self, name: str, parent: Event | None = None, sequence: int = -1, micro: float = 1.0) -> None:
        self.name, self.cpu_parent, self.sequence_nr, self.self_cpu_time_total = name, parent, sequence, micro


def test_a_backward_operation_belongs_where_its_forward_ran() -> None:
    ipa = Event(MARK + "structure.ipa", Event(MARK + "structure"))
    again = Event("autograd::engine::evaluate_function: MulBackward0", sequence=7)
    stray = Event("autograd::engine::evaluate_function: AccumulateGrad", sequence=99)
    found = operations(
        [
            Event("aten::mul", ipa, 7, 5.0),
            again,
            Event("aten::mul", again, micro=9.0),
            Event("aten::bmm", Event(MARK + "structure", again), micro=2.0),  # recomputed
            Event("aten::add", stray),
        ]
    )
    by = {(o.network, o.backward, o.name): round(1e6 * o.cpu_seconds) for o in found}
    assert by["structure.ipa", False, "mul"] == 5
    assert by["structure.ipa", True, "mul"] == 9
    assert by["structure", True, "bmm"] == 2
    assert by["outside the network", True, "add"] == 1
    assert found[0].name == "mul"
    assert found[0].backward


def test_a_profile_of_real_steps(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = write_config(tmp_path, store), tmp_path / "profile"
    assert main(["profile", "--config", str(config), "--steps", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "evoformer.pair" in printed
    assert "trace.json.gz" in printed
    assert not (tmp_path / "run").exists()
    rows = json.loads((out / "operations.json").read_text())
    networks = {row["network"] for row in rows}
    assert {"structure.ipa", "evoformer.row_attention", "extra_msa_stack.pair.triangle_attention_ending", "heads", "losses"} <= networks
    backward = {row["network"] for row in rows if row["backward"] and row["name"] in ("mm", "bmm")}
    assert "structure.ipa" in backward
    with gzip.open(out / "trace.json.gz", "rt") as file:
        assert any(event.get("name") == "in structure.ipa" for event in json.load(file)["traceEvents"])
    assert main(["profile", "--config", str(config), "--steps", "1", "--out", str(out)]) == 2
    assert "holds something already" in capsys.readouterr().err
    assert main(["profile", "--config", str(config), "--steps", "0", "--out", str(tmp_path / "new")]) == 2
