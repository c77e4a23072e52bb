"""What is said of a batch that is followed: a line for each tenth, each note once, and what it all took."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs.batches.records import BatchUse, Estimate
from jobs.cli.batches import batch_words as words
from jobs.cli.batches.follow_batch import MANY_BYTES, BatchTenths, follow_batch, shown
from jobs.core.errors import StoreUnavailable, Unreachable
from jobs.testing.clock import HandClock

BEGAN = datetime(2026, 9, 15, 22, tzinfo=UTC)


def batch(status: str = "in_progress", completed: int = 0, failed: int = 0, **more: Any) -> dict[str, Any]:
    use = BatchUse(100 * completed, 50 * completed, 0.5 * completed, 0.1 * completed, 0.001 * completed)
    return {
        "id": "batch_5f0c1a2b3c4d5e6f708192a3",
        "status": status,
        "endpoint": "/v1/chat/completions",
        "model": None,
        "owner": "",
        "posted_by": "ann@host",
        "created_at": "2026-09-15T21:59:00.000Z",
        "expires_at": "2026-09-16T07:00:00.000Z",
        "start": "cheapest",
        "max_dollars": None,
        "lines": {"total": 10_000, "completed": completed, "failed": failed},
        "use": use.as_json(),
        "estimate": None,
        "in_progress_at": "2026-09-15T22:00:00.000Z",
        "finalizing_at": None,
        "ended_at": "2026-09-15T22:20:00.000Z" if status in {"completed", "failed"} else None,
        "starts_at": None,
        "note": "",
        "errors": [],
        "output_file_id": None,
        "error_file_id": None,
        **more,
    }


def followed(*states: Any, clock: HandClock | None = None, is_worked: Callable[[], bool] = lambda: True) -> list[str]:
    """What is said while it stands so, one look after the other, where there is no terminal."""
    said: list[str] = []
    coming: Iterator[Any] = iter(states)

    def read() -> Any:
        state = next(coming)
        if isinstance(state, Exception):
            raise state
        return state

    follow_batch(
        read,
        clock=clock or HandClock(BEGAN + timedelta(minutes=10)),
        is_worked=is_worked,
        idle=["nobody works"],
        view=BatchTenths(said.append),
    )
    return said


def test_a_line_is_said_for_each_tenth_and_each_status() -> None:
    """With lines, tokens, tokens a second, dollars and the time left; no line twice."""
    looks = [batch(completed=count) for count in (0, 10, 900, 999, 1_000, 1_000, 4_200)]
    said = followed(*looks, batch("finalizing", 10_000), batch("completed", 10_000))

    assert [line.split("  ")[2] for line in said[:3]] == ["0 %", "10 %", "42 %"]
    assert said[2].split("  ")[3:] == [
        "4,200 of 10,000 lines", "630,000 tokens", "1,040 tokens/s", "$4.20", "13 min 57 s left",
    ]  # fmt: skip
    assert [line.split("  ")[1] for line in said[3:]] == ["finalizing", "completed"]


def test_a_note_is_said_once() -> None:
    """Until there is another one."""
    first, second = "it waits for a window", "the deadline will not hold"
    said = followed(batch(note=first), batch(note=first), batch(note=second), batch("completed"))
    assert [line for line in said if line.startswith("note: ")] == [f"note: {first}", f"note: {second}"]


def test_that_nobody_works_is_said_once() -> None:
    """And when somebody does again."""
    works = iter([False, False, True, True])
    said = followed(*[batch()] * 4, batch("completed"), is_worked=lambda: next(works))
    assert [line for line in said if not line.startswith("batch ")] == ["nobody works", "the queue is being worked now"]


@pytest.mark.parametrize("trouble", [StoreUnavailable("away"), Unreachable("refused")])
def test_a_store_that_is_away_is_asked_again(trouble: Exception) -> None:
    """For minutes, and that is said once; whoever follows a night long outlives a restart."""
    said = followed(batch(), *[trouble] * 50, batch("completed"))
    assert len([line for line in said if "cannot be read now" in line]) == 1


def test_a_store_that_stays_away_ends_it() -> None:
    """After ten minutes; the batch goes on without whoever followed it."""
    with pytest.raises(StoreUnavailable):
        followed(batch(), *[StoreUnavailable("away")] * 700)


def test_what_is_told_of_a_batch_is_all_there_is_to_know() -> None:
    """How it stands, who posted it, what it asks, what it takes and took, and why it ended."""
    estimate = Estimate(
        BatchUse(2_000_000, 1_000_000, 0, 1_500, 0.6), 1_500, 0.05, BEGAN + timedelta(minutes=30), "measured",
        wake_dollars=0.02, idle_dollars=0.03, reason="by what batches of m on a10g took",
    )  # fmt: skip
    error = {"code": "budget_spent", "message": "it has cost about $3", "line": None, "param": None}
    told = batch(
        "failed", 4_200, 3, estimate=estimate.as_json(), errors=[error], max_dollars=3.0, output_file_id="file-1"
    )
    lines = list(words.story(told, BEGAN + timedelta(minutes=40)))
    assert lines == [
        "batch batch_5f0c1a2b3c4d5e6f708192a3: failed after 21 min 0 s",
        "  posted   2026-09-15 21:59:00 (41 min 0 s ago) by ann@host",
        "  asks     /v1/chat/completions, start cheapest, by 2026-09-16 07:00:00",
        "  limit    $3.00",
        "  so far   4,203 of 10,000 lines, 3 failed, 630,000 tokens, 525 tokens/s, $4.20",
        "  takes    2.0M tokens read, 1.0M made; 25 min 0 s of GPU",
        "  costs    $0.65 (serving $0.60, a wake $0.02, idle $0.03)",
        "  done by  2026-09-15 22:30:00, 25 min 0 s from the first line to the last",
        "  as told  by what batches of m on a10g took",
        "  error    it has cost about $3",
        "  results  `ollama-modal batch batch_5f0c1a2b3c4d5e6f708192a3 --results --out FILE`",
    ]


@pytest.mark.parametrize("pieces", [[], [b"one", b"two"], [b"x" * MANY_BYTES, b"y", b"z"]])
def test_a_file_that_is_shown_stays_the_same(pieces: list[bytes]) -> None:
    """However large it is."""
    assert list(shown(pieces, "reading", None)) == pieces


@pytest.mark.parametrize(
    ("amount", "shown"), [(None, ""), (0, "$0.00"), (0.0004, "$0.0004"), (0.42, "$0.42"), (1234.5, "$1,234.50")]
)
def test_dollars_tell_something_however_few_they_are(amount: float | None, shown: str) -> None:
    """Nothing where nothing is paid; a small amount is not told as none."""
    assert words.dollars(amount) == shown
