"""What the commands that list ask for, counted, at N jobs that have ended and at 2N: on one machine in the steps of
SQLite, over a deployment's stores in round trips and in what they stream.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from shutil import copytree
from typing import Self

import modal
import pytest
from typer.testing import CliRunner

import app.jobs
import app.local.main  # brings the commands of one machine
from app.accounting.archiving import ArchiveThread
from app.accounting.spending import estimate
from app.accounting.window_cost import offers
from app.deployment import functions_with_secrets
from app.deployment.batches import functions as batch_functions
from app.deployment.modal_cli import list_jobs_of
from app.deployment.status import status
from app.fleet.schema import load
from jobs.access.audit import PostedAct, record_posted
from jobs.archive.archived import AFTER
from jobs.archive.audited import AuditQuery, no_archive, page
from jobs.cli.completion import job_ids
from jobs.cli.job_commands import JobCommands
from jobs.cli.main import app as command_line
from jobs.core.clock import SystemClock
from jobs.core.progress import Reading
from jobs.home.home import VARIABLE, Home
from jobs.ledger.expiry import clearing
from jobs.ledger.job import Ending
from jobs.ledger.kinds import KINDS, with_commands
from jobs.ledger.ledger import Ledger
from jobs.listing.dead_memory import known_jobs, look_and_remember, of_last_night
from jobs.listing.recent_jobs import RECENT
from jobs.store import keys
from jobs.telemetry.nightly_report import OF_NIGHTS, NightJob, Ran, report
from jobs.telemetry.usage import UsageRecorder, Use
from jobs.testing.clock import HandClock
from tests.support.counting_sqlite import steps_of
from tests.support.counting_stores import CountingStore, Trips
from tests.support.past_jobs import write_past
from tests.support.stores import open_store

N = 400
FLEET = load()
ONE_OF_ITS_MODEL = N - 50
SPARE = 1.15
"""A B-tree that is one page deeper."""


# -- one machine -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PastHome:
    """A home with so many jobs that ended within days, a few of which failed, and as many that are older."""

    home: Home
    ids: Sequence[str]

    @classmethod
    def written(cls, root: Path, ended: int, ago: timedelta = timedelta(0), *, is_checked: bool) -> Self:
        """So long ago; `is_checked` is one for which a running `up` has looked for alerts, as it does every few
        minutes."""
        home = Home(root)
        home.prepare()
        path, now = root / "ledger.sqlite", datetime.now(UTC) - ago
        write_past(path, ended, now - AFTER, models="old", failed_each=0)
        write_past(path, 5, now - timedelta(minutes=20), models="broken", failed_each=1)
        ids = write_past(path, ended, now - timedelta(minutes=5), failed_each=0)
        night = Ran(now - timedelta(days=1), now - timedelta(days=1), (NightJob(ids[0], "pull", "m", "why"),))
        with closing(open_store(path, SystemClock())) as store:
            store.facts.put(keys.NIGHT_RAN, night.as_json())
            ledger = store.ledger()
            ledger.index_all(ledger.reader.jobs())
            acts = [PostedAct("pull", f"m{number}:latest", id, attached=False) for number, id in enumerate(ids)]
            record_posted(store.facts, now - timedelta(minutes=5), who="alice", request="test", posted=acts)
            if is_checked:
                for _ in clearing(store.facts, now):
                    pass
                look_and_remember(ledger.reader, store.facts, now)
        return cls(home, ids)

    def copied(self, root: Path) -> Self:
        """The same in another place, for one test."""
        return replace(self, home=Home(copytree(self.home.root, root)))


Work = Callable[[PastHome], object]


def typed(*words: str) -> Work:
    def work(_: PastHome) -> None:
        done = CliRunner().invoke(command_line, list(words))
        assert done.exit_code == 0, done.output

    return work


def start_workers(past: PastHome) -> None:
    """As `up` does before it works."""
    ledger = past.home.ledger(SystemClock())
    ledger.sweep(no_worker_lives=True)
    ledger.index_missing()


def job_of(cut: int | None) -> Work:
    return lambda past: typed("job", past.ids[ONE_OF_ITS_MODEL][:cut])(past)


FLAT: dict[str, Work] = {
    "jobs --state": typed("jobs", "--state", "succeeded"),
    "jobs --state running": typed("jobs", "--state", "running"),
    "jobs": typed("jobs"),
    "jobs --since": typed("jobs", "--since", "30d"),
    "jobs --kind": typed("jobs", "--kind", "pull"),
    "jobs --dead": typed("jobs", "--dead"),
    "job ID": job_of(None),
    "job ID, cut short": job_of(-3),
    "night": typed("night"),
    "cost": typed("cost"),
    "audit": typed("audit"),
    "audit --act": typed("audit", "--act", "pull"),
    "keys list": typed("keys", "list"),
    "cold": typed("cold"),
    "windows --suggest": typed("windows", "--suggest"),
    "completion": lambda _: job_ids("x"),
    "status": typed("status"),
    "up": start_workers,
}
"""What costs the same, however many jobs have ended, whether `up` runs or has ended days ago."""

LINEAR: dict[str, tuple[Work, str]] = {
    "audit --limit 0": (typed("audit", "--limit", "0"), "it shows each"),
    "jobs --limit 0": (typed("jobs", "--limit", "0"), "it shows each"),
    "jobs --since --limit 0": (typed("jobs", "--since", "30d", "--limit", "0"), "it shows each"),
    "jobs --state failed": (
        typed("jobs", "--state", "failed"),
        "fewer than a page, so others are looked at for another: ten thousand at most",
    ),
}
"""What grows with the jobs of the last days, no faster than they do, and why it does."""

ELSEWHERE = {
    **dict.fromkeys(("pull", "verify", "delete", "prune", "rollback", "warm"), "posts: `post` in test_round_trips.py"),
    **dict.fromkeys(("cancel", "dismiss"), "`job ID`, and a write or two"),
    "retry": "`retry` and `retry_delete` in test_round_trips.py; `--all`: `jobs --dead`, and a post for each",
    **dict.fromkeys(("models", "show", "ps", "run", "route"), "read no jobs, but models: test_model_files.py"),
    "plan": "asks the gateway; else it is what a night does",
    **dict.fromkeys(("batch", "batches"), "read batches, and of jobs the open ones: test_batch_store.py"),
    **dict.fromkeys(("keys", "help"), "reads no ledger"),
}
"""What is counted in another file, or follows from what is."""


def test_each_command_is_counted() -> None:
    """Every command has a row above, or a line that says where it is counted."""
    commands = {
        each.name or (each.callback and each.callback.__name__) or ""
        for each in command_line.registered_commands
        if not each.hidden
    }
    commands |= {each.name for each in command_line.registered_groups if each.name}
    rows = {what.split()[0] for what in (*FLAT, *LINEAR)} - {"completion"}
    assert commands == rows | ELSEWHERE.keys()


PastOf = Callable[[int, timedelta | None], PastHome]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> PastOf:
    """Each past is written once, and nobody asks it anything: who does asks a copy."""

    @cache
    def past_of(ended: int, up_ended: timedelta | None) -> PastHome:
        root = tmp_path_factory.mktemp("past") / "home"
        return PastHome.written(root, ended, up_ended or timedelta(0), is_checked=up_ended is not None)

    return past_of


@pytest.fixture
def past_of(tmp_path: Path, written: PastOf, monkeypatch: pytest.MonkeyPatch) -> PastOf:
    """A past for this test alone, in the home that commands ask from now on."""

    def past_of(ended: int, up_ended: timedelta | None) -> PastHome:
        past = written(ended, up_ended).copied(tmp_path / str(ended))
        monkeypatch.setenv(VARIABLE, str(past.home.root))
        return past

    return past_of


@pytest.fixture
def counted(past_of: PastOf) -> Callable[[Work, timedelta | None], list[int]]:
    def counts(work: Work, up_ended: timedelta | None) -> list[int]:
        return [steps_of(partial(work, past_of(ended, up_ended))) for ended in (N, 2 * N)]

    return counts


@pytest.mark.parametrize("up_ended", [timedelta(0), timedelta(days=3)], ids=["with up", "without up"])
@pytest.mark.parametrize("what", FLAT)
def test_a_command_costs_the_same_whatever_the_past(
    what: str, up_ended: timedelta, counted: Callable[[Work, timedelta | None], list[int]]
) -> None:
    """A command that shows a page, or one job, reads no more with twice as many jobs that have ended."""
    once, twice = counted(FLAT[what], up_ended)
    assert 0 < twice <= SPARE * once, (once, twice)


@pytest.mark.parametrize("what", ["status", "jobs --dead"])
def test_what_needs_somebody_is_known_without_a_fleet(what: str, past_of: PastOf) -> None:
    """Where no check for alerts ever came, since `up` had no fleet, who archives has left how the jobs stand."""
    counts = []
    for ended in (N, 2 * N):
        past = past_of(ended, None)
        ArchiveThread(past.home, HandClock(datetime.now(UTC))).run_once()
        counts.append(steps_of(partial(FLAT[what], past)))
    once, twice = counts
    assert 0 < twice <= SPARE * once, (once, twice)


@pytest.mark.parametrize("what", LINEAR)
def test_a_command_about_all_jobs_grows_as_they_do(
    what: str, counted: Callable[[Work, timedelta | None], list[int]]
) -> None:
    """A command that cannot but look at all jobs takes at most twice as much for twice as many."""
    work, why = LINEAR[what]
    once, twice = counted(work, None)
    assert once < twice <= 2 * SPARE * once, (once, twice, why)


# -- a deployment ------------------------------------------------------------------------------------------------------


class Deployed:
    """The stores of a deployment with so many jobs that have ended, and the commands of `app.jobs` over them."""

    def __init__(self, clock: HandClock, store: CountingStore, ids: Sequence[str]) -> None:
        self.clock, self.store, self.ids = clock, store, ids
        ledger = Ledger(store.queue, store.facts, clock)
        self.reader = ledger.reader
        self.commands = JobCommands(
            ledger,
            clock,
            is_worked=lambda: True,
            idle=("", ""),
            log="",
            dead=lambda: known_jobs(ledger.reader, clock.now()).dead,
            listed=partial(list_jobs_of, ledger.reader, clock, lambda _: ()),
        )

    @classmethod
    def written(cls, ended: int) -> Self:
        clock = HandClock()
        store = CountingStore(clock)
        for number in range(ended):
            use = UsageRecorder(store.facts, clock, f"gateway-{number}")
            use.add(Use(clock.now(), "m1:latest", "key", "a10g", "success"))
            use.flush()
        ledger = Ledger(store.queue, store.facts, clock)
        ledger.sweep()
        ids = [_ended(ledger, clock, number) for number in range(ended)]
        look_and_remember(ledger.reader, store.facts, clock.now())  # as the last tick did
        for key in list(store.facts.keys(keys.CHANGED)):  # as the archive does
            store.facts.pop(key)
        acts = [PostedAct("pull", "m:latest", id, attached=False) for id in ids]
        record_posted(store.facts, clock.now(), who="alice", request="test", posted=acts)
        clock.tick(300)
        return cls(clock, store, ids)

    def copied(self) -> Self:
        """The same for one test."""
        clock = HandClock(self.clock.now())
        return type(self)(clock, self.store.copied(clock), self.ids)

    def counted(self, work: "Look") -> Trips:
        self.store.trips.begin()
        work(self)
        return self.store.trips


def _ended(ledger: Ledger, clock: HandClock, number: int) -> str:
    model = f"m{number}"
    id = ledger.post("pull", f"{model}:latest", {"model": model}, by="test").job.id
    claim = ledger.claim(id, worker="w", lease=timedelta(minutes=5))
    assert claim is not None
    ledger.end(claim, Ending("failed", "network", "cut") if number < 3 else Ending("succeeded"), Reading())
    clock.tick(3_700)
    return id


Look = Callable[[Deployed], object]


def listing(**chosen: object) -> Look:
    return lambda at: at.commands.list_jobs(**chosen, json=True)  # type: ignore[arg-type]


def look_at_night(at: Deployed) -> None:
    known = known_jobs(at.reader, at.clock.now())
    report(dict(at.store.facts.items(*OF_NIGHTS)), of_last_night(at.reader, known))


def look_at_audit(at: Deployed) -> None:
    query = AuditQuery(at.clock.now() - timedelta(days=4), limit=50)
    assert page(at.store.facts, no_archive, query, at.clock.now()).lines


def look_at_status(at: Deployed) -> None:
    known = known_jobs(at.reader, at.clock.now())
    of_night = of_last_night(at.reader, known)
    status(at.store.facts, at.clock.now(), FLEET.tiers, deployed=True, known=known, of_night=of_night)


def look_at_cost(at: Deployed) -> None:
    began = at.clock.now() - timedelta(days=365)
    assert estimate(dict(at.store.facts.items(*keys.SORTS["usage"])), FLEET, began, at.clock.now()).as_json()


def look_at_windows(at: Deployed) -> None:
    assert not offers(FLEET, dict(at.store.facts.items(*keys.SORTS["usage"])), at.clock.now())


LOOKS: dict[str, tuple[Look, int, str]] = {
    "jobs": (listing(), 2, ""),
    "jobs --state running": (listing(state="running"), 2, ""),
    "jobs --state failed": (
        listing(state="failed"),
        3,
        "fewer than a page among the newest: for others all are listed, and Modal lists a Dict whole",
    ),
    "jobs --limit 0": (listing(limit=0), 3, "it shows each"),
    "jobs --since": (listing(since="90d"), 3, "it shows each"),
    "jobs --dead": (listing(dead=True), 3, ""),
    "job ID": (lambda at: at.commands.show_job(at.ids[0], follow=False, json=True), 8, ""),
    "job ID, cut short": (
        lambda at: at.commands.show_job(at.ids[0][:-3], follow=False, json=True),
        9,
        "what begins so is found in a listing of the keys",
    ),
    "night": (look_at_night, 4, ""),
    "audit": (look_at_audit, 1, "Modal lists a Dict whole; of this one some days' lines"),
    "status": (look_at_status, 6, ""),
    "cost": (look_at_cost, 1, "it is the sum of what each gateway wrote down on each day"),
    "windows": (look_at_windows, 1, "as `cost`: the starts that containers wrote down"),
}
"""The round trips of each, at most; where what they stream grows with the jobs of the last days, why."""

_ONE_LISTING = "all jobs of five days once, by a container that somebody asks for:"
ELSEWHERE_DEPLOYED = {
    **dict.fromkeys(with_commands(KINDS), "posts: `post` in test_round_trips.py"),
    "retry": "`retry` and `retry_delete` in test_round_trips.py; with `--all` after a look at the dead letters",
    **dict.fromkeys(("cancel", "dismiss"), "`job ID`, and a write or two"),
    **dict.fromkeys(("models", "list_models"), "read no jobs, but models: test_model_files.py"),
    **dict.fromkeys(("plan", "plan_night"), f"{_ONE_LISTING} a night in test_round_trips.py, which posts nothing"),
    "plan_prune": f"{_ONE_LISTING} `recall` in test_folds.py",
    "names_here": "reads no jobs, but names: test_known_names.py",
    "archived_jobs": "what `--since` asks for, of the archive: tests/jobs/archive",
    "archived_audit": "what `audit` asks for, of the archive: tests/jobs/archive/test_audited.py",
    "archived_usage": "the archive of usage is folded once for `cost` and `windows`: test_folds.py",
    "read_fleet": "reads a file",
    "tick": "`tick` in test_round_trips.py",
    "nightly": "`nights` in test_round_trips.py",
    "weights_worker": "claims, beats and ends in test_round_trips.py, publishing in test_file_operations.py; after its "
    "work two listings of all jobs, which finds what is to be archived",
    **dict.fromkeys(("servers_worker", "batches_worker"), "claims, beats and ends in test_round_trips.py"),
    "deliver_alerts": "lists the incidents, none of the jobs",
    **dict.fromkeys(("batch", "batches"), "read batches, and of jobs the open ones: test_batch_store.py"),
}
"""Of the entry points and Functions, what is counted in another file, or follows from what is."""


def test_each_entry_point_is_counted() -> None:
    """Whatever `modal run` or a schedule can call has a row above, or a line that says where it is counted."""
    rows = {what.split()[0] for what in LOOKS}
    places = [*vars(app.jobs).items(), *vars(functions_with_secrets).items(), *vars(batch_functions).items()]
    told = {name for name, value in places if isinstance(value, (modal.app.LocalEntrypoint, modal.Function))}
    assert told == rows | ELSEWHERE_DEPLOYED.keys()
    assert not rows & ELSEWHERE_DEPLOYED.keys()


@pytest.fixture(scope="module")
def deployed() -> tuple[Deployed, Deployed]:
    """With jobs, and with twice as many: written once, and nobody asks them anything; who does asks a copy."""
    return Deployed.written(RECENT + 20), Deployed.written(2 * (RECENT + 20))


@pytest.mark.parametrize("what", LOOKS)
def test_a_command_of_a_deployment_keeps_to_its_budget(what: str, deployed: tuple[Deployed, Deployed]) -> None:
    """A command makes no more round trips than its budget says, whatever the past; what it streams is no more than
    before, or grows as the jobs do for the reason that is given."""
    work, most, why = LOOKS[what]
    (few, streamed), (many, streamed_more) = (
        (len(trips.asked), trips.listed) for trips in (each.copied().counted(work) for each in deployed)
    )
    assert few == many <= most, (few, many)
    assert streamed < streamed_more <= 2 * SPARE * streamed if why else streamed == streamed_more
