"""CPU, memory and GPUs of every host: one thread per host writes ``metrics.HOST.jsonl``, so nothing is gathered and no rank waits."""

from __future__ import annotations

import importlib
import re
import threading
from pathlib import Path
from typing import Any

import psutil
import torch

from .journal import Journal

GIB = 2**30


def system_journal(root: Path, host: str) -> Path:
    """The file of ``host`` in the run directory ``root``."""
    return root / f"metrics.{safe_name(host)}.jsonl"


def safe_name(host: str) -> str:
    """``host`` with only what file names and MLflow's metric names allow."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", host)


class SystemSampler:
    """Samples this host every ``seconds`` until closed. ``step`` is set by the training thread and stands in each record."""

    def __init__(self, root: Path, host: str, seconds: float) -> None:
        self.step = 0
        self._prefix = f"system/{safe_name(host)}/"
        self._journal = Journal(system_journal(root, host))
        self._seconds = seconds
        self._process = psutil.Process()
        self._gpus = open_gpus()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system", daemon=True)
        psutil.cpu_percent(None)  # the first call only starts the measurement
        self._process.cpu_percent(None)
        self._thread.start()

    def close(self) -> None:
        """Take a last sample and end the thread."""
        self._stop.set()
        self._thread.join(5.0)

    def _work(self) -> None:
        while not self._stop.wait(self._seconds):
            self._sample()
        self._sample()

    def _sample(self) -> None:
        memory = psutil.virtual_memory()
        values = {
            "cpu_share": psutil.cpu_percent(None) / 100,
            "memory_used_share": memory.percent / 100,
            "memory_used_gib": (memory.total - memory.available) / GIB,
            "process_memory_gib": self._process.memory_info().rss / GIB,
            "process_cores": self._process.cpu_percent(None) / 100,
        }
        values |= self._gpus.sample()
        self._journal.append("system", self.step, {self._prefix + name: value for name, value in values.items()})


def open_gpus() -> NvmlGpus | TorchGpus:
    """NVML where its Python package and driver are there, else what torch knows of the cards (nothing without any)."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        return NvmlGpus(nvml)
    except Exception:  # the package is absent, or there is no driver: each NVML error is a class of its own
        return TorchGpus()


class NvmlGpus:
    """All cards of the host: use, memory, power, temperature."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._cards = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]

    def sample(self) -> dict[str, float]:
        """ "gpu0/used_share" and so on; what a card does not tell is left out."""
        nvml, values = self._nvml, {}
        questions = {
            "used_share": lambda card: nvml.nvmlDeviceGetUtilizationRates(card).gpu / 100,
            "memory_gib": lambda card: nvml.nvmlDeviceGetMemoryInfo(card).used / GIB,
            "power_w": lambda card: nvml.nvmlDeviceGetPowerUsage(card) / 1000,
            "temperature_c": lambda card: nvml.nvmlDeviceGetTemperature(card, nvml.NVML_TEMPERATURE_GPU),
        }
        for number, card in enumerate(self._cards):
            for name, ask in questions.items():
                try:
                    values[f"gpu{number}/{name}"] = float(ask(card))
                except nvml.NVMLError:
                    continue
        return values


class TorchGpus:
    """Memory of the cards that torch sees."""

    def sample(self) -> dict[str, float]:
        """ "gpu0/memory_gib" per card."""
        values = {}
        for number in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
            free, total = torch.cuda.mem_get_info(number)
            values[f"gpu{number}/memory_gib"] = (total - free) / GIB
        return values
