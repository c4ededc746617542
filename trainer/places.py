"""Where each rank runs: its GPU, its CPUs, its NUMA nodes; bound once the ranks can talk, gathered for the rank map."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..cluster.binding import Seat, allowed_cpus, bind, check_devices, divide, gpu_node, machine, quota
from ..cluster.interfaces import describe_interface
from ..cluster.ranks import RankInfo
from .config import RunConfig
from .engine import CHOSEN

T = TypeVar("T")


def take_places(mine: RankInfo, config: RunConfig, device: torch.device) -> list[RankInfo]:
    """Bind this rank to its share of the host's CPUs (``run.bind``), set its threads, and return every rank's place, in order. Collective.

    Raises FoldlineError where two ranks hold the same GPU.
    """
    name, bus = describe_device(device)
    seats: list[tuple[str, Seat]] = gathered((mine.host, Seat(mine.rank, allowed_cpus(), gpu_node(bus) if bus else -1)))
    here = [seat for host, seat in seats if host == mine.host]
    host = machine()
    cpus = next(seat.allowed for seat in here if seat.rank == mine.rank)
    shared = sum(seat.allowed == cpus for seat in here)  # ranks that must get by with the same CPUs
    if config.run.bind:
        cpus = dict(zip((seat.rank for seat in here), divide(here, host), strict=True))[mine.rank]
        if cpus != allowed_cpus():
            bind(cpus)
            shared = 1
    cores = min(len(cpus) / shared, quota() / len(here))
    torch.set_num_threads(config.run.threads or max(1, math.floor(cores)))
    interface = describe_interface(os.environ, CHOSEN)
    places = gathered(replace(mine, device=name, numa=host.nodes_of(cpus), cpus=cpus, interface=interface))
    check_devices(places)
    return places


def gathered(mine: T) -> list[T]:
    """``mine`` of every rank, in order. Collective."""
    everyone = [mine] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def describe_device(device: torch.device) -> tuple[str, str]:
    """What the rank map shows, for a GPU with its unique id, and the PCI address ("" for a CPU)."""
    if device.type != "cuda":
        return device.type, ""
    about: Any = torch.cuda.get_device_properties(device)
    # Older releases of torch do not tell the address; ranks then sit anywhere.
    bus = f"{about.pci_domain_id:04x}:{about.pci_bus_id:02x}:{about.pci_device_id:02x}.0" if hasattr(about, "pci_domain_id") else ""
    return f"{device} {about.name} {about.uuid}", bus
