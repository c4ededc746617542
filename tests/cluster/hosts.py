"""Two hosts with addresses and names of their own: network namespaces joined by a link. Root and iproute2; nothing is left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
# Open MPI reaches other hosts through a program that is called like ssh: with the host and a shell command.
AGENT = '#!/bin/bash\nhost=$1; shift\nexec ip netns exec "$host" unshare --uts bash -c "hostname $host; $*"\n'


class Hosts:
    """``one`` and ``two``, at 10.77.0.1 and 10.77.0.2. ``on`` makes a command line that runs on a host."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.one, self.two = self.names = (f"fl{os.getpid()}{suffix}a", f"fl{os.getpid()}{suffix}b")
        self.folder = folder
        self._relay: subprocess.Popen[bytes] | None = None

    def on(self, host: str, *program: str) -> list[str]:
        """``program`` inside ``host``, under its host name and its /etc/hosts."""
        return ["ip", "netns", "exec", host, "unshare", "--uts", "bash", "-c", 'hostname "$0"; exec "$@"', host, *program]

    def start(self, host: str, *program: str, **environment: str) -> subprocess.Popen[str]:
        """Run ``program`` on ``host`` in a session of its own."""
        return subprocess.Popen(
            self.on(host, *program),
            env=clean(os.environ) | {"OMP_NUM_THREADS": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def cut(self) -> None:
        """Take the link down, on both sides."""
        for host, name in self._ends():
            run("ip", "-n", host, "link", "set", name, "down")

    def join(self) -> None:
        """Bring it up again."""
        for host, name in self._ends():
            run("ip", "-n", host, "link", "set", name, "up")

    def slow_down(self, rate: str) -> None:
        """Let the link carry only ``rate``, e.g. "20mbit"."""
        for host, name in self._ends():
            run("tc", "-n", host, "qdisc", "replace", "dev", name, "root", "tbf", "rate", rate, "burst", "64kb", "latency", "400ms")

    def full_speed(self) -> None:
        """Undo ``slow_down``."""
        for host, name in self._ends():
            run("tc", "-n", host, "qdisc", "del", "dev", name, "root")

    def delay(self, seconds: float) -> None:
        """Let every packet take ``seconds`` longer each way: tc netem, or where the kernel lacks it a program that holds frames back."""
        netem = [["tc", "-n", h, "qdisc", "replace", "dev", v, "root", "netem", "delay", f"{seconds * 1e3:g}ms"] for h, v in self._ends()]
        if all(subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in netem):
            return
        taps = [f"fl{os.getpid()}t{number}" for number in (1, 2)]
        for tap in taps:
            run("ip", "tuntap", "add", "dev", tap, "mode", "tap")
        self._relay = subprocess.Popen([sys.executable, __file__, str(seconds), *taps], stdout=subprocess.PIPE)
        assert self._relay.stdout is not None
        self._relay.stdout.readline()  # both are open: they may move now
        for tap, (host, name), number in zip(taps, self._ends(), (1, 2), strict=True):
            run("ip", "link", "set", tap, "netns", host)
            run("ip", "-n", host, "link", "del", name) if number == 1 else None  # a veth goes with its other end
            run("ip", "-n", host, "addr", "add", f"10.77.0.{number}/24", "dev", tap)
            run("ip", "-n", host, "link", "set", tap, "mtu", "60000", "up")

    def up(self) -> None:
        hosts = "127.0.0.1 localhost\n" + "".join(f"10.77.0.{n} {name}\n" for n, name in enumerate(self.names, 1))
        for name in self.names:
            folder = Path("/etc/netns") / name
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(hosts)
            run("ip", "netns", "add", name)
        run("ip", "link", "add", "v1", "netns", self.one, "type", "veth", "peer", "name", "v2", "netns", self.two)
        for number, (host, name) in enumerate(self._ends(), 1):
            run("ip", "-n", host, "addr", "add", f"10.77.0.{number}/24", "dev", name)
            run("ip", "-n", host, "link", "set", "lo", "up")
            run("ip", "-n", host, "link", "set", name, "up")

    def down(self) -> None:
        for name in self.names:
            found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout.split()
            for pid in found:  # of this process's namespaces alone
                subprocess.run(["kill", "-9", pid], capture_output=True, check=False)
        if self._relay is not None:
            self._relay.kill()
            self._relay.wait()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)

    def _ends(self) -> list[tuple[str, str]]:
        return list(zip(self.names, ("v1", "v2"), strict=True))


@contextmanager
def two_hosts(folder: Path, suffix: str = "") -> Iterator[Hosts]:
    """Set up and take down, with a ``suffix`` of its own beside another pair; skips the test where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None or shutil.which("tc") is None:
        pytest.skip("network namespaces need iproute2")
    hosts = Hosts(folder, suffix)
    try:
        hosts.up()
    except subprocess.CalledProcessError as error:
        hosts.down()
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    try:
        yield hosts
    finally:
        hosts.down()


def run(*command: str) -> str:
    """The output of a command that must not fail."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without what a launcher left in it."""
    stale = ("OMPI_", "PMIX_", "SLURM_", "TORCHELASTIC_", "RANK", "LOCAL_", "WORLD_SIZE", "MASTER_", "GLOO_")
    return {name: value for name, value in environment.items() if not name.startswith(stale)}


def torchrun(hosts: Hosts, arguments: Sequence[str], port: int = 29511, **second: str) -> list[subprocess.Popen[str]]:
    """``foldline ARGUMENTS`` on both hosts, one rank each; ``second`` is environment of the second host alone."""
    jobs = []
    for number, host in enumerate(hosts.names):
        place = [
            "--nnodes",
            "2",
            "--nproc-per-node",
            "1",
            "--node-rank",
            str(number),
            "--master-addr",
            hosts.one,
            "--master-port",
            str(port),
        ]
        program = [sys.executable, "-m", "torch.distributed.run", *place, "-m", "foldline.cli", *arguments]
        jobs.append(hosts.start(host, *program, **(second if number else {})))
    return jobs


def mpirun(hosts: Hosts, program: Path, arguments: Sequence[str]) -> subprocess.Popen[str]:
    """``foldline ARGUMENTS`` on both hosts, one rank each, started by ``program`` on the first."""
    agent = hosts.folder / "agent.sh"
    agent.write_text(AGENT)
    agent.chmod(0o755)
    places = ["--host", ",".join(f"{name}:1" for name in hosts.names), "--prtemca", "plm_ssh_agent", str(agent)]
    command = [str(program), "-n", "2", "--allow-run-as-root", "--bind-to", "none", *places]
    return hosts.start(hosts.one, *command, sys.executable, "-m", "foldline.cli", *arguments)


def finish(jobs: Sequence[subprocess.Popen[str]], seconds: float) -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of each."""
    end = time.monotonic() + seconds
    results = []
    for job in jobs:
        out, errors = job.communicate(timeout=max(1.0, end - time.monotonic()))
        results.append((job.returncode, out, errors))
    return results


def _relay(seconds: float, names: Sequence[str]) -> None:
    """Carry frames between two TAP devices, each held back for ``seconds``."""
    import heapq
    import select

    fds = []
    for name in names:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
        fds.append(fd)
    print("open", flush=True)
    other, held, count = {fds[0]: fds[1], fds[1]: fds[0]}, [], 0
    while True:
        wait = max(0.0, held[0][0] - time.monotonic()) if held else 1.0
        for fd in select.select(fds, [], [], wait)[0]:
            try:
                frame = os.read(fd, 1 << 16)
            except OSError:  # not up yet
                continue
            heapq.heappush(held, (time.monotonic() + seconds, count := count + 1, other[fd], frame))
        while held and held[0][0] <= time.monotonic():
            *_, fd, frame = heapq.heappop(held)
            try:
                os.write(fd, frame)
            except OSError:  # a full queue drops it, as networks do
                continue


if __name__ == "__main__":
    _relay(float(sys.argv[1]), sys.argv[2:])
