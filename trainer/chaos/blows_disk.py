"""Faults of disks: full, cut short, a flipped byte."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from ..checkpoint import MANIFEST, read_manifest
from .blow import Blow, Outcome, Scene, pick, telling
from .plan import Traits

READ = ("aatype/c/", "residue_index/c/", "positions/c/", "mask/c/", "msa/c/")  # what every sample needs
NAME_LENGTH, EXTRA_LENGTH, HEADER = slice(26, 28), slice(28, 30), 30  # of a zip entry


class DiskFull(Blow):
    """Not a byte is left. In one half of the cases room is made after a checkpoint has failed, in the other when the run has ended."""

    traits = Traits("disk full", ("training",), ends=False)

    def strike(self, scene: Scene) -> str:
        assert scene.disk
        self._brief = self.fault.choice < 0.5
        scene.disk.fill()
        return f"no byte is left, until {'a checkpoint has failed' if self._brief else 'the run has ended'}"

    def over(self, scene: Scene, outcome: Outcome) -> bool:
        assert scene.disk
        if self._brief and telling(outcome.output, "was not written", "training goes on"):
            scene.disk.free()
            return True
        scene.disk.fill()
        return False

    def operate(self, scene: Scene, outcome: Outcome) -> str:
        assert scene.disk
        scene.disk.free()
        return "made room"

    def judge(self, outcome: Outcome) -> list[str]:
        told = telling(outcome.output, "was not written", "training goes on")
        if self._brief:
            outcome.seen = told
            return [] if outcome.code is None else [f"the job ended with code {outcome.code}, though the disk was full for one checkpoint"]
        outcome.seen = telling(outcome.output, "make room", "--resume")
        problems = [] if outcome.seen else ["no message asks to make room and to go on with --resume"]
        return problems + ([] if outcome.code == 2 else [f"exit code {outcome.code}, not 2"])


class CheckpointTruncated(Blow):
    """The newest checkpoint loses the end of a file, found when the job is started again after it was killed."""

    traits = Traits("checkpoint truncated", ("training",), ends=True)

    def ready(self, scene: Scene) -> bool:
        return len(scene.whole()) >= 2

    def strike(self, scene: Scene) -> str:
        scene.job.kill_all()
        self._folder = scene.whole()[-1]
        scene.truncated.add((self._folder / MANIFEST).stat().st_ino)
        names = sorted(read_manifest(self._folder).files)
        path = self._folder / names[pick(self.fault.choice, len(names))]
        size = path.stat().st_size
        left = pick(self.fault.amount, size)
        with path.open("r+b") as file:
            file.truncate(left)
        return f"every rank killed; {self._folder.name}/{path.name} cut to {left} of {size} bytes"

    def judge(self, outcome: Outcome) -> list[str]:
        outcome.seen = telling(outcome.next_output, self._folder.name, "is damaged")
        problems = [] if outcome.seen else [f"the next start does not name {self._folder.name}"]
        if outcome.resumed is not None and outcome.resumed >= int(self._folder.name.removeprefix("step_")):
            problems.append(f"it went on from step {outcome.resumed}, which is damaged")
        return problems


class StoreFlipped(Blow):
    """One bit of a chunk that samples are made of."""

    traits = Traits("store byte flipped", ("training",), ends=True)

    def strike(self, scene: Scene) -> str:
        store = Path(scene.config.data.store)
        spans = [(path, *span) for path in sorted((store / "parts").glob("*.zip")) for span in chunks(path)]
        path, name, start, size = spans[pick(self.fault.choice, len(spans))]
        self._path, at = path, start + pick(self.fault.amount, size)
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << pick(self.fault.fraction, 8)]))
        return f"byte {at} of {path.name} ({name}) has another bit"

    def operate(self, scene: Scene, outcome: Outcome) -> str:
        """What the message asks for: verify, put back what is damaged, verify."""
        store = Path(scene.config.data.store)
        found = verify(store)
        if found.returncode != 1 or self._path.name not in found.stderr:
            outcome.problems.append(f"`foldline store verify` does not name {self._path.name}: {found.stderr.strip()}")
        shutil.copyfile(scene.store_copy / self._path.relative_to(store), self._path)
        if verify(store).returncode:
            outcome.problems.append("the store is damaged after its repair")
        return f"`foldline store verify`, {self._path.name} copied back"

    def judge(self, outcome: Outcome) -> list[str]:
        if outcome.code == 0:
            outcome.seen = "nothing: no sample that was left needed it; `foldline store verify` names it"
            return []
        outcome.seen = telling(outcome.output, "foldline store verify")
        problems = [] if outcome.seen else ["no message names the store and `foldline store verify`"]
        return problems + ([] if outcome.code == 2 else [f"exit code {outcome.code}, not 2"])


def chunks(path: Path) -> list[tuple[str, int, int]]:
    """Name, first byte and size of the chunks of a part file that samples are made of."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        found = []
        for entry in archive.infolist():
            if entry.filename.startswith(READ) and entry.file_size:
                file.seek(entry.header_offset)
                header = file.read(HEADER)
                lengths = (int.from_bytes(header[part], "little") for part in (NAME_LENGTH, EXTRA_LENGTH))
                found.append((entry.filename, entry.header_offset + HEADER + sum(lengths), entry.file_size))
    return found


def verify(store: Path) -> subprocess.CompletedProcess[str]:
    """`foldline store verify`."""
    command = [sys.executable, "-m", "foldline.cli", "store", "verify", str(store)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
