"""TCP ports of this machine."""

import socket


def is_free(port: int) -> bool:
    """Tell whether a server of this machine can have a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
