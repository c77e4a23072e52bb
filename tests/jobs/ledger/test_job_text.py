"""A job in words, and the lines that follow it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cli.follow import Lines, follow
from jobs.cli.main import IDLE
from jobs.core.errors import FAILURE_CLASSES, TooManyRequests
from jobs.core.progress import Reading
from jobs.core.sanitize import LONGEST, plain
from jobs.core.units import human_span
from jobs.ledger.job import Ending, Job, JobState
from jobs.ledger.job_text import REMEDIES, REMEDIES_OF_KINDS, headline, remedy, result_text, story
from jobs.ledger.kinds import KINDS
from jobs.ledger.ledger import Claim, Ledger
from jobs.testing.clock import HandClock
from tests.support.stores import Store

LEASE = timedelta(seconds=30)


def posted(ledger: Ledger) -> Job:
    return ledger.post("pull", "llama3.2:latest", {"model": "llama3.2", "way": "auto"}, by="ann@laptop").job


def claimed(ledger: Ledger, id: str) -> Claim:
    claim = ledger.claim(id, worker="laptop:7", lease=LEASE)
    assert claim is not None
    return claim


def test_the_story_tells_what_happened_and_what_to_do(store: Store, clock: HandClock) -> None:
    """A failed job's story has who asked, each attempt with its class, message and hint, and what to do now."""
    ledger = store.ledger()
    id = posted(ledger).id
    claim = claimed(ledger, id)
    clock.tick(3)
    again = Ending("retry", "network", "the line went dead", "look at the cable", clock.now() + timedelta(seconds=5))
    ledger.end(claim, again, Reading(5_000_000, 20_000_000, 0.0, "pulling"))
    clock.tick(6)
    ledger.end(claimed(ledger, id), Ending("failed", "disk", "no room for 15 MB"), Reading())

    told = "\n".join(story(ledger.reader.get(id), clock.now()))

    assert told.splitlines()[0] == "pull of llama3.2:latest: failed, 9.0 s after it was posted"
    assert "by ann@laptop" in told
    assert "attempts 2 of 8 allowed" in told
    assert "3.0 s  on laptop:7  retry: network: the line went dead" in told
    assert "hint: look at the cable" in told
    assert "failed: disk: no room for 15 MB" in told
    assert f"`ollama-modal retry {id}`" in told


def test_a_waiting_job_says_when_it_goes_on(store: Store, clock: HandClock) -> None:
    """Between attempts the story says how long until the next try."""
    ledger = store.ledger()
    id = posted(ledger).id
    ledger.end(
        claimed(ledger, id), Ending("retry", "network", "429", not_before=clock.now() + timedelta(seconds=8)), Reading()
    )
    assert story(ledger.reader.get(id), clock.now())[0] == "pull of llama3.2:latest: waiting, the next try in 8.0 s"


def test_a_silent_holder_is_told(store: Store, clock: HandClock) -> None:
    """A running job whose worker was not heard of for a while says for how long."""
    ledger = store.ledger()
    id = posted(ledger).id
    claimed(ledger, id)
    clock.tick(12)
    assert story(ledger.reader.get(id), clock.now())[0].endswith("running for 12 s, silent for 12 s")


@pytest.mark.parametrize("failure", FAILURE_CLASSES)
def test_every_class_of_failure_has_its_remedy(store: Store, failure: str) -> None:
    """Whatever class a job failed with, there is something to do about it, and no class is told about that is none."""
    ledger = store.ledger()
    id = posted(ledger).id
    ledger.end(claimed(ledger, id), Ending("failed", failure, "why"), Reading())
    what = remedy(ledger.reader.get(id))
    assert what is not None
    assert "{" not in what
    assert set(REMEDIES) == set(FAILURE_CLASSES)


@pytest.mark.parametrize(("kind", "failure_class"), REMEDIES_OF_KINDS)
def test_a_remedy_fits_kind_and_class(store: Store, kind: str, failure_class: str) -> None:
    """What to do about a failure of a kind names nothing that helps with other kinds alone."""
    ledger = store.ledger()
    id = ledger.post(kind, "llama3.2:latest", {}, by="ann@laptop").job.id
    ledger.end(claimed(ledger, id), Ending("failed", failure_class, "trouble"), Reading())
    what = remedy(ledger.reader.get(id))
    assert what is not None
    assert "{" not in what
    assert "publisher" not in what
    assert kind in KINDS
    assert failure_class in FAILURE_CLASSES


def test_a_result_of_another_version_is_still_told(store: Store) -> None:
    """A result with other keys than today's is shown as it is."""
    ledger = store.ledger()
    id = posted(ledger).id
    ledger.end(claimed(ledger, id), Ending("succeeded", result={"colour": "blue"}), Reading())
    assert result_text(ledger.reader.get(id)) == "colour blue"


def running(completed: int, total: int = 100, status: str = "pulling", state: JobState = JobState.RUNNING) -> Job:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    reading = Reading(completed, total, 10.0, status)
    return Job("a-1", "pull", "tiny:latest", "weights", state, {}, 8, at, "ann", progress=reading)


def test_lines_come_per_ten_per_cent() -> None:
    """Where nothing can be redrawn, a pull is one line per ten per cent, not one per look."""
    lines: list[str] = []
    view = Lines(lines.append)
    for completed in range(101):
        view.show(running(completed))
    assert [line.split("  ")[3] for line in lines] == [f"{tenth} %" for tenth in range(0, 101, 10)]
    assert lines[3] == "pull tiny:latest  running  pulling  30 %  30 B of 100 B  10 B/s  7.0 s left"


def test_lines_come_when_something_changes() -> None:
    """A new state or a new phase is a line of its own, also within the same ten per cent."""
    lines: list[str] = []
    view = Lines(lines.append)
    for job in (running(1), running(2), running(2, status="publishing"), running(2, state=JobState.WAITING)):
        view.show(job)
    assert len(lines) == 3


class Turn:
    """A clock whose waits let the other side do its next step."""

    def __init__(self, clock: HandClock, *steps: object) -> None:
        self._clock = clock
        self._steps = list(steps)

    now = property(lambda self: self._clock.now)
    monotonic = property(lambda self: self._clock.monotonic)

    def wait(self, seconds: float, wake: object = None) -> bool:
        self._clock.tick(seconds)
        step = self._steps.pop(0)
        assert callable(step)
        step()
        return False


def test_following_tells_of_attempts_and_idleness(
    store: Store, clock: HandClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever follows is told once that nobody works the queue, and of each failed attempt with the next try."""
    ledger = store.ledger()
    id = posted(ledger).id
    is_up = False

    def come_up() -> None:
        nonlocal is_up
        is_up = True

    def fail() -> None:
        trouble = TooManyRequests("\x1b[31mslow down")
        later = clock.now() + timedelta(seconds=4)
        ledger.end(claimed(ledger, id), Ending("retry", "network", str(trouble), "wait", later), Reading())

    def succeed() -> None:
        clock.tick(4)
        ledger.end(claimed(ledger, id), Ending("succeeded", result={}), Reading())

    turns = Turn(clock, lambda: None, come_up, fail, lambda: None, succeed)
    (ended,) = follow([id], ledger.reader.get, clock=turns, is_worked=lambda: is_up, idle=IDLE)

    said = capsys.readouterr().err
    assert ended.state is JobState.SUCCEEDED
    assert said.count("nothing is working the queue") == 1
    assert IDLE[1] in said
    assert "the queue is being worked now" in said
    assert "attempt 1 failed because of network: \\x1b[31mslow down; next try in 4.0 s (2 of 8)" in said
    assert said.count("attempt 1 failed") == 1


@given(st.text(max_size=2 * LONGEST))
def test_foreign_text_is_one_harmless_line(text: str) -> None:
    """Whatever comes from outside is shown as one line that moves no cursor and turns no direction."""
    shown = plain(text)
    assert shown == "" or shown.splitlines() == [shown]
    assert all(character.isprintable() for character in shown)
    assert len(shown) <= 10 * (LONGEST + 1)


def test_a_subject_cannot_pretend(store: Store) -> None:
    """Neither a headline nor a story passes on control characters of a subject."""
    ledger = store.ledger()
    job = ledger.post("pull", "a\x1b[2J\u202eb", {"model": "x\n\ny"}, by="\x07ann").job
    for line in (*headline(job), *story(job, store.clock.now())):
        assert line.isprintable()


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (timedelta(seconds=-1), "0.0 s"),
        (timedelta(seconds=0.44), "0.4 s"),
        (timedelta(seconds=12), "12 s"),
        (timedelta(seconds=200), "3 min 20 s"),
        (timedelta(hours=2, minutes=5), "2 h 5 min"),
        (timedelta(days=3, hours=4), "3 d 4 h"),
    ],
)
def test_durations_as_people_say_them(span: timedelta, words: str) -> None:
    """A duration has at most two units, the largest first."""
    assert human_span(span) == words
