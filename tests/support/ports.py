"""Ports for servers that must be told theirs, or whose port stays while they are away."""

import random
import socket

_BELOW_EPHEMERAL = range(20_000, 32_768)
"""Linux gives no connection and no server that asks for port 0 one of these: between choice and use nobody takes them."""


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody uses."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_BELOW_EPHEMERAL, len(_BELOW_EPHEMERAL)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            break
    return found


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    (port,) = free_ports(1)
    return port
