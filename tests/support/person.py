"""A person at a terminal of their own, who types and sees what is written there."""

import os
import pty
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.command_server import start_command
from tests.support.local_stack import Shell
from tests.support.waiting import PATIENCE


class Terminal:
    """A person at a terminal of this size, who sees what is written there."""

    def __init__(
        self, words: tuple[str, ...], environ: Mapping[str, str], columns: int = 80, *, hears: bool = True
    ) -> None:
        self._ours, theirs = pty.openpty()
        with Path(os.devnull).open("wb") as nothing:
            self.process = start_command(
                words,
                {**environ, "TERM": "xterm", "COLUMNS": str(columns)},
                [theirs, theirs, theirs if hears else nothing.fileno()],
                new_session=True,
            )
        os.close(theirs)
        self._seen = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._ours, 4096)
            except OSError:  # the other end is closed
                return
            if not piece:
                return
            self._seen.extend(piece)

    @property
    def seen(self) -> str:
        return self._seen.decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def ended(self) -> int:
        code = self.process.wait(timeout=PATIENCE)
        self._reader.join(timeout=PATIENCE)
        os.close(self._ours)
        return code


@contextmanager
def terminal(shell: Shell, *words: str, columns: int = 80, hears: bool = True) -> Iterator[Terminal]:
    """One in which this command runs, with its talk or without; it is ended at the end."""
    opened = Terminal(words, shell.environ, columns, hears=hears)
    try:
        yield opened
    finally:
        if opened.process.poll() is None:
            opened.process.kill()
            opened.ended()
