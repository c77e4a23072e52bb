"""`up` on a home that an older version has filled: it archives by itself, and whoever asks hears the same as before."""

import json
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from jobs.archive.archived import AFTER
from jobs.core.clock import SystemClock
from jobs.store import keys
from tests.support.local_stack import Shell, Up
from tests.support.local_stack import up as running
from tests.support.past_jobs import MODELS, write_past
from tests.support.waiting import PATIENCE, until

OLD = 1_700


def live(shell: Shell) -> int:
    store = shell.store()
    try:
        gone = sum(1 for _ in store.facts.keys(keys.GONE))
    finally:
        store.close()
    return OLD - gone


def told(stack: Up, path: str, **query: Any) -> Any:
    return httpx.get(f"{stack.url}{path}", params=query, timeout=PATIENCE).raise_for_status().json()


def test_an_old_home_moves_by_itself(tmp_path: Path) -> None:
    """Killed in the midst of it and started again, `up` archives what is old; commands and the API tell all of it once,
    a page at a time, find one job by its id, and post it again; and what was recorded is none the less."""
    shell = Shell(tmp_path)
    home = shell.home / "om"
    home.mkdir()
    ids = write_past(home / "ledger.sqlite", OLD, SystemClock().now() - AFTER - timedelta(hours=1))
    with running(shell, "--simulate") as stack:
        until(lambda: live(shell) < OLD)
        stack.process.send_signal(signal.SIGKILL)
        stack.process.communicate(timeout=PATIENCE)
    with running(shell, "--simulate") as stack:
        until(lambda: live(shell) == 0)
        listed = shell.ask("jobs", "--since", "90d", "--limit", "0")
        assert [job["id"] for job in listed] == ids[::-1]
        assert [job["id"] for job in shell.ask("jobs")] == ids[:-21:-1]
        assert shell.ask("jobs", "--limit", "0") == listed
        assert "there are more" in shell.run("jobs").stderr
        assert shell.ask("job", ids[7])["id"] == ids[7]
        pages, cursor = [], None
        while True:
            query = {"since": "90d", "q": "library-1", "limit": 200} | ({"cursor": cursor} if cursor else {})
            page = told(stack, "/ops/v1/jobs", **query)
            pages += [job["id"] for job in page["jobs"]]
            if (cursor := page["next"]) is None:
                break
        wanted = [id for number, id in enumerate(ids) if f"library-{number % MODELS}".startswith("library-1")]
        assert pages == wanted[::-1]
        assert told(stack, f"/ops/v1/jobs/{ids[0]}")["state"] == "failed"
        again = json.loads(shell.run("retry", ids[0], "--no-wait", "--json").stdout)
        assert (again["kind"], again["subject"]) == ("pull", "library-0:latest")
        assert again["id"] not in ids
