"""Ports for the servers that benchmarks and scripts start, where those cannot take port 0 and tell which they got."""

import itertools
import os
import socket
from contextlib import suppress

_numbers = itertools.count(os.getpid() * 53)


def free_port() -> int:
    """A port where nobody listens, nor will before whoever asked does.

    It lies below those that systems hand out to listeners and callers who name none (from 32768 on Linux, 49152
    elsewhere): on a busy machine one of these is soon somebody else's. Each process counts on from a place of its own.
    """
    for number in _numbers:
        port = 14_000 + number % 18_000
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("unreachable: the numbers do not end")
