"""Ctrl-C: it ends the command at once and without a word, 130, but where a command has something to say or to undo.

So a traceback is shown neither while modules are imported nor while the interpreter ends. Entry points import this file
before all others, and it imports little. Nothing is lost: what was posted is in the ledger, whoever asked for it.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""As a shell says it: 128 and the number of the signal."""


def leave_at_once() -> None:
    """From now on Ctrl-C ends the process. One that was started to ignore it, as by `nohup`, goes on ignoring it."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)


def _leave(_: int, __: FrameType | None) -> None:
    os._exit(INTERRUPTED)  # each line was flushed as it was written


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it Ctrl-C raises `KeyboardInterrupt`, for whoever has something to say then."""
    if signal.getsignal(signal.SIGINT) is not _leave:  # somebody else's process, who decides for himself
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _leave)
