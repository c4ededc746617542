"""A real Slurm on this machine: munged, slurmctld and several slurmd, each a node of its own. Root and Debian's packages; nothing is left.

The nodes share this machine's address; their names are known only inside a mount namespace in which the daemons and all jobs live.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
SBIN = f"{os.environ['PATH']}:/usr/sbin"
CORES = 2  # that each node claims to have

CONFIGURATION = """
ClusterName=foldline
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=5,batch_sched_delay=1,sched_min_interval=1000
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=20
InactiveLimit=0
KillWait=10
MinJobAge=600
FirstJobId={first}
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
"""


class SlurmCluster:
    """``nodes`` by name. Commands find this Slurm through ``environment``."""

    def __init__(self, folder: Path, nodes: Sequence[str]) -> None:
        self.folder, self.nodes = folder, tuple(nodes)
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    def state(self, job: str) -> str:
        """Slurm's word for the state of ``job``: PENDING, RUNNING, COMPLETED…"""
        return self.told(job, "JobState")

    def told(self, job: str, key: str) -> str:
        """One field of ``scontrol show job``; "" where Slurm knows no such job."""
        return dict(pair.partition("=")[::2] for pair in self._told("scontrol", "-o", "show", "job", job).split()).get(key, "")

    def start_now(self, job: str) -> None:
        """Take away the two minutes that Slurm keeps a requeued job back."""
        if self.state(job) == "PENDING":
            self.ask("scontrol", "update", f"jobid={job}", "StartTime=now")

    def kill_node(self, node: str) -> None:
        """The host is gone: its slurmd and everything that it started, at once."""
        daemon = self._daemons.pop(node)
        for process in (*self._started(node), psutil.Process(daemon.pid)):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        daemon.wait(30)

    def start_node(self, node: str) -> None:
        """The host is back."""
        (self.folder / f"spool.{node}").mkdir(exist_ok=True)
        self._daemons[node] = self._run("slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf"), node=node)

    def start(self) -> None:
        """Start all daemons and wait for all nodes."""
        munge = self.folder / "munge"
        for name in ("munge", "state"):
            (self.folder / name).mkdir(mode=0o755)
        key = munge / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self._configure()
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._daemons["munged"] = self._run("munged", "--foreground", "--force", *(f"--{k}={munge / v}" for k, v in files.items()))
        wait(lambda: (munge / "socket").exists(), "munged does not come up", 20)
        self._daemons["slurmctld"] = self._run("slurmctld", "-D", "-c", "-i", "-f", str(self.folder / "slurm.conf"))
        for node in self.nodes:
            self.start_node(node)
        wait(lambda: len(self._idle()) == len(self.nodes), f"not all nodes came up: {self.logs()}", 60)

    def stop(self) -> None:
        """End every job and daemon."""
        if (self.folder / "slurm.conf").exists():
            subprocess.run(["scancel", "-u", "root"], env=os.environ | self.environment, capture_output=True, timeout=60, check=False)
            end = time.monotonic() + 20
            while self._told("squeue", "-h") and time.monotonic() < end:
                time.sleep(0.2)
        for node in [name for name in self._daemons if name in self.nodes]:
            self.kill_node(node)
        for daemon in self._daemons.values():
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def logs(self) -> str:
        """The end of each daemon's log, for a test that fails."""
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in sorted(self.folder.glob("slurm*.log")))

    def _idle(self) -> set[str]:
        return set(self._told("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split())

    def _told(self, *command: str) -> str:
        """What a command prints, also where it fails: daemons come and go."""
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout

    def _started(self, node: str) -> list[psutil.Process]:
        """What ``node`` started: its tasks, known by their environment, and the slurmstepd above them, which have none."""
        tasks, keepers = [], set()
        for process in psutil.process_iter():
            try:
                told = process.environ()
                if told.get("SLURMD_NODENAME") == node and told.get("SLURM_CONF") == self.environment["SLURM_CONF"]:
                    tasks.append(process)
                    keepers |= {parent for parent in process.parents() if parent.name().startswith("slurmstepd")}
            except psutil.Error:
                continue
        return [*tasks, *keepers]

    def _run(self, *command: str, node: str = "") -> subprocess.Popen[bytes]:
        """A daemon; that of a ``node`` in a mount namespace in which the nodes have names."""
        if node:
            hosts = self.folder / "hosts"
            command = ("unshare", "--mount", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh", *command)
        log = (self.folder / f"{command[0]}.out").open("ab")
        return subprocess.Popen(command, env=os.environ | self.environment | {"PATH": SBIN}, stdout=log, stderr=log, start_new_session=True)

    def _configure(self) -> None:
        host, ports = socket.gethostname().split(".")[0], free_ports(1 + len(self.nodes))
        lines = [CONFIGURATION.format(host=host, folder=self.folder, port=ports[0], first=ports[0])]  # ranks' ports follow from ids
        for node, port in zip(self.nodes, ports[1:], strict=True):
            shape = f"CPUs={CORES} Boards=1 SocketsPerBoard=1 CoresPerSocket={CORES} ThreadsPerCore=1 RealMemory=4000 State=UNKNOWN"
            lines.append(f"NodeName={node} NodeAddr=127.0.0.1 NodeHostname={host} Port={port} {shape}\n")
        lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=0\n")
        lines.append("PartitionName=urgent Nodes=ALL Default=NO MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF\n")
        (self.folder / "slurm.conf").write_text("".join(lines))
        known = Path("/etc/hosts").read_text()
        (self.folder / "hosts").write_text(f"{known}\n127.0.0.1 {' '.join(self.nodes)}\n")


@contextmanager
def slurm_cluster(folder: Path, nodes: int) -> Iterator[SlurmCluster]:
    """A Slurm of ``nodes`` nodes; the test is skipped with the reason where there can be none."""
    missing = [name for name in (*DAEMONS, *COMMANDS) if shutil.which(name, path=SBIN) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (Debian: slurmctld slurmd slurm-client munge)")
    if os.geteuid() != 0:
        pytest.skip("several slurmd on one machine need root")
    cluster = SlurmCluster(folder, [f"n{number}" for number in range(1, nodes + 1)])
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def wait(holds: object, message: str, seconds: float) -> None:
    """Until ``holds()`` is true; AssertionError with ``message`` when it is not after ``seconds``."""
    assert callable(holds)
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, message
        time.sleep(0.2)


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on now."""
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
