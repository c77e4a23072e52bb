"""The promises of the ledger in every order of steps: `python -m tests.support.ledger_proof`, or `scripts/prove`.

Posters, workers, sweepers and a canceller run the real `Ledger` on one store, an operation of the store a step (see
`tests.support.exhaustive`). Beside the ledger's facts the store has, for each job, who owns its staging folder: a claim
takes it, a sweep takes it away before it gives an attempt up, and only who has it can publish.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, TypeVar

from jobs.core.errors import Fenced, NotFound, StoreTrouble
from jobs.core.progress import Reading
from jobs.ledger.attempts import Claim
from jobs.ledger.job import Ending, IllegalMove, Job, JobState, Outcome
from jobs.ledger.kinds import KINDS
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.testing.clock import HandClock
from tests.support.exhaustive import Scenario, Search
from tests.support.exhaustive import quiet as without_log_lines
from tests.support.exhaustive_programs import (
    BEGIN,
    PASSES,
    Actor,
    Entries,
    NoQueue,
    Operation,
    Phase,
    View,
    Violation,
)

LEASE = PASSES / 2
ALLOWED = 2
SUBJECT = "m:latest"
LINE = "line"
STAGING, PUBLISHED, DONE = "staging/", "published/", "done/"
CANCEL = "cancel"
LATER = 500 * PASSES
ONCE = tuple(each.pattern.partition("<")[0] for each in keys.TABLE if each.is_once)

OpenLedger = Callable[[View], Ledger]
T = TypeVar("T")


def real_ledger(view: View) -> Ledger:
    return Ledger(view.queue, view.facts, view.clock)


# -- who shares the store ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Poster:
    """Posts, and again after it was told of the first one; who gets no answer asks again."""

    open: OpenLedger
    posts: int
    together: bool = False
    """As those that come with others."""
    kind: str = "pull"

    def phase(self, left: int) -> Phase:
        return Phase(("post", left, self.together), partial(self._run, left))

    def _run(self, left: int, view: View) -> Phase | None:
        ledger, request = self.open(view), (self.kind, SUBJECT, {"model": SUBJECT})
        if self.together:
            (posted,) = _until_answered(lambda: ledger.post_all([request], by="p", attempts=ALLOWED))
        else:
            posted = _until_answered(lambda: ledger.post(*request, by="p", attempts=ALLOWED))
        view.ask("check", "posted", posted.job.id)
        return self.phase(left - 1) if left > 1 else None


@dataclass(frozen=True)
class Worker:
    """Claims the job, beats, publishes and ends the attempt in any of the ways there are; then once more."""

    open: OpenLedger
    id: str
    times: int
    ends_cancelled: bool = False
    """Of a kind that a worker alone ends: claims early, finishes what is cancelled, and puts off what is not."""

    def phase(self, left: int) -> Phase:
        return Phase(("claim", left), partial(self._claim, left))

    def _claim(self, left: int, view: View) -> Phase | None:
        ledger, token = self.open(view), view.token()
        early = self.ends_cancelled
        claim = _until_answered(lambda: ledger.claim(self.id, worker=view.name, lease=LEASE, token=token, early=early))
        again = self.phase(left - 1) if left > 1 else None
        if claim is None:
            return again
        return Phase(("hold", left, claim.n, claim.token, str(claim.held_until)), partial(self._hold, claim, again))

    def _hold(self, claim: Claim, again: Phase | None, view: View) -> Phase | None:
        # A claim of its own: to beat changes it, and this is run again from the beginning.
        claim = Claim(claim.job, claim.n, claim.token, claim.lease, claim.held_until, claim.held_for)
        ledger, me = self.open(view), f"{claim.n} of {claim.token}"
        try:
            view.ask("do", "stage", self.id, me)
            is_cancelled = _until_answered(lambda: ledger.beat(claim, Reading()))
            if not is_cancelled or self.ends_cancelled:
                view.ask("do", "publish", self.id, claim.n, me)
            ways = ("succeeded", "failed", "retry") if claim.n < ALLOWED else ("succeeded", "failed")
            outcome: Outcome = "cancelled" if is_cancelled else view.choose(*ways)
            token = view.token()
            view.looks.clear()
            later = BEGIN + LATER if self.ends_cancelled and outcome == "retry" else None
            _until_answered(lambda: ledger.end(claim, Ending(outcome, not_before=later), Reading(), token=token))
        except Fenced:
            return again
        if BEGIN + timedelta(seconds=view.looks[0]) > claim.held_until:
            raise Violation(f"P4: {me} saw that its lease had run out, and ended its attempt")
        view.ask("check", "ended", self.id, claim.n, token)
        if self.ends_cancelled:
            view.ask("do", "done", self.id, f"{claim.n}")
        return again


@dataclass(frozen=True)
class Sweeper:
    open: OpenLedger
    times: int

    def phase(self, left: int) -> Phase:
        return Phase(("sweep", left), partial(self._run, left))

    def _run(self, left: int, view: View) -> Phase | None:
        with suppress(StoreTrouble):  # the next sweep goes on
            self.open(view).sweep(lambda job: view.ask("do", "take", job.id))
        return self.phase(left - 1) if left > 1 else None


@dataclass(frozen=True)
class Canceller:
    open: OpenLedger
    id: str
    tells: bool = False

    def phase(self) -> Phase:
        return Phase(("cancel",), self._run)

    def _run(self, view: View) -> None:
        ledger = self.open(view)
        try:
            _until_answered(lambda: ledger.cancel(self.id, by="c"))
        except NotFound:
            return
        if self.tells:
            view.ask("do", "done", self.id, CANCEL)


def _until_answered(ask: Callable[[], T]) -> T:
    while True:
        try:
            return ask()
        except StoreTrouble:
            continue


# -- what is theirs beside the ledger ----------------------------------------------------------------------------------


def do(entries: Entries, operation: Operation) -> tuple[Mapping[str, str | None], Any]:
    """The staging folder and what is published, each in one step, as a file system renames; and what actors were told.

    Raises:
        Violation: an actor did or was told what nobody may.

    """
    match operation[1:]:
        case ("stage", id, me):
            return {STAGING + id: me}, None
        case ("take", id):
            return {STAGING + id: None}, None
        case ("publish", id, n, me):
            if entries.get(STAGING + id) != me:
                return {}, False
            if keys.end(id, n) in entries:
                raise Violation(f"P4: attempt {n} of {id} was ended, and {me} publishes")
            published = entries.get(PUBLISHED + f"{id}/{n}")
            if published not in {None, me}:
                raise Violation(f"P3: attempt {n} of {id} is published by {published}, and by {me}")
            return {PUBLISHED + f"{id}/{n}": me}, True
        case ("done", id, what):
            _check_due({**entries, DONE + what: ""}, id)
            return {DONE + what: ""}, None
        case ("posted", id):
            if keys.job(id) not in entries:
                raise Violation(f"P1: {id} was told to its poster, and is not there")
        case ("ended", id, n, token):
            if json.loads(entries[keys.end(id, n)])["token"] != token:
                raise Violation(f"P3: attempt {n} of {id} has two ends: {token} was told that it ended it")
        case _:
            raise ValueError(operation)
    return {}, None


def _check_due(entries: Entries, id: str) -> None:
    """Once both are at their ends who asked to cancel a job and who ended its last attempt, it waits for nothing."""
    job = Ledger(NoQueue(), _Plain(_facts(entries)), HandClock(BEGIN)).reader.get(id)
    told = DONE + CANCEL in entries and DONE + str(len(job.attempts)) in entries
    entry = json.loads(entries.get(keys.open(id), "null"))
    if told and job.state is JobState.WAITING and (entry is None or entry["not_before"] is not None):
        raise Violation(f"{id} is to be cancelled, and waits until later: {entry}")


# -- what holds in each state ------------------------------------------------------------------------------------------


class Promises:
    """P1 to P4, wherever everybody dies."""

    _known_to_end: ClassVar[set[frozenset[tuple[str, str]]]] = set()
    """The facts from which every job comes to its end; in all scenarios, because it is the real ledger that brings it
    there."""

    def check(self, entries: Entries) -> None:
        facts = _facts(entries)
        jobs = _jobs(facts)
        self._check_jobs(jobs)
        about = frozenset(entry for entry in facts.items() if not entry[0].startswith(keys.BEAT))
        if about not in self._known_to_end:  # a beat only moves the time from which on an attempt is given up
            try:
                self._check_end(facts)
            except IllegalMove as illegal:
                raise Violation(f"P3: {illegal}") from None
            self._known_to_end.add(about)

    def _check_jobs(self, jobs: list[Job]) -> None:
        alive = [job.id for job in jobs if not job.has_ended]
        if len(alive) > 1:
            raise Violation(f"P2: {' and '.join(alive)} are both alive")
        for job in jobs:
            if len(job.attempts) > job.attempts_allowed:
                raise Violation(f"P3: {job.id} has {len(job.attempts)} attempts of {job.attempts_allowed}")

    def _check_end(self, facts: Entries) -> None:
        """All die here and the queue is lost; sweeps that come later, and a worker, bring every job to its end."""
        clock, queue = HandClock(BEGIN), _Recorded()
        clock.tick(1000 * PASSES.total_seconds())
        ledger = Ledger(queue, _Plain(facts), clock)
        before = {job.id: job for job in ledger.reader.jobs()}
        for _ in range(ALLOWED + 1):
            ledger.sweep()
            for id in queue.ids:
                claim = ledger.claim(id, worker="last", lease=LEASE)
                if claim is not None:
                    ledger.end(claim, Ending("succeeded"), Reading())
            clock.tick(PASSES.total_seconds())
        after = {job.id: job for job in ledger.reader.jobs()}
        for id, job in before.items():
            if id not in after or not after[id].has_ended:
                raise Violation(f"P1: {id} never ends")
            if job.has_ended and after[id] != job:
                raise Violation(f"P3: {id} had ended {job.state}, and is {after[id].state}")


def _facts(entries: Entries) -> Entries:
    """What is the ledger's."""
    return {key: text for key, text in entries.items() if not key.startswith((STAGING, PUBLISHED, DONE))}


def _jobs(facts: Entries) -> list[Job]:
    try:
        return Ledger(NoQueue(), _Plain(facts), HandClock(BEGIN)).reader.jobs()
    except IllegalMove as illegal:
        raise Violation(f"P3: {illegal}") from None


class _Plain:
    """A dict without steps."""

    def __init__(self, entries: Entries) -> None:
        self._entries = {key: json.loads(text) for key, text in entries.items()}

    def put(self, key: str, value: Any, *, skip_if_exists: bool = False) -> bool:
        if skip_if_exists and key in self._entries:
            return False
        self._entries[key] = value
        return True

    def pop(self, key: str, default: Any = None) -> Any:
        return self._entries.pop(key, default)

    def remove_all(self, keys: Iterable[str], /) -> int:
        return sum(self.pop(key) is not None for key in keys)

    def update(self, other: Mapping[str, Any], /) -> None:
        self._entries.update(other)

    def get(self, key: str, default: Any = None) -> Any:
        return self._entries.get(key, default)

    def keys(self, *prefixes: str) -> Iterator[str]:
        return iter([key for key in self._entries if key.startswith(prefixes or ("",))])

    def items(self, *prefixes: str) -> Iterator[tuple[str, Any]]:
        return iter([entry for entry in self._entries.items() if entry[0].startswith(prefixes or ("",))])


class _Recorded(NoQueue):
    """A queue of which it is known what was put in."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def put(self, v: Any, block: bool = True, *, partition: str | None = None) -> None:
        self.ids.append(v)

    def put_many(self, vs: list[Any], block: bool = True, *, partition: str | None = None) -> None:
        self.ids.extend(vs)


# -- the scenarios -----------------------------------------------------------------------------------------------------

BY_ALL = (keys.OPEN, keys.LIVE, keys.CHANGED)
BY_WORKER = (keys.CLAIM, keys.BEAT, keys.END, *BY_ALL)
BY_OTHERS = {
    "poster": (keys.JOB, *BY_ALL),
    "sweeper": (keys.CLAIM, keys.END, *BY_ALL),
    "canceller": (keys.CANCEL, keys.CLAIM, keys.END, *BY_ALL),
}


def scenario(
    *,
    workers: int,
    sweepers: int,
    posts: int = 1,
    times: int = 1,
    moments: int = 1,
    lost_replies: int = 1,
    together: bool = False,
    kind: str = "pull",
    ledger: OpenLedger = real_ledger,
    once: tuple[str, ...] = ONCE,
) -> Scenario:
    """So many workers and sweepers, a poster and a canceller, from an empty ledger on; with `together` one more poster,
    who posts several at once. Of a kind that workers alone end they finish what is cancelled.
    """
    id, is_theirs = f"{LINE}-1", KINDS[kind].ended_by_worker
    posters = {"poster": False} | ({"poster of several": True} if together else {})
    actors = [
        *(
            Actor(who, Poster(ledger, posts, many, kind).phase(posts), BY_OTHERS["poster"])
            for who, many in posters.items()
        ),
        Actor("canceller", Canceller(ledger, id, is_theirs).phase(), BY_OTHERS["canceller"]),
        *(Actor(f"worker {i}", Worker(ledger, id, times, is_theirs).phase(times), BY_WORKER) for i in range(workers)),
        *(Actor(f"sweeper {i}", Sweeper(ledger, times).phase(times), BY_OTHERS["sweeper"]) for i in range(sweepers)),
    ]
    pointer = {"v": 1, "line": LINE, "generation": 1}
    return Scenario(
        actors=tuple(actors),
        store={keys.live(kind, SUBJECT): pointer, keys.OPEN_COMPLETE: {"v": 1}},
        once=once,
        check=Promises().check,
        do=do,
        moments=moments,
        lost_replies=lost_replies,
    )


def searches() -> Iterator[tuple[str, Scenario, int | None]]:
    """What is told of each, the scenario, and in how many switches (None: all orders, shallow ones first)."""
    crowd = "3 workers, 2 sweepers, a poster, a canceller"
    yield f"all orders of {crowd}", scenario(workers=3, sweepers=2, posts=2), None
    yield f"to the end, 1 switch in the midst of work: {crowd}", scenario(workers=3, sweepers=2, posts=2), 1
    posters = "2 posters, one of several at once"
    both = scenario(workers=1, sweepers=1, posts=2, together=True)
    yield f"to the end, 1 switch in the midst of work: {posters}, a worker, a sweeper, a canceller", both, 1
    few = "a worker twice, a sweeper, a poster, a canceller"
    yield f"to the end, 2 switches: {few}", scenario(workers=1, sweepers=1, times=2), 2
    yield f"to the end, 2 switches, ended by a worker: {few}", scenario(workers=1, sweepers=1, times=2, kind="batch"), 2


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/prove", description=__doc__)
    parser.add_argument("--states", type=int, default=1_000_000, help="for each search, to end it with")
    chosen = parser.parse_args(arguments)
    print(f"{'states':>10}  {'ends':>7}  {'steps':>10}  {'depth':>5}  {'all?':<4}  {'seconds':>7}  search")
    with without_log_lines():
        for told, tried, switches in searches():
            try:
                found = Search(tried).run(states=chosen.states, switches=switches)
            except Violation as violation:
                print(f"{told}\n{violation}")
                return 1
            print(
                f"{found.states:>10,}  {found.ends:>7,}  {found.steps:>10,}  {found.depth:>5}"
                f"  {'yes' if found.is_complete else 'no':<4}  {found.seconds:>7.0f}  {told}",
                flush=True,
            )
    print("P1 to P4 hold in each of these states")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
