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
    """Within its block Ctrl-C raises `KeyboardInterrupt`, for whoever has something to say or to undo then.

    Once: what comes while that is done is noted and raises nothing, so that it is done to its end. Whoever goes on
    after it says `forget`. With `held`, Ctrl-C raises where it is looked for, by `check`, and within `at_once`: an
    exception anywhere at all leaves a lock of somebody's in a state that it does not know. With `second_leaves` the
    second ends the process: what the first has begun may wait for a pipe that nobody reads.
    """

    def __init__(self, *, held: bool = False, second_leaves: bool = False) -> None:
        self._second_leaves = second_leaves
        #: Set by the signal's handler as well, which runs in the main thread as everything here does.
        self._raises = not held
        #: Set by the signal's handler.
        self._is_noted = False

    def __enter__(self) -> "Interruptible":  # noqa: PYI034 - `Self` would bring `typing`
        # Else it is somebody else's process, as that of `modal run`, who decides for himself.
        self._is_ours = signal.getsignal(signal.SIGINT) is _leave
        if self._is_ours:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_ours:
            signal.signal(signal.SIGINT, _leave)

    def forget(self) -> None:
        """What came is dealt with; the next counts again."""
        self._is_noted = False

    def check(self) -> None:
        """Raise KeyboardInterrupt where one came."""
        if self._is_noted:
            raise KeyboardInterrupt

    def at_once(self) -> "_AtOnce":
        """Within this block it raises as it comes, once, and at the beginning where one came before: for what may
        wait for long and cannot be asked."""
        return _AtOnce(self)

    def listen(self, *, at_once: bool) -> None:
        self._raises = at_once
        if at_once and self._is_noted:
            self._raises = False
            raise KeyboardInterrupt

    def _note(self, _: int, __: object) -> None:
        if self._is_noted and self._second_leaves:
            os._exit(INTERRUPTED)
        self._is_noted = True
        if self._raises:
            self._raises = False
            raise KeyboardInterrupt


class _AtOnce:
    # No generator: one that is interrupted as it ends would end whenever somebody collects it.
    def __init__(self, of: Interruptible) -> None:
        self._of = of

    def __enter__(self) -> None:
        self._of.listen(at_once=True)

    def __exit__(self, *_: object) -> None:
        self._of.listen(at_once=False)
