"""A month of a fleet, played in seconds: the real schedules, workers and tasks on a clock that is moved by hand.

Around them three things are played: the servers (`tests.support.month_servers`), the registry (the double that is
shipped), and the webhook (a list). `played` runs the month; `tests.support.month_report` tells it on one page, which
`scripts/month` prints.
"""

import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cronsim import CronSim

from app.accounting.spending import archived_usage, estimate
from app.accounting.window_cost import Offer, offers
from app.deployment import weights_worker as weights_lane
from app.deployment.servers_worker import Warming
from app.deployment.volume_queries import actual_from
from app.deployment.worker_process import timing
from app.fleet.file import read
from app.fleet.schema import Fleet, parse
from app.scheduler import alert_check, runs
from app.scheduler.night_plan import Actual, Night, night
from jobs.archive.archived import CASES, METERS, WAKES, archive_at, archived_facts, archived_jobs
from jobs.core.clock import Clock
from jobs.core.errors import Stalled
from jobs.core.model_name import ModelName
from jobs.core.retry import AT_ONCE, NEVER
from jobs.ledger.dead_letters import of_class
from jobs.ledger.job import Job
from jobs.ledger.kinds import WEIGHTS_LANE
from jobs.ledger.ledger import Ledger
from jobs.registry.client import Registry
from jobs.store.sqlite import SqliteDict, SqliteQueue
from jobs.tasks.context import TaskContext
from jobs.telemetry.incidents import Case, cases
from jobs.telemetry.usage import UsageRecorder, Use
from jobs.testing.clock import HandClock
from jobs.testing.models import SimModel, arbitrary
from jobs.testing.registry.faults import RegistryFault
from jobs.testing.registry.server import RegistryDouble
from jobs.weights.history import Memory, recall
from jobs.weights.survey import Survey
from jobs.worker.attempt import RunningAttempt
from jobs.worker.worker import Perform, Worker
from tests.support.month_servers import COLD, Servers
from tests.support.waiting import until

BEGIN = datetime(2026, 10, 5, 10, tzinfo=UTC)
DAYS = 30
QUOTA = 500_000
ON_THE_VOLUME = {"llama3.2": 60_000, "deepseek-r1:32b": 90_000, "qwen3": 30_000, "gemma3": 40_000, "phi4": 50_000}


def fleet(tick_minutes: int) -> Fleet:
    """Windows on weekdays, over the nights that lead to Sundays, and one that its tier's budget forbids."""
    document = read()
    document["schedule"]["tick_minutes"] = tick_minutes
    document["tiers"]["h100"]["own_wakes_per_day"] = 1
    document["models"].append({"name": "qwen3", "tier": "a10g", "pinned": True})
    document["windows"] = [
        {"tier": "a10g", "start": "0 8 * * 1-5", "hours": 4, "models": ["llama3.2", "gemma3"]},
        {"tier": "h100", "start": "0 1 * * 0", "hours": 4, "models": ["deepseek-r1:32b"]},
        {"tier": "h100", "start": "0 12 17 10 *", "hours": 2, "models": ["deepseek-r1:32b"]},
    ]
    document["volume"]["retention"] = {"unused_days": 10, "trash_days": 7, "unfinished_hours": 72, "verify_days": 7}
    document["alerts"] |= {"webhook_secret": "ollama-webhook", "monthly_budget_dollars": 80}
    declared = parse(document, "the month's fleet")
    small = declared.volume.model_copy(update={"quota_gb": QUOTA / 1e9})  # models of some kilobytes fill no gigabytes
    return declared.model_copy(update={"volume": small})


class MonthClock(HandClock):
    """Whoever works moves the time; whoever only beats does not."""

    moved: Callable[[], object] = staticmethod(lambda: None)

    def wait(self, seconds: float, wake: threading.Event | None = None) -> bool:
        if wake is not None and threading.current_thread().name.startswith("beat-"):
            return wake.wait(5)
        self.tick(seconds)
        self.moved()
        return wake is not None and wake.is_set()


class ImpatientQueue(SqliteQueue):
    """The queue, for a worker that goes home when no id waits: the next tick sends another one."""

    goes_home: threading.Event

    def get(self, block: bool = True, timeout: float | None = None, *, partition: str | None = None) -> Any:
        id = super().get(block=False, partition=partition)
        if id is None:
            self.goes_home.set()
            raise queue.Empty
        return id


@dataclass
class Volume:
    """One that is a directory. What is committed to it bears the time of the month, not of the machine."""

    root: Path
    clock: Clock

    def commit(self) -> None:
        now = self.clock.now().timestamp()
        for path in self.root.rglob("*"):
            if path.is_file() and path.stat().st_mtime > now:
                os.utime(path, (now, now))

    def reload(self) -> None:
        pass


@dataclass
class NightSeen:
    """What `plan` printed before a night, and what was posted in it."""

    at: datetime
    planned: Night
    posted: list[Job]
    again: list[Job]


@dataclass
class Month:
    """All that is in the scene.

    Args:
        folder: the volume and the ledger.
        registry: what can be pulled.
        fleet: what should be.

    """

    folder: Path
    registry: RegistryDouble
    fleet: Fleet
    heard: list[str] = field(default_factory=list)
    nights: list[NightSeen] = field(default_factory=list)
    most_entries: int = 0
    offered: list[Offer] = field(default_factory=list)

    def __post_init__(self) -> None:
        path = self.folder / "ledger.sqlite"
        self.clock = MonthClock(BEGIN)
        self.facts = SqliteDict(path)
        self.queue = ImpatientQueue(path, clock=self.clock)
        self.ledger = Ledger(self.queue, self.facts, self.clock)
        self.root = self.folder / "models"
        self.root.mkdir()
        self.servers = Servers(self.facts, self.fleet, self.clock)
        self.clock.moved = self.servers.settle
        self.mounted = weights_lane.MountedWeights(Volume(self.root, self.clock), self.root, self.facts, self.clock)
        self.archive = archive_at(self.root)
        mirror = {"*": self.registry.url}
        self.asked_at_night = Registry(clock=self.clock, mirrors=mirror, requests=NEVER)
        self.asked_by_pulls = Registry(clock=self.clock, mirrors=mirror, requests=AT_ONCE, policy=AT_ONCE)
        self.post = runs.ScheduleContext(self.ledger, self.facts, self.fleet, self.clock, self._send_worker)
        self.webhook_hangs = False
        self.is_interrupted = False
        self.sleeps_through = False
        self._sent_lanes: list[str] = []
        self._news = False

    def close(self) -> None:
        self.queue.close()
        self.facts.close()

    # -- time ----------------------------------------------------------------------------------------------------------

    def play(self, script: list[tuple[datetime, Callable[["Month"], object]]]) -> None:
        self.mounted.open()
        self.offered = offers(self.fleet, {}, self.clock.now())
        pending = sorted(script, key=lambda scene: scene[0])
        zone, end = self.fleet.schedule.zone, BEGIN + timedelta(days=DAYS)
        while self.clock.now() < end:
            now = self.clock.now()
            tick = next(CronSim(self.fleet.schedule.times.tick, now)).astimezone(UTC)
            nightly = next(CronSim(self.fleet.schedule.times.nightly, now.astimezone(zone))).astimezone(UTC)
            self._move_to(min([tick, nightly, end, *(at for at, _ in pending[:1])]))
            while pending and pending[0][0] <= self.clock.now():
                pending.pop(0)[1](self)
            self.servers.report()
            if self.clock.now() == nightly and not self.sleeps_through:
                self._nightly()
            if self.clock.now() >= tick:
                self._tick()
            self._work()

    def _move_to(self, at: datetime) -> None:
        """Let the time pass, and stop wherever something happens by itself."""
        while (left := (at - self.clock.now()).total_seconds()) > 0:
            soon = self.servers.next_in
            self.clock.tick(left if soon is None else min(left, max(soon, 0.001)))
            self.servers.settle()

    # -- the schedules -------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        runs.tick(self.post, self._send_for_delivery, self.servers.keep, self._call_night)
        self.most_entries = max(self.most_entries, len(list(self.facts.keys())))
        if self._news:
            self._news = False
            alert_check.deliver(self.facts, self.clock, self._tell)

    def _call_night(self) -> None:
        """Whoever is sent for a night sleeps through as well."""
        if not self.sleeps_through:
            self._nightly()

    def _nightly(self) -> None:
        """The night, as `plan` tells it before, and once more."""
        jobs = self.ledger.reader.jobs()
        planned = night(self.fleet, self._actual(recall(self.facts, jobs), jobs), self.clock.now())
        posted = self._posted_by(lambda: runs.nightly(self.post, self._actual))
        again = self._posted_by(lambda: runs.nightly(self.post, self._actual))
        self.nights.append(NightSeen(self.clock.now(), planned, posted, again))

    def _posted_by(self, act: Callable[[], object]) -> list[Job]:
        before = set(self.ledger.reader.ids())
        act()
        return [self.ledger.reader.get(id) for id in set(self.ledger.reader.ids()) - before]

    def _actual(self, memory: Memory, jobs: Sequence[Job]) -> Actual:
        now, registry = self.clock.now(), self.asked_at_night
        return actual_from(self.survey(), jobs, self.facts, fleet=self.fleet, memory=memory, registry=registry, now=now)

    def survey(self) -> Survey:
        return self.mounted.weights.survey()

    def _send_worker(self, lane: str) -> None:
        if lane not in self._sent_lanes:
            self._sent_lanes.append(lane)

    def _send_for_delivery(self) -> None:
        self._news = True

    def _tell(self, text: str) -> None:
        if self.webhook_hangs:
            self.clock.wait(20)
            raise Stalled("the webhook has not answered for 8 s")
        self.heard.append(text.removeprefix("ollama-modal: "))

    # -- the workers ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._sent_lanes:
            lane = self._sent_lanes.pop(0)
            if lane == WEIGHTS_LANE:
                self._at_weights()
            else:
                self._worker(lane, self._warming().perform)

    def _at_weights(self) -> None:
        registry = self.asked_by_pulls
        with weights_lane.performing(
            self.ledger, self.facts, self.mounted, registry=registry, fleet=self.fleet, clock=self.clock
        ) as perform:
            self._worker(WEIGHTS_LANE, lambda run: self._perhaps_interrupted(run, perform))
        if self.is_interrupted and self.registry.counters()["served"]:
            self.registry.faults.clear()
            self.is_interrupted = False

    def _worker(self, lane: str, perform: Perform) -> None:
        self.queue.goes_home = threading.Event()
        patient = replace(timing(timedelta(hours=1)), grace=timedelta(hours=1))
        worker = Worker(self.ledger, lane, perform, clock=self.clock, concurrency=1, timing=patient)
        worker.run(self.queue.goes_home)

    def _perhaps_interrupted(self, run: RunningAttempt, perform: Perform) -> Any:
        """The container of a pull is taken away while bytes move, when a scene wants it."""
        if self.is_interrupted and run.job.kind == "pull":
            self.registry.faults.add(RegistryFault("cdn", "hang", value=1000, times=None))
            self.registry.reset()
            threading.Thread(target=self._interrupt, args=(self.queue.goes_home,), daemon=True).start()
        return perform(run)

    def _interrupt(self, taken_away: threading.Event) -> None:
        until(lambda: self.registry.counters()["served"])
        taken_away.set()

    def _warming(self) -> Warming:
        context = TaskContext(
            clock=self.clock,
            registry=self.asked_by_pulls,
            servers=self.servers.ollamas(),
            tiers=self.fleet.catalog_tiers(),
            declared_tier=self.fleet.declared_tier,
        )
        return Warming(context, self.fleet, self.facts, self.clock)

    # -- what people do ------------------------------------------------------------------------------------------------

    def ask(self, kind: str, *names: str) -> None:
        for name in names:
            self.ledger.post(kind, str(ModelName.parse(name).folded()), {"model": name}, by="alice")
        self._send_worker(WEIGHTS_LANE)

    def use(self, *names: str) -> None:
        """Callers, through a gateway that counts them."""
        usage_recorder = UsageRecorder(self.facts, self.clock, "gateway")
        for name in names:
            usage_recorder.add(Use(self.clock.now(), f"{name}:latest", "alice", "a10g", "success", 30, 400, 0.3, 6.0))
            self.servers.call("a10g")
        usage_recorder.flush()

    def retry(self, failure_class: str) -> None:
        """`retry --all --class`, after an outage."""
        for job in of_class(self.ledger.reader.jobs(), failure_class):
            self.ledger.again(job, by="alice")
        self._send_worker(WEIGHTS_LANE)

    def publish(self, model: SimModel) -> None:
        """A newer version of a model, upstream."""
        self.registry.put(model)

    # -- what is known at the end --------------------------------------------------------------------------------------

    def entries(self) -> dict[str, Any]:
        """What is in the Dict, and what has left it."""
        left = {
            key: fact for sort in (CASES, WAKES, METERS) for key, fact in archived_facts(self.archive, sort).items()
        }
        return left | archived_usage(self.archive) | dict(self.facts.items())

    def jobs(self) -> list[Job]:
        """All that ever were, oldest first, the archived ones among them."""
        known = {job.id: job for job in archived_jobs(self.archive, BEGIN - timedelta(days=1))}
        known |= {job.id: job for job in self.ledger.reader.jobs()}
        return sorted(known.values(), key=lambda job: job.posted_at)

    def cases(self) -> list[Case]:
        return cases(self.entries())

    def is_open(self, tier: str, at: datetime) -> bool:
        return tier in {window.tier for window in self.fleet.windows_open(at)}

    def starts_of(self, tier: str) -> list[datetime]:
        return [at for name, at in self.servers.starts if name == tier]

    def starts_foretold(self, tier: str) -> int:
        told = foretold(self, tier)
        return told.openings + AGAIN[tier] + told.nights + CALLS[tier]

    def own_wakes(self, tier: str) -> Counter[str]:
        """Places of the wake budget that were taken, by day."""
        return Counter(key.split("/")[2] for key in self.entries() if key.startswith(f"wake/{tier}/"))

    def dollars(self, tier: str) -> float:
        """What the containers counted themselves."""
        found = estimate(self.entries(), self.fleet, BEGIN, self.clock.now())
        return next((each.dollars for each in found.tiers if each.tier == tier), 0.0)


# -- what happens in it ------------------------------------------------------------------------------------------------


def script() -> list[tuple[datetime, Callable[[Month], object]]]:
    """What people, machines and the weather do in this month; the fleet does the rest by itself."""
    return [
        (_at(5, 10.5), lambda month: month.ask("pull", "gemma3", "phi4")),
        (_at(5, 10.9), lambda month: month.use("phi4")),
        *((_at(day, 8.6), lambda month: month.use("llama3.2", "gemma3")) for day in range(6, 31) if day not in WEEKEND),
        (_at(6, 9), lambda month: month.ask("pull", "nonesuch")),
        (_at(7, 9), lambda month: month.ask("pull", "whale")),
        (_at(8, 9.45), lambda month: month.servers.redeploy()),
        (_at(9, 20), lambda month: month.publish(arbitrary("llama3.2", 61_000, layers=2))),
        (_at(9, 20), _pull_is_interrupted),
        (_at(13, 0), lambda month: month.registry.faults.add(RegistryFault("manifest", "status", 503, times=None))),
        (_at(13, 6), lambda month: setattr(month, "webhook_hangs", True)),
        (_at(13, 9), lambda month: month.ask("pull", "mixtral")),
        (_at(14, 6), lambda month: setattr(month, "webhook_hangs", False)),
        (_at(14, 8.2), lambda month: month.servers.kill("a10g")),
        (_at(15, 0), lambda month: month.registry.faults.clear()),
        (_at(15, 8), lambda month: month.retry("network")),
        (_at(16, 9), lambda month: month.ask("rollback", "llama3.2")),
        (_at(16, 18), lambda month: month.servers.call("a10g")),
        (_at(16, 18.05), lambda month: month.servers.kill("a10g")),
        (_at(17, 12.1), _byte_flips),
        (_at(19, 22), lambda month: month.servers.on_cpu.add("h100")),
        (_at(20, 1.1), lambda month: month.servers.take_out("h100")),
        (_at(21, 22), lambda month: setattr(month, "sleeps_through", True)),
        (_at(22, 10), lambda month: setattr(month, "sleeps_through", False)),
        (_at(28, 2.75), lambda month: month.clock.tick(-3600)),
    ]


WEEKEND = frozenset({10, 11, 17, 18, 24, 25, 31})


def _at(day: int, hour: float) -> datetime:
    return datetime(2026, 10, day, tzinfo=UTC) + timedelta(hours=hour)


def _pull_is_interrupted(month: Month) -> None:
    month.is_interrupted = True


def _byte_flips(month: Month) -> None:
    model = month.mounted.weights.find(ModelName.parse("deepseek-r1:32b"))
    assert model is not None
    path = month.mounted.weights.layout.blob(model.manifest.layers[0].digest)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


@contextmanager
def played(folder: Path, *, tick_minutes: int = 30) -> Iterator[Month]:
    """The month, after it."""
    sizes = [*ON_THE_VOLUME.items(), ("mixtral", 20_000), ("whale", 300_000)]
    models = [arbitrary(name, size, layers=2) for name, size in sizes]
    with RegistryDouble(models) as registry:
        month = Month(folder, registry, fleet(tick_minutes))
        try:
            month.play(script())
            yield month
        finally:
            month.close()


# -- what was foretold -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Foretold:
    """What `windows` and `plan` said before of one tier, less what its wake budget forbade.

    Args:
        openings: of windows.
        nights: that plan a warm-up while no window is open.
        dollars: the hours of the windows, and for each other start its cold seconds and its idle tail.

    """

    openings: int
    nights: int
    dollars: float


CALLS = {"a10g": 2, "h100": 0}
"""Starts that a caller caused: phi4 on the 5th, and the container that is lost on the 16th."""

AGAIN = {"a10g": 2, "h100": 0}
"""Starts inside a window: after the redeployment on the 8th, and the container that is lost on the 14th."""

FORBIDDEN = {"a10g": (0, 0), "h100": (1, 2)}
"""Openings and hours that the wake budget forbids: that of the 17th."""


def foretold(month: Month, tier: str) -> Foretold:
    offered = [offer for offer in month.offered if offer.window.tier == tier]
    openings, hours = FORBIDDEN[tier]
    nights = [seen for seen in month.nights if _warms(month, seen.planned, tier) and not month.is_open(tier, seen.at)]
    lone = (len(nights) + CALLS[tier]) * (COLD.total_seconds() + month.fleet.tier(tier).scaledown_window_seconds)
    rate = month.fleet.dollars_per_hour(tier)
    return Foretold(
        sum(offer.openings for offer in offered) - openings,
        len(nights),
        sum(offer.dollars for offer in offered) + rate * (lone / 3600 - hours),
    )


def _warms(month: Month, planned: Night, tier: str) -> bool:
    return any(
        step.kind == "warm" and month.fleet.declared_tier(ModelName.parse(step.subject)) == tier
        for step in planned.steps
    )
