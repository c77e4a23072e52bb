"""Batches on the status page: headless Chromium, a real gateway, and a hand in place of the worker."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from app.gateway.batches.parts import BatchParts
from jobs.access.keys.proofs import hash_of, new_key
from jobs.batches.files.storage import BatchStorage
from jobs.batches.records import (
    BatchEnd,
    BatchRecord,
    BatchState,
    BatchUse,
    Estimate,
    LineCounts,
    LineError,
    new_batch_id,
)
from tests.support.batch_hands import CLOCK, BatchHand, batch_hand
from tests.support.browser import MISSING, SHIFTS, Browser, browser
from tests.support.gateways import RunningGateway, gateway
from tests.support.slow_proxy import slow_proxy

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

ROOT, ALICE, BOB = new_key(), new_key(), new_key()
LINES = f"root {hash_of(ROOT)} chat admin\nalice {hash_of(ALICE)} chat\nbob {hash_of(BOB)} chat"

STATE = BatchState(
    status="in_progress",
    holder="hand",
    at=CLOCK.now(),
    counts=LineCounts(10_000, 4_200, 3),
    use=BatchUse(840_000, 420_000, 5_040.0, 630.0, 0.3),
    estimate=Estimate(BatchUse(2_000_000, 1_000_000, 12_000, 1_500, 0.71), 1_500, 0.05, CLOCK.now(), "measured"),
    in_progress_at=CLOCK.now() - timedelta(minutes=10),
)


@dataclass
class Batches:
    """A gateway with batches, and who says how they stand."""

    running: RunningGateway
    hand: BatchHand

    def post(self, owner: str = "alice", minutes: int = 0) -> str:
        """The id of a batch that was posted so long ago."""
        now = CLOCK.now() - timedelta(minutes=minutes)
        record = BatchRecord(
            id=new_batch_id("openai"),
            dialect="openai",
            owner=owner,
            input_file_id="file-1",
            endpoint="/v1/chat/completions",
            completion_window="24h",
            created_at=now,
            expires_at=now + timedelta(hours=24),
            posted_by=owner,
        )
        return self.hand.store.post(record).id

    def end(self, id: str, status: str = "completed", *errors: LineError) -> None:
        self.hand.store.end(id, BatchEnd(status, CLOCK.now(), STATE, errors, "file-2", "file-3"))  # type: ignore[arg-type]


@contextmanager
def batches_at(folder: Path) -> Iterator[Batches]:
    parts = BatchParts(BatchStorage(folder / "batches", CLOCK))
    with (
        gateway(folder, {"a10g": "http://127.0.0.1:9"}, keys=LINES, batches=parts) as running,
        batch_hand(running.path, folder / "batches") as hand,
    ):
        yield Batches(running, hand)


@pytest.fixture
def batches(tmp_path: Path) -> Iterator[Batches]:
    with batches_at(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def signed_in(window: Browser, url: str, key: str, width: int = 1200) -> Browser:
    window.prefer(color_scheme="light")
    window.resize(width, 1000, mobile=width < 500)
    window.open(f"{url}/healthz")
    window.run("sessionStorage.setItem('ollama-modal key', arguments[0])", key)
    window.open(f"{url}/ui")
    window.until(lambda: window.is_shown("#footer"), "the board never came")
    window.complaints()
    return window


def rows(page: Browser) -> list[str]:
    script = "return [...document.querySelectorAll('#batch-list > li')].map(({innerText}) => innerText)"
    return [" ".join(str(each).split()) for each in page.run(script)]


def test_a_batch_is_shown_with_what_it_took_beside_what_was_told(window: Browser, batches: Batches) -> None:
    """Lines done and failed of all, tokens, dollars so far and told, and the time that is left."""
    id = batches.post(minutes=12)
    batches.hand.store.say(id, STATE)
    page = signed_in(window, batches.running.url, ROOT)

    (row,) = rows(page)

    assert row.startswith(f"{id} in progress · posted 12 min ago by alice")
    assert "4,203 of 10,000 lines · 3 failed · 1,260,000 tokens · $0.30 so far, $0.76 told" in row
    assert "min" in row.rpartition("told · ")[2]
    assert page.run("const bar = document.querySelector('#batch-list progress'); return [bar.value, bar.max]") == [
        4203,
        10000,
    ]
    assert not page.complaints()


def test_what_it_waits_for_and_why_it_ended_are_told(window: Browser, batches: Batches) -> None:
    """In the words of whoever works on it; one that has ended can be cancelled by nobody."""
    waits, broke = batches.post(minutes=1), batches.post(minutes=2)
    note = "it waits for a window of a10g"
    later = CLOCK.now() + timedelta(hours=5, minutes=30)
    batches.hand.store.say(waits, BatchState("validating", "hand", CLOCK.now(), starts_at=later, note=note))
    batches.end(broke, "failed", LineError("budget_spent", "it has cost about $3, and max_dollars is $3"))

    page = signed_in(window, batches.running.url, ROOT)

    first, second = rows(page)
    assert "waits; it begins in 5 h" in first
    assert "It waits for a window of a10g." in first
    assert second.startswith(f"{broke} failed after 2 min")
    assert "It has cost about $3, and max_dollars is $3." in second
    shown = "return [...document.querySelectorAll('#batch-list button')].map((each) => each.checkVisibility())"
    assert page.run(shown) == [True, False]


def test_nothing_was_posted_yet(window: Browser, batches: Batches) -> None:
    """Then it says how one is."""
    page = signed_in(window, batches.running.url, ROOT)
    assert rows(page) == []
    assert "No batch was posted yet" in page.text("#batches-note")
    assert "ollama-modal batch FILE" in page.text("#batches-note")


def test_a_batch_is_cancelled_after_a_question(window: Browser, batches: Batches) -> None:
    """It says what stays; afterwards the row says that it was asked to end, and its end is told."""
    id = batches.post()
    batches.hand.store.say(id, STATE)
    page = signed_in(window, batches.running.url, ALICE)
    page.click(f"[aria-label='Cancel: {id}']")
    page.until(lambda: page.is_shown("#asking"), "nobody asked")
    assert "What is done of it stays" in page.text("#asking-words")
    page.click('#asking [data-part="yes"]')

    page.until(lambda: "asked to end" in rows(page)[0], "the row never said so")
    assert batches.hand.store.get(id).cancel_asked
    batches.end(id, "cancelled")
    page.until(lambda: rows(page)[0].startswith(f"{id} cancelled after"), "it never ended")
    page.until_text("#news", f"Batch {id}: cancelled")


def test_each_key_sees_its_own(window: Browser, batches: Batches) -> None:
    """An administrator sees all."""
    of_alice, of_bob = batches.post("alice", 2), batches.post("bob", 1)
    seen = {key: [row.split()[0] for row in rows(signed_in(window, batches.running.url, key))] for key in (ROOT, ALICE)}
    assert seen == {ROOT: [of_bob, of_alice], ALICE: [of_alice]}


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_shifts_while_batches_come(window: Browser, batches: Batches, width: int) -> None:
    """However late they are, and whatever they say next, what is shown stays where it is."""
    for minutes in range(12):
        id = batches.post(minutes=minutes)
        batches.hand.store.say(id, STATE)
    with slow_proxy(batches.running.url, lambda path: 1.2 if path.endswith("batches") else 0.1) as url:
        page = signed_in(window, url, ROOT, width)
        assert len(rows(page)) == 10
        assert "There are older ones" in page.text("#batches-note")
        shifts = page.run(SHIFTS)
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")
        page.open("about:blank")
    assert sum(value for value, _ in shifts) < 0.1, shifts
