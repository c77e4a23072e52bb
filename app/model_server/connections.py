"""How many callers are connected to a port of this container, from the kernel's own table.

A request in flight always has a connection, so none means that no request is: neither running, nor waiting to be
accepted. A caller that keeps an idle one counts too; that errs on the safe side. One that has hung up does not, and
Ollama has dropped its request.
"""

from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED, _SYN_RECEIVED = 0x01, 0x03


def callers_of(port: int) -> int | None:
    """Connections to the port whose other end is still there; None where the kernel does not tell."""
    tables = [table for table in _TABLES if table.exists()]  # there may be no IPv6
    try:
        return sum(_callers_in(table, port) for table in tables) if tables else None
    except OSError:
        return None


def _callers_in(table: Path, port: int) -> int:
    named = f":{port:04X} "  # as the kernel writes it; a host may have thousands of rows, and few are about this port
    rows = (line.split() for line in table.read_text("ascii").splitlines()[1:] if named in line)
    return sum(_port(row[1]) == port and int(row[3], 16) in (_ESTABLISHED, _SYN_RECEIVED) for row in rows)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
