"""What must be the same on every rank: code, packages, config, dataset. The odd one is named with both values."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .result import FAILED, OK, Result, Told, hosts_of, joined

REMEDIES = {
    "code": "start all ranks from one installation that every host sees, or bring the hosts to one commit",
    "packages": "start all ranks from one environment or container image",
    "config": "give every rank the same --config file and --set overrides",
    "dataset": "give every host the same store, or copy it again: foldline store verify STORE says what is damaged",
}


def source_hash(package: Path) -> str:
    """sha256 over the names and bytes of all Python files below ``package``'s folders, hex; what really runs, committed or not."""
    digest = hashlib.sha256()
    files = [*package.glob("*.py"), *(path for init in package.glob("*/__init__.py") for path in init.parent.rglob("*.py"))]
    for path in sorted(files):
        name = path.relative_to(package).as_posix()
        if not name.startswith("tests/"):
            digest.update(f"{name}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def judge(check: str, told: Sequence[Told]) -> Result:
    """Compare every rank's ``facts`` ({"what": "value"}) for ``check``."""
    problems, agreed, differing = [], [], []
    for what in sorted({key for each in told for key in each.facts}):
        tellers = [each for each in told if what in each.facts]  # not every rank tells everything
        values = {each.rank: str(each.facts[what]) for each in tellers}
        usual = _usual(values)
        example = next(each for each in tellers if values[each.rank] == usual)
        agreed.append(f"{what} {usual}")
        odd = [each for each in tellers if values[each.rank] != usual]
        others = sum(value == usual for value in values.values()) - 1
        rest = f" and {others} other{'s' * (others > 1)}" if others else ""
        differing += odd
        problems += [f"{each.name} has {what} {values[each.rank]}, {example.name}{rest} {usual}" for each in odd]
    if problems:
        hosts = () if check == "config" else hosts_of(differing)  # the same command line gives no host another config
        return Result(check, FAILED, joined(problems), REMEDIES[check], {"problems": problems}, hosts)
    what = ", ".join(agreed) if len(agreed) <= 3 else f"{len(agreed)} values are the same"
    found = f"{what} on {len(told)} rank{'s' * (len(told) > 1)}"
    return Result(check, OK, found, figures={"values": agreed})


def _usual(values: dict[int, str]) -> str:
    """The most frequent value; of equally frequent ones the lowest rank's."""
    counts = Counter(values.values())
    most = max(counts.values())
    return next(values[rank] for rank in sorted(values) if counts[values[rank]] == most)
