"""Ctrl-C while a command has something to say or to undo: it is heard once, and where it can do no harm."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from jobs.cli.interrupt import Interruptible, leave_at_once
from tests.support.waiting import PATIENCE


@pytest.fixture(autouse=True)
def _as_a_command() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    leave_at_once()
    ours = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is ours
    signal.signal(signal.SIGINT, before)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_what_the_first_undoes_is_undone_to_its_end() -> None:
    """It raises once; what comes while that is dealt with raises nothing."""
    undone = []

    def work() -> None:
        try:
            press()
        finally:
            press()
            press()
            undone.append("whole")

    with pytest.raises(KeyboardInterrupt), Interruptible():
        work()
    assert undone == ["whole"]


def test_held_it_raises_where_it_is_looked_for() -> None:
    """It is noted, and raised by whoever checks, or where it may come at once; forgotten, it counts again."""
    with Interruptible(held=True) as ctrl_c:
        ctrl_c.check()
        press()
        with pytest.raises(KeyboardInterrupt):
            ctrl_c.check()
        with pytest.raises(KeyboardInterrupt), ctrl_c.at_once():
            pytest.fail("it came before")
        ctrl_c.forget()
        ctrl_c.check()
        with pytest.raises(KeyboardInterrupt), ctrl_c.at_once():
            press()
        press()  # held again, though it raised within


def test_the_second_leaves_where_the_first_may_wait_for_ever() -> None:
    """With `second_leaves` the process ends with 130, whatever it waits for."""
    script = (
        "import signal; from jobs.cli.interrupt import *; leave_at_once()\n"
        "with Interruptible(held=True, second_leaves=True):\n"
        "    signal.raise_signal(signal.SIGINT); print('first', flush=True); signal.raise_signal(signal.SIGINT)\n"
        "    print('second')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "first\n", "")
