"""A gateway is killed at any instant, by SIGKILL, again and again: its budget is never overdrawn."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.checkout import ROOT
from tests.support.waiting import PATIENCE, until

CAP = 400

GATEWAY = f"""
import asyncio, os, sys
from datetime import UTC, datetime
from pathlib import Path
from app.accounting.key_budgets import KnownSpending
from app.gateway.auth.budgets import Budgets
from app.gateway.auth.keys import Caller
from jobs.access.budgets import BudgetSpent, Taken
from jobs.access.limits import Limits
from jobs.core.clock import SystemClock
from jobs.store.sqlite import SqliteDict

async def main(folder):
    facts, clock = SqliteDict(folder / "ledger.sqlite"), SystemClock()
    budgets = Budgets(facts, clock, KnownSpending(dict, None, clock, rented=False), "g")
    bob = Caller("bob", frozenset(), limits=Limits.parse({{"requests": "{CAP}/month"}}))
    passed = os.open(folder / "passed", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        while True:
            admitted = await budgets.admit(bob, "a10g", 1, clock.now())
            os.write(passed, b".")
            admitted.settle(Taken(1))
            await budgets.write()
    except BudgetSpent:
        (folder / "spent").touch()

asyncio.run(main(Path(sys.argv[1])))
"""


def test_no_kill_overdraws(tmp_path: Path) -> None:
    """What was let in by all of them together stays within the budget, and the last one is told that it is spent."""
    passed = tmp_path / "passed"

    def gateway() -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", GATEWAY, str(tmp_path)], cwd=ROOT)

    def lets_in(killed: "subprocess.Popen[bytes]", most: int) -> Callable[[], bool]:
        return lambda: killed.poll() is not None or _size(passed) > most

    for number in range(4):
        with gateway() as killed:
            until(lets_in(killed, _size(passed) + 7 * number), "it to let some in")
            killed.kill()  # at whichever instant that is
    with gateway() as last:
        assert last.wait(PATIENCE) == 0

    assert (tmp_path / "spent").exists()
    assert 0 < _size(passed) <= CAP


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
