"""What posting, cancelling, retrying and sweeping promise, step by step."""

import gc
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from jobs.cli.job_commands import JobCommands
from jobs.core.errors import BadRequest, Fenced, NotFound, Refused, StoreTrouble
from jobs.core.progress import Reading
from jobs.ledger.attempts import Claim
from jobs.ledger.expiry import clear
from jobs.ledger.job import Ending, JobState
from jobs.ledger.kinds import KINDS
from jobs.ledger.ledger import Ledger
from jobs.testing.clock import HandClock
from tests.support.failing_stores import TroubledQueue, While
from tests.support.stores import Store, ended_job
from tests.support.waiting import PATIENCE

LEASE = timedelta(seconds=30)


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return store.ledger()


def post(ledger: Ledger, subject: str = "llama3.2:latest", attempts: int = 3) -> str:
    return ledger.post("pull", subject, {"model": subject}, by="test", attempts=attempts).job.id


def claimed(ledger: Ledger, id: str) -> Claim:
    claim = ledger.claim(id, worker="w1", lease=LEASE)
    assert claim is not None
    return claim


def test_a_posted_job_is_queued_for_a_worker(ledger: Ledger) -> None:
    """`post` answers with a queued job and puts its id into the lane of its kind."""
    posted = ledger.post("warm", "llama3.2:latest", {"model": "llama3.2"}, by="shell")
    assert not posted.attached
    assert posted.job.state is JobState.QUEUED
    assert (posted.job.kind, posted.job.lane, posted.job.posted_by) == ("warm", "servers", "shell")
    assert ledger.next_id("weights", timedelta(0)) is None
    assert ledger.next_id("servers", timedelta(0)) == posted.job.id


def test_an_unknown_kind_is_refused(ledger: Ledger) -> None:
    """A job of no known kind is refused before anything is written, naming the kinds there are."""
    with pytest.raises(BadRequest, match="no kind of job 'bake'") as refused:
        ledger.post("bake", "m", {}, by="x")
    assert refused.value.hint == f"kinds are {', '.join(KINDS)}"
    assert ledger.reader.jobs() == []


def test_a_second_post_attaches(ledger: Ledger) -> None:
    """While a job of this kind and subject lives, posting again answers with that job (P2)."""
    first = post(ledger)
    again = ledger.post("pull", "llama3.2:latest", {"model": "LLAMA3.2"}, by="somebody else")
    assert again.attached
    assert again.job.id == first
    assert ledger.post("verify", "llama3.2:latest", {}, by="x").job.id != first


def test_after_the_end_a_post_is_a_new_job(ledger: Ledger) -> None:
    """Once a job has ended, the next post of its subject makes a new one, and the old one stays as it was."""
    first = post(ledger)
    ledger.end(claimed(ledger, first), Ending("succeeded", result={"ok": True}), Reading(5, 5))
    second = ledger.post("pull", "llama3.2:latest", {}, by="test")
    assert not second.attached
    assert second.job.id != first
    assert ledger.reader.get(first).result == {"ok": True}
    assert {job.id for job in ledger.reader.jobs()} == {first, second.job.id}


def test_a_stale_pointer_still_leads_to_the_live_job(ledger: Ledger, store: Store) -> None:
    """A poster that died before it moved the pointer, or moved it back, costs a look and nothing else."""
    first = post(ledger)
    line = first.partition("-")[0]
    ledger.end(claimed(ledger, first), Ending("succeeded"), Reading())
    second = post(ledger)
    store.facts.put("live/pull/llama3.2:latest", {"v": 1, "line": line, "generation": 1})
    assert post(ledger) == second


def test_a_job_runs_and_ends(ledger: Ledger, clock: HandClock) -> None:
    """Claimed is running, beats carry progress, and the end tells outcome, times, result and the last progress."""
    id = post(ledger)
    claim = claimed(ledger, id)
    assert ledger.reader.get(id).state is JobState.RUNNING
    clock.tick(2)
    assert ledger.beat(claim, Reading(10, 100, 5.0, "pulling")) is False
    assert ledger.reader.get(id).progress == Reading(10, 100, 5.0, "pulling")
    clock.tick(3)
    job = ledger.end(claim, Ending("succeeded", result={"digest": "abc"}), Reading(100, 100, 20.0, "publishing"))
    assert job.state is JobState.SUCCEEDED
    assert job.progress.completed == 100
    assert job.ended_at == clock.now()
    assert (job.ended_at - job.posted_at).total_seconds() == 5
    assert job.as_json()["attempts"][0]["outcome"] == "succeeded"


def test_a_claim_is_for_one(ledger: Ledger) -> None:
    """A second claim of the same attempt is answered with nothing, politely."""
    id = post(ledger)
    claimed(ledger, id)
    assert ledger.claim(id, worker="w2", lease=LEASE) is None
    assert ledger.claim("no-such-job", worker="w2", lease=LEASE) is None


def test_a_retry_waits_until_its_time(ledger: Ledger, clock: HandClock) -> None:
    """An attempt that ends with `retry` leaves the job waiting; from its time on it is queued and can be claimed."""
    id = post(ledger)
    ledger.next_id("weights", timedelta(0))
    not_before = clock.now() + timedelta(seconds=10)
    job = ledger.end(claimed(ledger, id), Ending("retry", "network", "cut", not_before=not_before), Reading())
    assert job.state is JobState.WAITING
    assert ledger.claim(id, worker="w", lease=LEASE) is None
    swept = ledger.sweep()
    assert (swept.enqueued, swept.next_due) == ((), not_before)
    clock.tick(10)
    assert ledger.sweep().enqueued == (id,)
    assert claimed(ledger, id).n == 2


def test_queued_is_never_stale(ledger: Ledger, clock: HandClock) -> None:
    """A job that waits behind others for days is neither lost nor failed (P5)."""
    id = post(ledger)
    for _ in range(5):
        clock.tick(86_400)
        assert ledger.sweep().lost == ()
    assert ledger.reader.get(id).state is JobState.QUEUED
    assert claimed(ledger, id).n == 1


def test_a_beating_attempt_is_never_lost(ledger: Ledger, clock: HandClock) -> None:
    """While its holder beats, an attempt may take as long as it takes (P5)."""
    id = post(ledger)
    claim = claimed(ledger, id)
    for _ in range(200):
        clock.tick(29)
        ledger.beat(claim, Reading())
        assert ledger.sweep().lost == ()
    assert ledger.reader.get(id).state is JobState.RUNNING


def test_a_silent_attempt_is_given_up(ledger: Ledger, clock: HandClock) -> None:
    """An attempt whose lease ran out is ended as lost, its holder is told of first, and the job is queued again."""
    id = post(ledger)
    ledger.next_id("weights", timedelta(0))
    claimed(ledger, id)
    clock.tick(31)
    told = []
    swept = ledger.sweep(before_lost=lambda job: told.append((job.id, job.attempts[-1].outcome)))
    assert told == [(id, None)]
    assert (swept.lost, swept.enqueued) == ((id,), (id,))
    attempt = ledger.reader.get(id).attempts[0]
    assert (attempt.outcome, attempt.failure_class) == ("lost", "killed")
    assert attempt.message == "worker w1 was not heard of for 31 s"
    assert ledger.sweep().lost == ()


def test_a_dead_workers_attempt_waits_for_no_lease(ledger: Ledger, clock: HandClock) -> None:
    """Who knows that no worker lives gives up what was running at once; its holder, should it live, ends nothing."""
    id = post(ledger)
    ledger.next_id("weights", timedelta(0))
    claim = claimed(ledger, id)
    clock.tick(1)
    assert ledger.sweep().lost == ()
    swept = ledger.sweep(no_worker_lives=True)
    assert (swept.lost, swept.enqueued) == ((id,), (id,))
    assert ledger.reader.get(id).attempts[0].message == "worker w1 was not heard of for 1 s"
    with pytest.raises(Fenced):
        ledger.end(claim, Ending("succeeded"), Reading())
    assert ledger.sweep(no_worker_lives=True).lost == ()


def test_losing_the_last_attempt_fails_the_job(ledger: Ledger, clock: HandClock) -> None:
    """A job whose every attempt was lost has failed, after exactly as many attempts as were allowed (P3)."""
    id = post(ledger, attempts=2)
    for _ in range(2):
        claimed(ledger, id)
        clock.tick(31)
        ledger.sweep()
    job = ledger.reader.get(id)
    assert job.state is JobState.FAILED
    assert [attempt.outcome for attempt in job.attempts] == ["lost", "lost"]
    assert ledger.claim(id, worker="w", lease=LEASE) is None


def test_a_wiped_queue_is_filled_again(ledger: Ledger, store: Store) -> None:
    """Emptying the queue loses nothing: the next sweep puts in the id of every job that is due (P1)."""
    ids = {post(ledger, f"m{i}:latest") for i in range(5)}
    assert store.empty_queue() == 5
    assert set(store.ledger().sweep().enqueued) == ids
    assert store.empty_queue() == 5


def test_a_sweep_puts_an_id_in_once(store: Store) -> None:
    """Sweeping again and again, by whoever comes anew each time, does not fill the queue, however long nobody works."""
    ids = {post(store.ledger(), f"m{n}:latest") for n in range(20)}
    for _ in range(50):
        store.clock.wait(300)
        assert store.ledger().sweep().enqueued == ()
    assert store.empty_queue() == 20
    assert set(store.ledger().sweep().enqueued) == ids


def test_a_sweep_puts_in_what_the_queue_lacks(store: Store) -> None:
    """Of ids that were put in and that the queue has lost, those of the longest ago come back, and no others: a minute
    later, for who took one out may be about to claim it."""
    ids = []
    for n in range(3):
        ids.append(post(store.ledger(), f"m{n}:latest"))
        store.clock.wait(1)
    assert store.queue.get(partition="weights") == ids[0]
    assert store.ledger().sweep().enqueued == ()
    store.clock.wait(61)
    assert store.ledger().sweep().enqueued == (ids[0],)
    assert store.ledger().sweep().enqueued == ()


def test_what_an_older_version_posted_is_swept(store: Store) -> None:
    """Jobs that no index tells of, as they stand in ledgers of an older version, are found by the first sweep; those
    that an older process posts later, by the next comparison with all jobs."""
    fact = {"id": "old-1", "kind": "pull", "subject": "m", "lane": "weights", "posted_at": "2026-01-01T00:00:00Z"}
    store.facts.put("job/old-1", fact)
    store.facts.put("job/done-1", {**fact, "id": "done-1", "subject": "d"})
    store.facts.put("claim/done-1/1", {"at": "2026-01-01T00:00:01Z", "lease_seconds": 30})
    store.facts.put("end/done-1/1", {"at": "2026-01-01T00:00:02Z", "outcome": "succeeded"})
    store.facts.put("live/pull/m", {"v": 1, "line": "old", "generation": 1})
    ledger = store.ledger()
    assert ledger.post("pull", "m", {}, by="test").attached
    assert ledger.sweep().enqueued == ("old-1",)
    assert [*store.facts.keys("open/")] == ["open/old-1"]

    store.facts.put("job/late-1", {**fact, "id": "late-1", "subject": "l"})
    assert ledger.sweep().enqueued == ()
    assert ledger.index_all(ledger.reader.jobs()) == 1
    assert ledger.sweep().enqueued == ("late-1",)


@pytest.mark.parametrize("moved", [61, 3700])
def test_a_post_that_was_broken_off_is_no_job(store: Store, moved: int) -> None:
    """What was announced and never posted keeps no worker, and is forgotten after an hour; posted after all, it is
    worked on, though it had been forgotten."""
    ledger, facts = store.ledger(), store.facts
    id = post(ledger)
    fact = facts.pop(f"job/{id}")
    facts.put(f"open/{id}", {**facts.get(f"open/{id}"), "posted": False})
    store.empty_queue()
    store.clock.wait(moved)
    swept = store.ledger().sweep()
    assert (swept.enqueued, swept.open_lanes) == ((), frozenset())
    assert (facts.get(f"open/{id}") is None) == (moved > 3600)
    facts.put(f"job/{id}", fact)
    assert post(ledger) == id
    assert store.ledger().sweep().enqueued == (id,)


def test_what_is_said_of_a_job_may_be_late(store: Store) -> None:
    """Whatever an earlier moment left in the index, the next claim and the next sweeps go by the facts."""
    ledger, facts = store.ledger(), store.facts
    id = post(ledger)
    said = [facts.get(f"open/{id}")]
    claim = claimed(ledger, id)
    said.append(facts.get(f"open/{id}"))
    ledger.end(claim, Ending("retry", "network", "cut", not_before=store.clock.now()), Reading())
    said.append(facts.get(f"open/{id}"))
    for late in said:
        facts.put(f"open/{id}", late)
        assert ledger.claim("nope-1", worker="w", lease=LEASE) is None
        store.ledger().sweep()
        assert ledger.reader.get(id).state is JobState.WAITING
    assert claimed(ledger, id).n == 2
    ledger.cancel(id, by="test")
    store.clock.wait(31)
    for late in said:
        facts.put(f"open/{id}", late)
        store.empty_queue()
        store.clock.wait(61)
        store.ledger().sweep()
        assert ledger.reader.get(id).state is JobState.CANCELLED
        assert facts.get(f"open/{id}") is None
    for late in said:
        facts.put(f"open/{id}", late)
        assert ledger.claim(id, worker="w", lease=LEASE) is None
        assert facts.get(f"open/{id}") is None


def test_a_full_queue_loses_nothing(store: Store) -> None:
    """With the lane's partition full a job can be posted all the same; its id is put in when there is room."""
    for number in range(5_000):
        store.queue.put(f"x{number}", partition="weights")
    ledger = store.ledger()
    id = post(ledger)
    assert store.empty_queue() == 5_000
    assert ledger.sweep().enqueued == (id,)


def test_cancelling_a_queued_job_ends_it_at_once(ledger: Ledger) -> None:
    """A job that nobody runs is cancelled there and then, and is not run any more."""
    id = post(ledger)
    assert ledger.cancel(id, by="me").state is JobState.CANCELLED
    assert ledger.claim(id, worker="w", lease=LEASE) is None
    assert ledger.cancel(id, by="me").state is JobState.CANCELLED


def test_cancelling_a_running_job_reaches_its_holder(ledger: Ledger) -> None:
    """The holder of a running attempt hears of the wish at its next beat; until then the job runs."""
    id = post(ledger)
    claim = claimed(ledger, id)
    job = ledger.cancel(id, by="me")
    assert (job.state, job.cancel_asked) == (JobState.RUNNING, True)
    assert ledger.beat(claim, Reading()) is True
    assert ledger.end(claim, Ending("cancelled"), Reading()).state is JobState.CANCELLED


def test_a_cancelled_job_whose_holder_died_ends_cancelled(ledger: Ledger, clock: HandClock) -> None:
    """Asked to cancel and then lost, a job is not run again: the sweep ends it as cancelled."""
    id = post(ledger)
    claimed(ledger, id)
    ledger.cancel(id, by="me")
    clock.tick(31)
    ledger.sweep()
    assert ledger.reader.get(id).state is JobState.CANCELLED


def test_a_canceller_that_died_half_way_is_finished(ledger: Ledger, store: Store) -> None:
    """A wish to cancel that was written down is carried out, though who wrote it died right after."""
    id = post(ledger)
    store.facts.put(f"cancel/{id}", {"v": 1, "by": "me", "at": "2026-01-01T00:00:00Z"})
    assert ledger.claim(id, worker="w", lease=LEASE) is None
    assert ledger.reader.get(id).state is JobState.CANCELLED


def test_cancelling_an_ended_job_changes_nothing(ledger: Ledger) -> None:
    """A job that has succeeded stays so."""
    id = post(ledger)
    ledger.end(claimed(ledger, id), Ending("succeeded"), Reading())
    job = ledger.cancel(id, by="me")
    assert (job.state, job.cancel_asked) == (JobState.SUCCEEDED, False)


def test_a_failed_job_is_retried_as_it_was_posted(ledger: Ledger) -> None:
    """`retry` posts the same kind, subject, request and allowance again; the failed job keeps its story (P6)."""
    request = {"model": "llama3.2", "rate_limit": 5}
    id = ledger.post("pull", "llama3.2:latest", request, by="test", attempts=2).job.id
    with pytest.raises(Refused, match="only an ended job is retried"):
        ledger.retry(id, by="me")
    ledger.end(claimed(ledger, id), Ending("failed", "not_found", "no such model", "check the name"), Reading())
    again = ledger.retry(id, by="me").job
    assert (again.kind, again.subject, again.request, again.attempts_allowed) == (
        "pull",
        "llama3.2:latest",
        request,
        2,
    )
    told = ledger.reader.get(id).as_json()["attempts"][0]
    assert (told["class"], told["message"], told["hint"]) == ("not_found", "no such model", "check the name")


def test_an_unknown_job_says_so(ledger: Ledger) -> None:
    """Asking for a job that is not there names it and says where to look."""
    with pytest.raises(NotFound, match="no job 'nope-1'") as missing:
        ledger.reader.get("nope-1")
    assert missing.value.hint == "`ollama-modal jobs` lists them"


def test_last_months_record_still_opens(store: Store) -> None:
    """A record with fields missing, or with fields we do not know, is read with defaults."""
    store.facts.put(
        "job/old-1",
        {"id": "old-1", "kind": "pull", "subject": "m", "lane": "weights", "posted_at": "2026-01-01T00:00:00Z", "x": 1},
    )
    store.facts.put("claim/old-1/1", {"at": "2026-01-01T00:00:01Z", "lease_seconds": 30})
    store.facts.put("end/old-1/1", {"at": "2026-01-01T00:00:02Z", "outcome": "succeeded", "progress": {"z": 1}})
    (job,) = store.ledger().reader.jobs()
    assert job.state is JobState.SUCCEEDED
    assert store.ledger().reader.get("old-1") == job


def test_listing_and_reading_tell_the_same(ledger: Ledger, clock: HandClock) -> None:
    """`jobs` and `get` agree about every job, whatever state it is in."""
    for number, ending in enumerate(
        [None, Ending("succeeded"), Ending("failed", "disk", "full"), Ending("retry", "network", "cut")]
    ):
        id = post(ledger, f"m{number}:latest")
        claim = claimed(ledger, id)
        ledger.beat(claim, Reading(number, 10))
        if ending:
            ledger.end(claim, ending, Reading(number, 10))
        clock.tick(1)
    post(ledger, "queued:latest")
    assert ledger.reader.jobs() == [ledger.reader.get(job.id) for job in ledger.reader.jobs()]
    assert next(job.subject for job in ledger.reader.jobs()) == "queued:latest"


def test_real_threads_post_one_job(live_store: Store) -> None:
    """Twenty threads that post the same pull at the same moment share one job (P2)."""
    gate = threading.Barrier(20)
    ids = []

    def run() -> None:
        gate.wait()
        ids.append(live_store.ledger().post("pull", "m", {}, by="x"))

    threads = [threading.Thread(target=run) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({posted.job.id for posted in ids}) == 1
    assert sum(not posted.attached for posted in ids) == 1


def test_a_waiting_worker_takes_the_id(live_store: Store) -> None:
    """A worker that waits on an empty lane gets the id when it is posted, not only when it looks again."""
    heard: list[str | None] = []
    ledger = live_store.ledger()
    thread = threading.Thread(target=lambda: heard.append(ledger.next_id("weights", timedelta(seconds=20))))
    thread.start()
    time.sleep(0.05)  # real threads: the getter has to be waiting
    id = post(live_store.ledger())
    thread.join(timeout=PATIENCE)
    assert heard == [id]


def test_a_retired_job_is_listed_no_longer(ledger: Ledger, store: Store) -> None:
    """Retiring takes an ended job off the list at once; its facts go an hour later, so that no reader sees half of
    them, and its line goes on."""
    id = post(ledger)
    with pytest.raises(Refused, match="is queued; only an ended job is retired"):
        ledger.retire(ledger.reader.get(id))
    ledger.end(claimed(ledger, id), Ending("succeeded"), Reading())
    for _ in range(2):
        ledger.retire(ledger.reader.get(id))
    assert (ledger.reader.jobs(), ledger.reader.ids(), clear(store.facts, store.clock.now())) == ([], [], 0)
    assert ledger.reader.get(id).state is JobState.SUCCEEDED

    store.clock.wait(3601)
    assert [clear(store.facts, store.clock.now()) for _ in range(2)] == [4, 0]
    with pytest.raises(NotFound):
        ledger.reader.get(id)
    assert ledger.sweep().enqueued == ()
    after = ledger.post("pull", "llama3.2:latest", {}, by="test")
    assert not after.attached
    assert after.job.id == f"{id[:-1]}2"


def test_an_archived_job_is_asked_for_again(ledger: Ledger) -> None:
    """What a job asked for is posted again from its record, though the ledger has it no more."""
    id = post(ledger)
    ledger.end(claimed(ledger, id), Ending("failed", "network", "cut"), Reading())
    job = ledger.reader.get(id)
    ledger.retire(ledger.reader.get(id))
    again = ledger.again(job, by="somebody")
    assert (again.attached, again.job.request, again.job.attempts_allowed) == (False, job.request, 3)


def test_nothing_switches_the_garbage_collector_off(live_store: Store) -> None:
    """Neither readers that pass over all facts at once, nor posts and beats beside them, nor a list of the jobs: the
    process keeps its collector throughout."""
    ledger, seen = live_store.ledger(), set[bool]()
    commands = JobCommands(ledger, live_store.clock, is_worked=lambda: True, idle=("", ""), log="")

    def work(n: int) -> None:
        mine = live_store.ledger()
        for turn in range(10):
            job = mine.post("pull", f"m{n}-{turn}", {}, by="test").job
            claim = mine.claim(job.id, worker="w", lease=timedelta(minutes=1))
            assert claim is not None
            mine.beat(claim, Reading())
            mine.reader.jobs()
            mine.end(claim, Ending("succeeded"), Reading())
            seen.add(gc.isenabled())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.add(gc.isenabled())
        ledger.reader.jobs()
        seen.add(gc.isenabled())
    assert commands.list_jobs(limit=1, json=True) == 0
    assert seen | {gc.isenabled()} == {True}


@pytest.mark.parametrize("other", ["pull", "delete", "rollback"])
def test_a_warm_waits_until_its_model_is_left_alone(ledger: Ledger, other: str) -> None:
    """While a job changes a model, nobody can claim its warm-up and no sweep puts it in; afterwards both go, and the
    wait has cost no attempt. The warm-up of another model does not wait."""
    subject, request = "llama3.2:latest", {"model": "llama3.2"}
    busy = claimed(ledger, ledger.post(other, subject, request, by="test").job.id)
    warm = ledger.post("warm", subject, request, by="window").job.id
    beside = ledger.post("warm", "tiny:latest", {"model": "tiny"}, by="window").job.id
    assert ledger.next_id("servers", timedelta(0)) == warm

    assert ledger.claim(warm, worker="w2", lease=LEASE) is None
    assert claimed(ledger, beside)
    swept = ledger.sweep()
    assert warm not in swept.enqueued
    assert ledger.reader.get(warm).attempts == ()

    ledger.end(busy, Ending("failed", "network", "the line is down"), Reading())
    assert warm in ledger.sweep().enqueued
    assert claimed(ledger, warm).n == 1


def test_a_lane_of_waiting_warm_ups_needs_no_worker(ledger: Ledger) -> None:
    """A worker need not stay for a job that waits for another one; a tick sends one when that has ended. Who cancels
    it need not wait."""
    pull = ledger.post("pull", "llama3.2:latest", {"model": "llama3.2"}, by="test").job.id
    warm = ledger.post("warm", "llama3.2:latest", {"model": "llama3.2"}, by="test").job.id
    assert ledger.sweep().open_lanes == {"weights"}
    assert ledger.cancel(warm, by="test").state is JobState.CANCELLED
    assert ledger.cancel(pull, by="test").has_ended


def test_the_latest_job_of_a_line_is_found_behind_an_old_pointer(ledger: Ledger, store: Store) -> None:
    """The newest job of a kind about a model is told, though the pointer to it could not be moved."""
    assert ledger.reader.latest("pull", "llama3.2:latest") is None
    first = post(ledger)
    key = "live/pull/llama3.2:latest"
    pointer = store.facts.get(key)
    ledger.cancel(first, by="test")
    second = post(ledger)
    if pointer is not None:
        store.facts.put(key, pointer)
    latest = ledger.reader.latest("pull", "llama3.2:latest")
    assert latest is not None
    assert latest.id == second


def test_a_look_tells_what_a_reading_tells(ledger: Ledger, clock: HandClock) -> None:
    """Whoever follows a job and looks at it after each move knows as much as who reads all of it each time."""
    id = post(ledger)
    seen = [ledger.reader.get(id)]

    def look_after(move: Callable[[], object]) -> None:
        move()
        seen.append(ledger.reader.look(seen[-1]))
        assert seen[-1] == ledger.reader.get(id)

    for ending in (Ending("retry", "network", "cut", not_before=clock.now()), Ending("cancelled")):
        claim = claimed(ledger, id)
        look_after(lambda: None)
        for done in (1, 2):
            clock.tick(3)
            look_after(lambda claim=claim, done=done: ledger.beat(claim, Reading(done, 10, 5.0, "pulling")))  # type: ignore[misc]
        if ending.outcome == "cancelled":
            look_after(lambda: ledger.cancel(id, by="me"))
        look_after(lambda claim=claim, ending=ending: ledger.end(claim, ending, Reading(3, 10)))  # type: ignore[misc]
    assert [job.state for job in seen][-1] is JobState.CANCELLED


# -- several posts at once


def test_several_are_posted_as_each_by_itself(store: Store) -> None:
    """Of several posts those that are new are queued in their order; one whose subject has a live job attaches to it,
    one that comes twice to itself, and one whose last job has ended is the next of its line."""
    ledger = store.ledger()
    alive = ledger.post("pull", "alive:latest", {"model": "alive"}, by="test").job
    ended = ended_job(store, "ended:latest")
    store.empty_queue()
    subjects = ["b:latest", "alive:latest", "a:latest", "ended:latest", "b:latest"]

    posted = ledger.post_all([("pull", subject, {"model": subject}) for subject in subjects], by="night")

    assert [each.attached for each in posted] == [False, True, False, False, True]
    assert [each.job.subject for each in posted] == subjects
    assert posted[1].job.id == alive.id
    assert posted[3].job.id == ended.id.replace("-1", "-2")
    assert posted[4].job.id == posted[0].job.id
    waiting = [ledger.next_id("weights", timedelta()) for _ in range(3)]
    assert waiting == [posted[index].job.id for index in (0, 2, 3)]
    for each in posted:
        assert ledger.reader.get(each.job.id) == each.job
    assert all(ledger.claim(id, worker="w", lease=timedelta(minutes=1)) for id in waiting if id)


def test_a_queue_that_takes_none_of_several_loses_none(store: Store) -> None:
    """What the queue had no room for is put in by a sweep, when it has."""
    wanted = [("pull", f"m{number}:latest", {"model": f"m{number}"}) for number in range(3)]
    away = While(lambda doing: doing == "enqueue", StoreTrouble("away"))
    away.begin()
    posted = Ledger(TroubledQueue(store.queue, away), store.facts, store.clock).post_all(wanted, by="night")
    assert sorted(store.ledger().sweep().enqueued) == sorted(each.job.id for each in posted)


def test_a_kind_that_nobody_knows_posts_none_of_several(store: Store) -> None:
    """One wrong kind among several is refused before any is posted."""
    ledger = store.ledger()
    with pytest.raises(BadRequest):
        ledger.post_all([("pull", "a:latest", {"model": "a"}), ("polish", "b:latest", {})], by="night")
    assert ledger.reader.jobs() == []
