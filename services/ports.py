"""Free TCP ports on 127.0.0.1, outside the range that the kernel hands to outgoing connections.

Why outside: a client that keeps retrying a dead server's port inside that range can be given this very port as its
own source and so connect to itself; the server then cannot come back on it.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

from services.errors import ServiceError

_LOWEST = 15_000
_TRIES = 2_000  # of about 17 000 candidates; only a machine with nearly all ports taken gets here


def bound_sockets(count: int) -> list[socket.socket]:
    """`count` sockets bound to different free ports; the ports are the caller's while the sockets are open.

    Raises ServiceError when no free port was found. Not promised: that a port stays free after its socket is closed.
    """
    found: list[socket.socket] = []
    highest = _first_outgoing_port() - 1
    # Not the global generator: a test that seeds it would give the same ports to two parallel runs.
    choose = random.SystemRandom()
    for _ in range(_TRIES):
        if len(found) == count:
            return found
        candidate = socket.socket()
        try:
            candidate.bind(("127.0.0.1", choose.randint(_LOWEST, highest)))
        except OSError:
            candidate.close()
        else:
            found.append(candidate)
    for sock in found:
        sock.close()
    raise ServiceError(f"no {count} free ports between {_LOWEST} and {highest} on 127.0.0.1")


def free_ports(count: int) -> list[int]:
    """`count` different ports that were free a moment ago. Not promised: that nobody takes one in between."""
    sockets = bound_sockets(count)
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now; connections still winding down there do not count."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _first_outgoing_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except OSError:
        first = 32_768  # the Linux default
    return first if first > _LOWEST + 1_000 else 32_768  # a machine with a huge range: accept the risk
