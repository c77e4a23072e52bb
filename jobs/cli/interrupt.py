"""Ctrl-C: it ends the command at once and without a word, 130, but where a command has something to say or to undo.

So a traceback is shown neither while modules are imported nor while the interpreter ends. Entry points import this file
before all others, and it imports next to nothing. Nothing is lost: what was posted is in the ledger, whoever asked.
"""

# Built in: `signal` itself brings `enum` and more, and Ctrl-C would show a trace meanwhile.
import _signal as signal  # type: ignore[import-not-found]
import os

INTERRUPTED = 130
"""As a shell says it: 128 and the number of the signal."""


def leave_at_once() -> None:
    """From now on Ctrl-C ends the process. One that was started to ignore it, as by `nohup`, goes on ignoring it."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)


def _leave(_: int, __: object) -> None:
    os._exit(INTERRUPTED)  # each line was flushed as it was written


class Interruptible:
    """Within its block Ctrl-C raises `KeyboardInterrupt`, for whoever has something to say then."""

    def __enter__(self) -> None:
        # Else it is somebody else's process, as that of `modal run`, who decides for himself.
        self._is_ours = signal.getsignal(signal.SIGINT) is _leave
        if self._is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        if self._is_ours:
            signal.signal(signal.SIGINT, _leave)
