"""GPU health from ``nvidia-smi``, which comes with every driver: uncorrected memory errors, throttling, other programs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from .checks.result import FAILED, OK, Result, Told, first_of_hosts, joined

SECONDS = 20.0
# What slows a card that does nothing yet; an idle card's other reasons (idle, power cap, application clocks) are no defect.
THROTTLES = ("hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown")
FOREIGN_MIB = 500  # of another program; desktops and monitors hold less


def look() -> dict[str, Any]:
    """{"gpus": [...], "driver", "error"} of this host; no cards where there is no nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"gpus": [], "driver": "", "error": ""}
    try:
        done = subprocess.run([program, "-q", "-x"], capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"gpus": [], "driver": "", "error": f"nvidia-smi does not answer: {error}"}
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()
        return {"gpus": [], "driver": "", "error": f"nvidia-smi ended with {done.returncode}: {last[-1] if last else 'no message'}"}
    return parse(done.stdout)


def parse(xml: str) -> dict[str, Any]:
    """The same from the text of ``nvidia-smi -q -x``."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        return {"gpus": [], "driver": "", "error": f"nvidia-smi -q -x is not readable: {error}"}
    gpus = [_gpu(number, gpu) for number, gpu in enumerate(root.findall("gpu"))]
    return {"gpus": gpus, "driver": root.findtext("driver_version", ""), "error": ""}


def _gpu(number: int, gpu: ElementTree.Element) -> dict[str, Any]:
    volatile = gpu.find("ecc_errors/volatile")
    counted = [] if volatile is None else [e for e in volatile.iter() if "uncorrectable" in e.tag or e.tag.startswith("double_bit")]
    reasons = [
        e.tag for group in ("clocks_event_reasons", "clocks_throttle_reasons") for e in gpu.findall(f"{group}/*") if e.text == "Active"
    ]
    rows = {name: gpu.findtext(f"remapped_rows/remapped_row_{name}", "") for name in ("pending", "failure")}
    processes = [
        {"pid": _number(e.findtext("pid", "")), "name": e.findtext("process_name", ""), "mib": _number(e.findtext("used_memory", ""))}
        for e in gpu.findall("processes/process_info")
    ]
    return {
        "index": number,
        "name": gpu.findtext("product_name", ""),
        "uncorrected": sum(_number(e.text or "") for e in counted if len(e) == 0),
        "throttled": sorted({name for name in THROTTLES if any(tag.endswith(f"reason_{name}") for tag in reasons)}),
        "remapping": [name for name, value in rows.items() if value == "Yes"],
        "processes": processes,
        "temperature": gpu.findtext("temperature/gpu_temp", ""),
    }


def judge(told: Sequence[Told]) -> Result:
    """Hosts by their first ranks, whose facts are ``look``'s, and "pids" of this job's ranks, and "cuda": whether cards are used."""
    problems, remedies, hosts = [], [], first_of_hosts(told)
    ill = set()
    for each in hosts:
        if each.facts["error"]:
            ill.add(each.host)
            problems.append(f"{each.name}: {each.facts['error']}")
            remedies.append("look at the driver (dmesg), or take the host out of the job")
        for gpu in each.facts["gpus"]:
            said = _problems(gpu, each.facts["pids"])
            ill |= {each.host} if said else set()
            problems += [f"GPU {gpu['index']} of {each.name} {text}" for text, _ in said]
            remedies += [remedy for _, remedy in said]
    if any(each.facts["cuda"] for each in hosts):
        kinds = {each.name: _kinds(each) for each in hosts}
        usual = max(kinds.values(), key=list(kinds.values()).count)
        odd = [each for each in hosts if kinds[each.name] != usual]
        ill |= {each.host for each in odd}
        problems += [f"{each.name} has {kinds[each.name]}, most hosts {usual}" for each in odd]
        remedies += ["ask the scheduler for hosts of one kind"] * bool(odd)
    figures = {each.host: {key: each.facts[key] for key in ("gpus", "driver")} for each in hosts}
    if problems:
        return Result("gpu", FAILED, joined(problems), "; ".join(dict.fromkeys(remedies)), figures, tuple(sorted(ill)))
    cards = sum(len(each.facts["gpus"]) for each in hosts)
    found = f"{cards} cards without uncorrected errors, throttling or other programs" if cards else "no NVIDIA card and none in use"
    return Result("gpu", OK, found, figures=figures)


def _problems(gpu: dict[str, Any], own: Sequence[int]) -> list[tuple[str, str]]:
    found = []
    if gpu["uncorrected"]:
        found.append((f"had {gpu['uncorrected']} uncorrected memory errors since its driver started", "reset the card or replace the host"))
    if gpu["remapping"]:
        found.append((f"has rows to remap ({', '.join(gpu['remapping'])})", "reset the card (pending) or have it replaced (failure)"))
    if gpu["throttled"]:
        found.append((f"is slowed down: {', '.join(gpu['throttled'])} at {gpu['temperature']}", "look at cooling and power of the host"))
    foreign = [p for p in gpu["processes"] if p["pid"] not in own and p["mib"] >= FOREIGN_MIB]
    if foreign:
        names = ", ".join(f"{p['name']} (process {p['pid']}, {p['mib']} MiB)" for p in foreign)
        found.append((f"is in use by {names}", "end that program, or ask the scheduler for whole hosts"))
    return found


def _kinds(each: Told) -> str:
    names = [gpu["name"] for gpu in each.facts["gpus"]]
    return f"{len(names)} x {' / '.join(sorted(set(names)))} with driver {each.facts['driver']}" if names else "no card"


def _number(text: str) -> int:
    word = text.strip().split(" ")[0]
    return int(word) if word.isdigit() else 0
