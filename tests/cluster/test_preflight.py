"""The preflight judges: the odd rank, host or pair is named with both values; what is well is not; a failed check says the way out."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from foldline.cluster import health
from foldline.cluster.checks import clock, folder, limits, pairs, reading, same
from foldline.cluster.checks.pairs import Wanted, schedule
from foldline.cluster.checks.result import FAILED, OK, WARNING, Result, Told
from foldline.cluster.links import meet
from foldline.cluster.preflight import CHECKS, PreflightConfig, checks_to_do, odd_hosts, rules, to_json, with_way_out
from foldline.cluster.ranks import RankInfo, discover
from foldline.errors import FoldlineError

WANTED = Wanted(0.0, 0.3, 5.0)
GIB = 2**30


def told(*facts: dict[str, Any], per_host: int = 1) -> list[Told]:
    return [Told(rank, f"h{rank // per_host + 1}", each) for rank, each in enumerate(facts)]


@pytest.mark.parametrize(("odd", "named"), [(0, "rank 0 on h1"), (2, "rank 2 on h3"), (3, "rank 3 on h4")])
def test_the_odd_version_is_named_with_both_values(odd: int, named: str) -> None:
    facts: list[dict[str, Any]] = [{"torch": "2.13", "python": "3.11"} for _ in range(4)]
    facts[odd] = {"torch": "2.12", "python": "3.11"}
    result = same.judge("packages", told(*facts))
    usual = "rank 1 on h2" if odd == 0 else "rank 0 on h1"
    assert result.state == FAILED
    assert result.found == f"{named} has torch 2.12, {usual} and 2 others 2.13"
    assert same.judge("packages", told(*([facts[odd]] * 4))).state == OK


def test_what_some_ranks_do_not_tell_is_compared_among_the_others() -> None:
    facts = [{"sources": "a", "commit": "1"}, {"sources": "a"}, {"sources": "a", "commit": "2"}]
    result = same.judge("code", told(*facts))
    assert result.found == "rank 2 on h3 has commit 2, rank 0 on h1 1"


def test_the_source_hash_sees_a_changed_a_new_and_a_renamed_file(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "tests").mkdir()
    for name in ("__init__.py", "inner/__init__.py", "inner/a.py", "tests/__init__.py", "tests/test_a.py"):
        (tmp_path / name).write_text("one")
    hashes = [same.source_hash(tmp_path)]
    (tmp_path / "inner" / "a.py").write_text("two")
    hashes.append(same.source_hash(tmp_path))
    (tmp_path / "inner" / "b.py").write_text("")
    hashes.append(same.source_hash(tmp_path))
    (tmp_path / "inner" / "b.py").rename(tmp_path / "inner" / "c.py")
    hashes.append(same.source_hash(tmp_path))
    assert len(set(hashes)) == 4
    (tmp_path / "tests" / "test_a.py").write_text("other tests")
    assert same.source_hash(tmp_path) == hashes[-1]


def test_the_host_whose_clock_is_off_is_named_even_if_it_is_the_first() -> None:
    result = clock.judge(told({"ahead": 0.0}, {"ahead": -30.0}, {"ahead": -30.001}), 0.5)
    assert result.state == FAILED
    assert result.found.startswith("the clock of rank 0 on h1 is 30.0")
    assert "ahead of that of rank" in result.found
    late = clock.judge(told({"ahead": 0.0}, {"ahead": -3.0}), 0.5)
    assert late.found == "the clock of rank 1 on h2 is 3.000 s behind that of rank 0 on h1, the limit is 0.5 s"
    assert clock.judge(told({"ahead": 0.0}, {"ahead": 0.4}), 0.5).state == OK


def limit_facts(**other: Any) -> dict[str, Any]:
    return {"open_files": 65536, "memlock": -1, "shm_free": GIB, "infiniband": True, "shm_needed": 8 << 26} | other


@pytest.mark.parametrize(
    ("other", "state", "said"),
    [
        ({}, OK, "at least 65536 open files"),
        ({"open_files": 256}, FAILED, "rank 1 on h2 may open 256 files, fewer than 1024"),
        ({"open_files": 2048}, WARNING, "rank 1 on h2 may open 2048 files"),
        ({"memlock": 8 << 20}, FAILED, "rank 1 on h2 may lock 8 MiB of memory"),
        ({"memlock": 8 << 20, "infiniband": False}, OK, "open files"),
        ({"shm_free": 64 << 20}, FAILED, "rank 1 on h2 has 64 MiB free in /dev/shm, its ranks need 512 MiB"),
        ({"shm_free": None}, FAILED, "rank 1 on h2 has 0 MiB free"),
        ({"shm_free": 0, "shm_needed": 0}, OK, "open files"),
    ],
)
def test_limits(other: dict[str, Any], state: str, said: str) -> None:
    result = limits.judge(told(limit_facts(), limit_facts(**other)))
    assert (result.state, said in result.found) == (state, True), result
    assert bool(result.remedy) == (state != OK)


def test_the_limits_of_this_process_can_be_judged() -> None:
    assert limits.judge(told(limits.look(2, cuda=False))).state in (OK, WARNING)


def seen(free: int = 10 * GIB, **other: Any) -> dict[str, Any]:
    return {"seen": True, "problem": "", "free": free, "folder": "/run/checkpoints"} | other


def test_a_folder_of_its_own_a_full_and_a_read_only_one_are_told_apart() -> None:
    assert folder.judge(told(seen(), seen()), "", GIB, 4, 0).state == OK
    apart = folder.judge(told(seen(), seen(seen=False)), "", GIB, 4, 0)
    assert apart.found == "rank 1 on h2 does not see what rank 0 on h1 wrote into /run/checkpoints"
    closed = folder.judge(told(seen(), seen(problem="Read-only file system")), "", GIB, 4, 0)
    assert closed.found == "rank 1 on h2 cannot write to /run/checkpoints: Read-only file system"
    full = folder.judge(told(seen(), seen(free=3 * GIB)), "", GIB, 4, 0)
    assert full.found == "/run/checkpoints has 3 GiB free; 4 checkpoints of 1 GiB, 0 of them there already, need 4 GiB"
    assert folder.judge(told(seen(), seen(free=3 * GIB)), "", GIB, 4, 1).state == OK
    assert folder.judge(told(seen()), "No space left on device", GIB, 4, 0).state == FAILED


def test_the_mark_of_another_preflight_is_not_seen_and_nothing_stays(tmp_path: Path) -> None:
    place = tmp_path / "run" / "checkpoints"
    assert folder.leave_mark(place, "now") == ""
    assert folder.look(place, "now", 0)["seen"]
    (place / folder.MARK).write_text("before")
    patience, folder.PATIENCE = folder.PATIENCE, 0.2
    try:
        assert not folder.look(place, "now", 1)["seen"]
    finally:
        folder.PATIENCE = patience
    folder.clear_marks(place)
    assert list(place.iterdir()) == []


def test_reading_fails_by_a_given_rate_and_warns_by_an_estimate() -> None:
    facts = told({"rate": 2.0, "error": ""}, {"rate": 0.4, "error": ""}, {"rate": 2.1, "error": ""})
    given, planned = (reading.judge(facts, 0.5, "given", certain) for certain in (True, False))
    assert (given.state, planned.state) == (FAILED, WARNING)
    assert given.found == "rank 1 on h2 makes 0.40 samples/s, a rank needs 0.50 (given)"
    odd = reading.judge(facts, 0.0, "unknown", False)
    assert odd.found == "rank 1 on h2 makes 0.40 samples/s, the median rank 2.00"
    broken = reading.judge(told({"rate": 0.0, "error": "chain 'x' cannot be read"}), 0.0, "", False)
    assert broken.state == FAILED
    assert "foldline store verify" in broken.remedy


@pytest.mark.parametrize("hosts", [2, 3, 4, 5, 8, 9])
def test_rounds_hold_every_pair_once_and_a_host_once_per_round(hosts: int) -> None:
    rounds = schedule(hosts)
    assert sorted(pair for each in rounds for pair in each) == list(combinations(range(hosts), 2))
    assert all(len({host for pair in each for host in pair}) == 2 * len(each) for each in rounds)


def test_many_hosts_are_measured_with_some_partners_each() -> None:
    rounds = schedule(256)
    assert len(rounds) == pairs.ROUNDS
    assert all(len(each) == 128 for each in rounds)
    assert len({pair for each in rounds for pair in each}) == 128 * pairs.ROUNDS


def linked(hosts: int, bad: dict[tuple[int, int], dict[str, Any]], card: float = 0.0) -> list[Told]:
    """What the hosts' first ranks told: 8 Gbit/s, 0.1 ms and ``bad``."""
    good = {"error": "", "latency_ms": 0.1, "latency_median_ms": 0.2, "bytes": 1, "all_reduce_gbit": 8.0, "all_to_all_gbit": 7.0}
    every = {pair: good | bad.get(pair, {}) | {"hosts": list(pair)} for pair in combinations(range(hosts), 2)}
    return told(*({"pairs": [dict(m) for pair, m in every.items() if host in pair], "card": card} for host in range(hosts)))


def test_a_slow_a_late_and_a_dead_pair_are_named() -> None:
    assert pairs.judge(linked(4, {}), WANTED).state == OK
    slow = pairs.judge(linked(4, {(1, 3): {"all_reduce_gbit": 1.0}}), WANTED)
    assert slow.found == "rank 1 on h2 - rank 3 on h4: all-reduce 1.00 Gbit/s, the median pair 8.00"
    late = pairs.judge(linked(2, {(0, 1): {"latency_ms": 101.0}}), WANTED)
    assert late.found == "rank 0 on h1 - rank 1 on h2: 101.00 ms for the smallest all-reduce, at most 5 ms are expected"
    odd = pairs.judge(linked(4, {(0, 1): {"latency_ms": 1.5}}), WANTED)
    assert odd.found == "rank 0 on h1 - rank 1 on h2: 1.50 ms for the smallest all-reduce, the median pair 0.10"
    assert pairs.judge(linked(4, {(0, 1): {"latency_ms": 0.9}}), WANTED).state == OK
    dead = pairs.judge(linked(4, {(0, 2): {"error": "timed out"}}), WANTED)
    assert dead.found == "rank 0 on h1 - rank 2 on h3: no connection (timed out)"


def test_the_host_that_all_bad_pairs_share_is_the_culprit() -> None:
    bad = {pair: {"all_to_all_gbit": 0.1} for pair in combinations(range(5), 2) if 3 in pair}
    result = pairs.judge(linked(5, bad), WANTED)
    assert result.found.startswith("h4 is in all 4 bad pairs; ")


def test_bandwidth_is_held_against_the_card_or_what_was_given() -> None:
    assert pairs.judge(linked(2, {}), WANTED).state == WARNING  # nobody knows what the one pair should give
    assert pairs.judge(linked(2, {}, card=10.0), WANTED).state == OK
    by_card = pairs.judge(linked(2, {}, card=100.0), WANTED)
    assert by_card.found.endswith(
        "all-reduce 8.00 Gbit/s, less than 30% of the link's 100, all-to-all 7.00 Gbit/s, less than 30% of the link's 100"
    )
    assert pairs.judge(linked(2, {}, card=100.0), replace(WANTED, gbit=20.0)).state == OK


@pytest.mark.parametrize("side", [0, 1])
def test_an_error_that_one_side_saw_counts(side: int) -> None:
    both = linked(2, {})
    both[side].facts["pairs"][0]["error"] = "no route"
    assert "no connection (no route)" in pairs.judge(both, WANTED).found


@pytest.mark.parametrize("side", [0, 1])
def test_the_slower_figures_of_the_two_sides_count(side: int) -> None:
    both = linked(2, {})
    both[side].facts["pairs"][0] |= {"latency_ms": 9.0, "all_reduce_gbit": 0.5}
    found = pairs.judge(both, replace(WANTED, gbit=10.0)).found
    assert "9.00 ms" in found
    assert "all-reduce 0.50 Gbit/s" in found


HEALTHY = """<?xml version="1.0" ?><nvidia_smi_log><driver_version>550.54.15</driver_version><attached_gpus>1</attached_gpus>
<gpu id="00000000:19:00.0"><product_name>NVIDIA H100 80GB HBM3</product_name><minor_number>0</minor_number>
<clocks_event_reasons><clocks_event_reason_gpu_idle>Active</clocks_event_reason_gpu_idle>
<clocks_event_reason_hw_slowdown>Not Active</clocks_event_reason_hw_slowdown>
<clocks_event_reason_hw_thermal_slowdown>Not Active</clocks_event_reason_hw_thermal_slowdown>
<clocks_event_reason_sw_power_cap>Active</clocks_event_reason_sw_power_cap></clocks_event_reasons>
<ecc_errors><volatile><sram_correctable>5</sram_correctable><sram_uncorrectable_parity>0</sram_uncorrectable_parity>
<sram_uncorrectable_secded>N/A</sram_uncorrectable_secded><dram_uncorrectable>0</dram_uncorrectable></volatile>
<aggregate><dram_uncorrectable>7</dram_uncorrectable></aggregate></ecc_errors>
<remapped_rows><remapped_row_pending>No</remapped_row_pending><remapped_row_failure>No</remapped_row_failure></remapped_rows>
<temperature><gpu_temp>45 C</gpu_temp></temperature>
<processes><process_info><pid>4242</pid><process_name>python</process_name><used_memory>70000 MiB</used_memory></process_info></processes>
</gpu></nvidia_smi_log>"""


def gpu_told(xml: str, pids: tuple[int, ...] = (4242,), cuda: bool = True) -> list[Told]:
    return told(*(health.parse(text) | {"pids": list(pids), "cuda": cuda} for text in (HEALTHY, xml)))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("<dram_uncorrectable>0<", "<dram_uncorrectable>3<", "GPU 0 of rank 1 on h2 had 3 uncorrected memory errors"),
        ("hw_slowdown>Not Active<", "hw_slowdown>Active<", "GPU 0 of rank 1 on h2 is slowed down: hw_slowdown at 45 C"),
        ("pending>No<", "pending>Yes<", "GPU 0 of rank 1 on h2 has rows to remap (pending)"),
        ("<pid>4242<", "<pid>77<", "GPU 0 of rank 1 on h2 is in use by python (process 77, 70000 MiB)"),
        (
            "H100 80GB HBM3",
            "A100-SXM4-80GB",
            "rank 1 on h2 has 1 x NVIDIA A100-SXM4-80GB with driver 550.54.15, most hosts 1 x NVIDIA H100",
        ),
        ("<driver_version>550.54.15", "<driver_version>535.1", "rank 1 on h2 has 1 x NVIDIA H100 80GB HBM3 with driver 535.1, most hosts"),
    ],
)
def test_an_unhealthy_card_is_named(before: str, after: str, said: str) -> None:
    assert health.judge(gpu_told(HEALTHY)).state == OK
    assert before in HEALTHY
    result = health.judge(gpu_told(HEALTHY.replace(before, after, 1)))
    assert result.state == FAILED
    assert said in result.found
    assert result.remedy


def test_a_driver_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'; exit 18\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert health.look()["error"] == "nvidia-smi ended with 18: Failed to initialize NVML: Driver/library version mismatch"
    program.write_text("#!/bin/sh\necho no xml\n")
    assert "is not readable" in health.look()["error"]
    program.write_text(f"#!/bin/sh\ncat <<'X'\n{HEALTHY}\nX\n")
    assert health.look()["gpus"][0]["name"] == "NVIDIA H100 80GB HBM3"


def test_checks_are_left_out_by_name() -> None:
    assert checks_to_do(PreflightConfig(), list(CHECKS)) == list(CHECKS)
    assert checks_to_do(PreflightConfig(skip=("gpu", "links")), ["limits", "links", "gpu"]) == ["limits"]
    assert checks_to_do(PreflightConfig(skip=("all",)), list(CHECKS)) == []
    wrong = [message for holds, message in rules(PreflightConfig(skip=("clocks",), link_share=0.0)) if not holds]
    assert wrong[0] == "preflight.skip names 'clocks', which is no check; did you mean 'clock'?"
    assert len(wrong) == 2


def test_a_failed_check_says_how_to_leave_it_out_and_the_file_holds_all() -> None:
    failed = with_way_out(Result("clock", FAILED, "off", "set it", {"h1": 3.0}))
    assert failed.remedy == "set it; or leave this check out: --set 'preflight.skip=[\"clock\"]'"
    well = Result("gpu", OK, "fine")
    assert with_way_out(well) == well
    data = json.loads(to_json([failed, well], 1.5, ["rank 0"], ["h2"]))
    assert (data["failed"], data["odd_hosts"]) == (["clock"], ["h2"])
    assert data["checks"][0]["figures"] == {"h1": 3.0}


def test_hosts_without_which_all_would_be_well_are_told_from_what_is_wrong_everywhere() -> None:
    """Each judge names the hosts whose making its failure is: a start on others may do. What holds for all is nobody's in particular."""
    names = ["h1", "h2", "h3"]
    fine = {"torch": "2.13"}
    read = {"rate": 1.0, "error": ""}
    blamed = [
        (same.judge("packages", told(fine, {"torch": "2.12"}, fine)), ["h2"]),
        (same.judge("config", told({"a": "1"}, {"a": "1"}, {"a": "2"})), []),
        (clock.judge(told({"ahead": 0.0}, {"ahead": 30.0}, {"ahead": 30.0}), 0.5), ["h1"]),
        (limits.judge(told(limit_facts(), limit_facts(), limit_facts(open_files=9))), ["h3"]),
        (limits.judge(told(*[limit_facts(open_files=9)] * 3)), []),
        (folder.judge(told(seen(), seen(seen=False), seen()), "", GIB, 4, 0), ["h2"]),
        (folder.judge(told(seen(), seen(), seen(problem="read-only")), "", GIB, 4, 0), ["h3"]),
        (folder.judge(told(seen(free=GIB), seen(), seen()), "", GIB, 4, 0), []),
        (reading.judge(told(read, read | {"error": "away"}, read), 0.0, "", False), ["h2"]),
        (reading.judge(told(read, read, read | {"rate": 0.1}), 0.5, "given", True), ["h3"]),
        (pairs.judge(linked(3, {(0, 1): {"error": "dead"}, (1, 2): {"error": "dead"}}), WANTED), ["h2"]),
        (pairs.judge(linked(3, {(0, 2): {"error": "dead"}}), WANTED), ["h1", "h3"]),
        (health.judge(gpu_told(HEALTHY.replace("dram_uncorrectable>0<", "dram_uncorrectable>3<", 1))), ["h2"]),
        (health.judge(gpu_told(HEALTHY.replace("H100", "A100"))), ["h2"]),
    ]
    assert [result.state for result, _ in blamed] == [FAILED] * len(blamed)
    assert [odd_hosts([result], names) for result, _ in blamed] == [hosts for _, hosts in blamed]
    everywhere = Result("limits", FAILED, "all", hosts=("h1", "h2", "h3"))
    assert odd_hosts([blamed[0][0], everywhere], names) == []
    assert odd_hosts([blamed[0][0], Result("gpu", OK, "fine")], names) == ["h2"]
    assert odd_hosts([blamed[0][0]], ["h2", "h2"]) == [], "there is no other host"


def test_a_rank_that_does_not_come_is_named() -> None:
    place = RankInfo(0, 0, 3, 3, 0, "h1", "127.0.0.1", discover({}).port, "torchrun")
    with pytest.raises(FoldlineError, match=r"ranks 1, 2 of 3 did not come to 127.0.0.1:\d+ within 0.5 s; those of h1 did") as raised:
        meet(place, 0.5)
    assert "firewall" in str(raised.value)
    alone = replace(place, rank=1, port=discover({}).port)
    with pytest.raises(FoldlineError, match=r"rank 1 on h1 cannot meet the others at 127.0.0.1:\d+"):
        meet(alone, 1.0)
