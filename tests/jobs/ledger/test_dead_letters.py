"""Dead letters: what failed for good, by class, with what to do, and all of a class posted again."""

import json
from datetime import timedelta

import pytest

from jobs.cli.job_commands import JobCommands
from jobs.core.errors import FAILURE_CLASSES, BadRequest
from jobs.core.progress import Reading
from jobs.ledger.dead_letters import LIKELY, class_of, dead
from jobs.ledger.job import Ending, Job, JobState
from tests.support.stores import Store


def failed(store: Store, subject: str, failure_class: str = "network", kind: str = "pull") -> Job:
    return ended(store, subject, Ending("failed", failure_class, f"{failure_class} trouble"), kind)


def ended(store: Store, subject: str, ending: Ending, kind: str = "pull") -> Job:
    ledger = store.ledger()
    id = ledger.post(kind, subject, {"model": subject}, by="test", attempts=3).job.id
    store.clock.wait(1)
    claim = ledger.claim(id, worker="w", lease=timedelta(minutes=1))
    assert claim is not None
    return ledger.end(claim, ending, Reading())


def commands(store: Store) -> JobCommands:
    return JobCommands(store.ledger(), store.clock, is_worked=lambda: True, idle=("idle", "hint"), log="")


def test_a_dead_letter_is_the_last_word(store: Store) -> None:
    """A failed job is dead unless one of its kind and subject was posted later, whatever became of that."""
    first = failed(store, "a")
    failed(store, "b")
    ended(store, "b", Ending("succeeded"))
    failed(store, "c")
    store.ledger().post("pull", "c", {}, by="test")
    failed(store, "d")
    again = failed(store, "d")
    other = failed(store, "a", kind="verify")
    assert [job.id for job in dead(store.ledger().reader.jobs())] == [other.id, again.id, first.id]


def test_dead_letters_are_grouped(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """For people: each class with its jobs, the likely remedy, and the command for all of them; most jobs first."""
    for subject, failure_class in (("a", "disk"), ("b", "network"), ("c", "network"), ("d", "not_found")):
        failed(store, subject, failure_class)
    assert commands(store).list_jobs(dead=True, json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "network: 2 jobs"
    assert lines[3] == f"  to do: {LIKELY['network']}"
    assert lines[4] == "         `ollama-modal retry --all --class network`"
    assert [line for line in lines if not line.startswith(" ")] == [
        "network: 2 jobs",
        "disk: 1 job",
        "not_found: 1 job",
    ]
    assert "retry --all --class not_found" not in "\n".join(lines)


def test_every_class_has_its_remedy() -> None:
    """There is a likely remedy for every class of failure, and for no other."""
    assert set(LIKELY) == set(FAILURE_CLASSES)


def test_all_of_a_class_are_posted_again(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """After an outage, one command posts every job that it killed, exactly as each was posted, and no other."""
    failed(store, "a")
    failed(store, "b", "disk")
    failed(store, "c")
    assert commands(store).retry(every=True, failure_class="network", wait=False, json=True) == 0
    posted = json.loads(capsys.readouterr().out)
    assert [(job["subject"], job["request"], job["attempts_allowed"]) for job in posted] == [
        ("c", {"model": "c"}, 3),
        ("a", {"model": "a"}, 3),
    ]
    assert sorted(job.subject for job in store.ledger().reader.jobs() if job.state is JobState.QUEUED) == ["a", "c"]
    assert commands(store).retry(every=True, failure_class="network", wait=False, json=False) == 0
    assert "there is nothing to retry" in capsys.readouterr().err


def test_an_unknown_class_is_refused(store: Store) -> None:
    """A class that does not exist is refused with those that do, and nothing is posted."""
    job = failed(store, "a")
    assert class_of(job) == "network"
    with pytest.raises(BadRequest, match="no class of failure 'weather'") as refused:
        commands(store).retry(every=True, failure_class="weather", wait=False, json=False)
    assert "network" in str(refused.value.hint)
    assert len(store.ledger().reader.jobs()) == 1
