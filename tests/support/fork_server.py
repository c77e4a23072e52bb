"""Python processes that have read what others would read again, and fork: each process costs next to none.

What forks is `tests.modal.platform.inside.serve`; this asks it to.
"""

import atexit
import json
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.modal.platform import inside
from tests.support.waiting import PATIENCE


class ForkServer:
    """A Python that forks for whoever asks, as `inside.serve` does; it ends with this process.

    Args:
        command: starts it, but for the descriptor to which it listens, its last word.
        environ: all that it has.
        cwd: where it runs.

    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], cwd: Path) -> None:
        self._ours, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [*command, str(theirs.fileno())],
            env=dict(environ), cwd=cwd, pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        atexit.register(self.close)

    def close(self) -> None:
        self._ours.close()
        self._process.wait(timeout=PATIENCE)

    def send(self, asked: Mapping[str, object], descriptors: Sequence[int]) -> None:
        """Have it fork for this."""
        said = json.dumps(asked).encode()
        with self._lock:
            socket.send_fds(self._ours, [inside.LENGTH.pack(len(said))], [*descriptors])
            self._ours.sendall(said)
