"""Ports for servers that must be told theirs, or whose port stays while they are away."""

import random
from itertools import islice

from components.ports import is_free

_BELOW_EPHEMERAL = range(20_000, 32_768)
"""Linux gives no connection and no server that asks for port 0 one of these: between choice and use nobody takes them."""


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody uses."""
    drawn = random.SystemRandom().sample(_BELOW_EPHEMERAL, len(_BELOW_EPHEMERAL))
    return list(islice(filter(is_free, drawn), count))


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    (port,) = free_ports(1)
    return port
