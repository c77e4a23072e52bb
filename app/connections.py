"""How many connections others hold to a port of this container, from the kernel's own table.

A request in flight always has one, so none means that no request is: neither running, nor waiting to be accepted. A
client that keeps an idle connection counts too; that errs on the safe side.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_TIME_WAIT, _LISTEN = 0x06, 0x0A


@dataclass(frozen=True)
class _Socket:
    local: int
    remote: int
    state: int
    inode: int


def held_by_others(port: int) -> int | None:
    """Connections to the port that this process did not open; None where the kernel does not tell."""
    try:
        sockets = list(_sockets())
    except OSError:
        return None
    ours = _own_inodes()
    own_ports = {each.local for each in sockets if each.remote == port and each.inode in ours}
    return sum(
        each.local == port and each.state not in (_TIME_WAIT, _LISTEN) and each.remote not in own_ports
        for each in sockets
    )


def _sockets() -> Iterator[_Socket]:
    for table in _TABLES:
        if table == _TABLES[1] and not table.exists():  # a kernel without IPv6
            continue
        for line in table.read_text("ascii").splitlines()[1:]:
            fields = line.split()
            local, remote = (int(address.rpartition(":")[2], 16) for address in fields[1:3])
            yield _Socket(local, remote, int(fields[3], 16), int(fields[9]))


def _own_inodes() -> frozenset[int]:
    found = set()
    for entry in os.scandir("/proc/self/fd"):
        with suppress(OSError):  # closed since it was listed
            target = os.readlink(entry.path)  # noqa: PTH115 - Path would take socket:[1] for a path
            if target.startswith("socket:["):
                found.add(int(target[len("socket:[") : -1]))
    return frozenset(found)
