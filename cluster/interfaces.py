"""Which network interface NCCL and gloo use: the one that carries the route to where the ranks meet."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Mapping, Sequence

# Variable -> how its library wants the name: NCCL takes a bare name for a prefix (eth1 would match eth10).
VARIABLES = {"NCCL_SOCKET_IFNAME": "={}", "GLOO_SOCKET_IFNAME": "{}"}
OUTSIDE = "192.0.2.1"  # an address of RFC 5737 that no host has: packets to it would take the default route


def choose_interface(address: str, port: int, alone: bool, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to set for NCCL and gloo, for ranks that meet at ``address``; ``alone``: all ranks are on this host.

    What the user has set is not among them. Nothing is where the interface cannot be told (a name that does not resolve): the libraries
    then choose for themselves.
    """
    # Debian gives a host's own name the address 127.0.1.1: right on one host, but nothing that other hosts could reach.
    towards = OUTSIDE if not alone and is_loopback(address) else address
    found = interface_towards(towards, port)
    return {name: form.format(found) for name, form in VARIABLES.items() if found and not environment.get(name)}


def describe_interface(environment: Mapping[str, str], chosen: Collection[str]) -> str:
    """What NCCL and gloo use, for the rank map; names in ``chosen`` were set by us, others by the user."""
    ours = {environment[name].lstrip("=") for name in VARIABLES if name in chosen and environment.get(name)}
    theirs = [f"{name}={environment[name]} (set by you)" for name in VARIABLES if name not in chosen and environment.get(name)]
    return ", ".join([*sorted(ours), *theirs]) or "left to NCCL and gloo"


def interface_towards(host: str, port: int) -> str:
    """The interface through which this host reaches ``host``, "" where it cannot be told; itself it reaches by its own address."""
    address = source_address(host, port)
    return interface_of(address) if address else ""


def source_address(host: str, port: int = 9) -> str:
    """The address that packets to ``host`` leave from, "" where there is no route. Sends nothing: a UDP socket is only connected."""
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0]).split("%")[0]
    except OSError:
        return ""


def interface_of(address: str) -> str:
    """The interface that has ``address``; all of 127.0.0.0/8 is the loopback's. "" for an address of another host."""
    import psutil

    wanted = ipaddress.ip_address(address)
    loopback = ""
    for name, addresses in psutil.net_if_addrs().items():
        own = _parsed([entry.address for entry in addresses if entry.family in (socket.AF_INET, socket.AF_INET6)])
        if wanted in own:
            return name
        if any(ip.is_loopback for ip in own):
            loopback = name
    return loopback if wanted.is_loopback else ""


def _parsed(addresses: Sequence[str]) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    return [ipaddress.ip_address(address.split("%")[0]) for address in addresses]


def is_loopback(host: str) -> bool:
    """Whether ``host`` is a name or an address of the loopback, which no other host can reach."""
    try:
        return ipaddress.ip_address(socket.gethostbyname(host)).is_loopback
    except (OSError, ValueError):
        return False
