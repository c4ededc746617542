"""The interface that carries the route to the rendezvous, on this machine's real interfaces and in network namespaces."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from foldline.cluster.interfaces import choose_interface, describe_interface, interface_of, interface_towards, is_loopback, source_address

LOOPBACK = interface_of("127.0.0.1")


def test_every_own_address_has_its_interface() -> None:
    for name, addresses in psutil.net_if_addrs().items():
        for entry in addresses:
            if entry.family == socket.AF_INET and not entry.address.startswith("127."):
                assert interface_towards(entry.address, 1) == name, "a host reaches itself by the interface that has the address"
    assert "127.0.0.1" in [entry.address for entry in psutil.net_if_addrs()[LOOPBACK]]
    assert interface_of("127.0.1.1") == LOOPBACK
    assert interface_of("203.0.113.7") == ""


def test_names_that_do_not_resolve_leave_the_choice_to_the_libraries() -> None:
    assert source_address("no-such-host.invalid") == ""
    assert choose_interface("no-such-host.invalid", 1, False, {}) == {}
    assert not is_loopback("no-such-host.invalid")
    assert is_loopback("localhost")
    assert is_loopback("127.0.1.1")


def test_what_the_user_set_is_kept_and_shown() -> None:
    theirs = {"NCCL_SOCKET_IFNAME": "ib0"}
    ours = choose_interface("127.0.0.1", 1, True, theirs)
    assert ours == {"GLOO_SOCKET_IFNAME": LOOPBACK}
    assert choose_interface("127.0.0.1", 1, True, {}) == {"NCCL_SOCKET_IFNAME": f"={LOOPBACK}", "GLOO_SOCKET_IFNAME": LOOPBACK}
    assert describe_interface(theirs | ours, ours) == f"{LOOPBACK}, NCCL_SOCKET_IFNAME=ib0 (set by you)"
    assert describe_interface({}, ()) == "left to NCCL and gloo"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def two_networks() -> Iterator[str]:
    """A network namespace with a slow (default route) and a fast interface, as a compute node has."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs ip and root to make a network namespace")
    name = f"flif{os.getpid()}"
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr}")
    try:
        for link, address in (("slow0", "10.99.1.1/24"), ("fast0", "10.99.2.1/24")):
            _ip("-n", name, "link", "add", link, "type", "veth", "peer", "name", f"{link}p")
            _ip("-n", name, "link", "set", f"{link}p", "up")
            _ip("-n", name, "addr", "add", address, "dev", link)
            _ip("-n", name, "link", "set", link, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "route", "add", "default", "via", "10.99.1.254")
        yield name
    finally:
        _ip("netns", "del", name)


def test_mpi_ranks_meet_where_the_others_reach_rank_0(two_networks: str) -> None:
    code = "from foldline.cluster.ranks import _rendezvous as r; print(r(['me', 'me', '10.99.2.7'], False, {})[0], r(['me'], True, {})[0])"
    command = ["ip", "netns", "exec", two_networks, sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["10.99.2.1", "127.0.0.1"]


@pytest.mark.parametrize(
    ("address", "alone", "expected"),
    [
        ("10.99.2.7", False, "fast0"),  # the route to rank 0 decides
        ("10.99.2.1", False, "fast0"),  # rank 0 itself
        ("10.1.2.3", False, "slow0"),  # somewhere behind the default route
        ("127.0.1.1", False, "slow0"),  # Debian's address of a host's own name, in a job of several hosts
        ("127.0.0.1", True, "lo"),
    ],
)
def test_the_route_decides(two_networks: str, address: str, alone: bool, expected: str) -> None:
    code = f"from foldline.cluster.interfaces import choose_interface as c; print(c({address!r}, 9, {alone}, {{}})['GLOO_SOCKET_IFNAME'])"
    command = ["ip", "netns", "exec", two_networks, sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == expected
