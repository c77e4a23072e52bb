"""Dead letters: what failed for good, by class, with what to do, and all of a class posted again."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from jobs.cli.job_commands import JobCommands
from jobs.core.errors import FAILURE_CLASSES, BadRequest, Refused
from jobs.core.progress import Reading
from jobs.ledger.dead_letters import LIKELY, class_of, dead
from jobs.ledger.expiry import clear
from jobs.ledger.job import Ending, Job, JobState
from jobs.ledger.kinds import KINDS
from jobs.store import keys
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


@pytest.mark.parametrize("later", ["pull", "delete", "rollback"])
@pytest.mark.parametrize("kind", ["pull", "verify", "delete", "rollback"])
def test_a_later_change_of_the_weights_supersedes(store: Store, kind: str, later: str) -> None:
    """A job that changes the weights of a model supersedes every dead letter about it, and none about another."""
    failed(store, "a:latest", kind=kind)
    other = failed(store, "b:latest", kind=kind)
    ended(store, "a:latest", Ending("succeeded"), kind=later)
    assert [job.id for job in dead(store.ledger().reader.jobs())] == [other.id]


def test_a_prune_supersedes_what_it_moved(store: Store) -> None:
    """A prune changes the weights of the models that it moved to the trash, and of no other."""
    failed(store, "a:latest", kind="rollback")
    kept = failed(store, "b:latest", kind="rollback")
    thrown = [{"what": "model", "name": "A:latest"}, {"what": "orphan", "name": "b:latest"}]
    ended(store, "*", Ending("succeeded", result={"throw": thrown}), kind="prune")
    assert [job.id for job in dead(store.ledger().reader.jobs())] == [kept.id]


def test_what_changes_nothing_supersedes_nothing_else(store: Store) -> None:
    """A verify or a warm leaves the dead letters of other kinds as they are."""
    pull = failed(store, "a:latest")
    for kind in ("verify", "warm"):
        ended(store, "a:latest", Ending("succeeded"), kind=kind)
    assert [job.id for job in dead(store.ledger().reader.jobs())] == [pull.id]


@pytest.mark.parametrize("kind", ["delete", "rollback", "prune"])
def test_no_bulk_retry_takes_weights_away(store: Store, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """Of all that failed, what takes weights away is left out, and told with the command for it alone."""
    taking = failed(store, "*" if kind == "prune" else "a:latest", kind=kind)
    failed(store, "b:latest")
    assert commands(store).retry(every=True, wait=False, json=False) == 0
    said = capsys.readouterr().err
    assert "to post again: pull b:latest" in said
    assert f"left out, because it takes weights away: {kind} {taking.subject}" in said
    assert f"`ollama-modal retry {taking.id}`" in said
    open_jobs = [job for job in store.ledger().reader.jobs() if not job.has_ended]
    assert [job.kind for job in open_jobs] == ["pull"]


def test_all_are_posted_only_after_a_yes(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever says no posts nothing; `--yes` asks nobody."""
    failed(store, "a:latest")
    asked: list[str] = []

    def no(question: str) -> bool:
        asked.append(question)
        return False

    with_no = replace(commands(store), confirmed=no)
    assert with_no.retry(every=True, wait=False, json=False) == 1
    assert "to post again: pull a:latest" in capsys.readouterr().err
    assert (len(store.ledger().reader.jobs()), asked) == (1, ["post 1 again?"])
    assert with_no.retry(every=True, yes=True, wait=False, json=False) == 0
    assert (len(store.ledger().reader.jobs()), len(asked)) == (2, 1)


@pytest.mark.parametrize("kind", ["delete", "rollback"])
def test_a_superseded_delete_is_refused(store: Store, kind: str) -> None:
    """A delete or rollback of weights that were changed since is refused with what was done, unless asked anyway."""
    first = failed(store, "a:latest", kind=kind)
    pull = ended(store, "a:latest", Ending("succeeded"))
    with pytest.raises(Refused, match=rf"superseded: since then came pull a:latest \(succeeded, job {pull.id}\)") as no:
        commands(store).retry(first.id, wait=False, json=False)
    assert no.value.hint == f"if it is still wanted: `ollama-modal retry {first.id} --anyway`"
    assert len(store.ledger().reader.jobs()) == 2
    assert commands(store).retry(first.id, anyway=True, wait=False, json=False) == 0
    assert [job.kind for job in store.ledger().reader.jobs() if not job.has_ended] == [kind]


def test_an_archived_delete_is_refused(store: Store) -> None:
    """What came after an archived delete may be archived as well, so it is posted only anyway."""
    first = failed(store, "a:latest", kind="delete")
    store.ledger().retire(first)
    with pytest.raises(Refused, match="is archived"):
        store.ledger().again(first, by="test")
    assert not store.ledger().again(first, by="test", anyway=True).attached


def test_a_delete_that_nothing_superseded_is_retried(store: Store) -> None:
    """With nothing done since, a delete is tried again by its id; other jobs are, whatever came later."""
    delete = failed(store, "a:latest", kind="delete")
    pull = failed(store, "b:latest")
    ended(store, "b:latest", Ending("succeeded"))
    assert commands(store).retry(delete.id, wait=False, json=False) == 0
    assert commands(store).retry(pull.id, wait=False, json=False) == 0


def test_anyway_is_for_one_job(store: Store) -> None:
    """`--all --anyway` is refused: no bulk retry takes weights away."""
    with pytest.raises(BadRequest, match="--anyway goes with the id"):
        commands(store).retry(every=True, anyway=True, wait=False, json=False)


def test_what_is_dismissed_is_no_dead_letter(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """A dismissed job is listed with its story, and never again as a dead letter, nor posted among others."""
    job = failed(store, "a:latest", "not_found")
    assert commands(store).dismiss(job.id[:6], json=False) == 0
    assert commands(store).dismiss(job.id, json=False) == 0
    found = store.ledger().reader.get(job.id)
    assert (found.dismissed, [each.dismissed for each in store.ledger().reader.jobs()]) == (True, [True])
    assert Job.from_json(found.as_json()).dismissed
    assert dead(store.ledger().reader.jobs()) == []
    assert commands(store).retry(every=True, wait=False, json=False) == 0
    assert len(store.ledger().reader.jobs()) == 1
    assert commands(store).show_job(job.id, follow=False, json=False) == 0
    assert "after it was posted, and dismissed" in capsys.readouterr().out


def test_only_what_failed_is_dismissed(store: Store) -> None:
    """A job that goes on, or that succeeded, is refused: there is nothing to dismiss."""
    done = ended(store, "a:latest", Ending("succeeded"))
    posted = store.ledger().post("pull", "b:latest", {}, by="test").job
    for job, state in ((done, "succeeded"), (posted, "queued")):
        with pytest.raises(Refused, match=f"is {state}; only a job that failed for good is dismissed"):
            commands(store).dismiss(job.id, json=False)


def test_what_was_dismissed_is_cleared_with_its_job(store: Store) -> None:
    """An hour after its job was retired, the fact is removed with the others."""
    job = failed(store, "a:latest")
    ledger = store.ledger()
    ledger.dismiss(job.id, by="test")
    ledger.retire(job)
    clear(store.facts, store.clock.now() + timedelta(hours=2))
    assert store.facts.get(keys.dismissed(job.id)) is None


def test_numbers_that_make_no_sense_are_refused(store: Store) -> None:
    """`--attempts -1` and `--limit -1` are wrong calls; nothing is posted."""
    for attempts in (-1, 0):
        with pytest.raises(BadRequest, match=f"--attempts {attempts} makes no sense"):
            commands(store).post(KINDS["pull"], "a", wait=False, attempts=attempts, json=False)
    with pytest.raises(BadRequest, match="--limit -1 makes no sense"):
        commands(store).list_jobs(limit=-1, json=False)
    assert store.ledger().reader.jobs() == []


def test_a_rollback_is_not_told_to_ask_its_publisher(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a kind needs another remedy than its class, the list of dead letters has it beside that job."""
    failed(store, "a:latest", "not_found", kind="rollback")
    assert commands(store).list_jobs(dead=True, json=False) == 0
    said = capsys.readouterr().out
    assert "the trash holds no earlier version; `ollama-modal pull a:latest` brings the newest" in said
    assert "publisher" not in said


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
