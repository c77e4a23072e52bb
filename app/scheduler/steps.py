"""The steps of the two schedules: a tick keeps the ledger moving and windows open, a night posts what should be.

Each may run twice, late, or beside itself: it reads what is there first. Neither needs a volume to write, or a GPU.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from loguru import logger

from app.fleet.schema import Fleet, WindowConfig
from app.model_server.report import REPORT_STALE, Report, ReportsOf
from app.model_server.start_failures import RefusedStarts, refused_starts
from app.scheduler.night_plan import Night
from app.scheduler.parts import NightParts
from app.scheduler.wake_budget import BY_WINDOW, Wakes, opening
from jobs.access.audit import PostedAct, entry_of, record_posted
from jobs.core.clock import Clock, isoformat
from jobs.core.errors import NotFound, StoreTrouble
from jobs.ledger.job import BY_NIGHTLY, JobState, Posted
from jobs.ledger.kinds import KINDS
from jobs.ledger.ledger import Ledger
from jobs.ledger.open_jobs import HeardJob
from jobs.store import keys
from jobs.store.protocols import BatchDict, DictLike
from jobs.telemetry.nightly_report import NightJob


@dataclass(frozen=True)
class Ticked:
    """What a tick did: the lanes it sent workers to, the jobs whose silent attempts it gave up, the silent servers; and
    the jobs that go on, as it saw them."""

    lanes: tuple[str, ...]
    lost: tuple[str, ...]
    silent: tuple[str, ...]
    going_on: tuple[HeardJob, ...] = ()

    def __str__(self) -> str:
        words = [f"a worker is sent to lane {lane}" for lane in self.lanes]
        words += [f"a silent attempt of job {id} is given up" for id in self.lost]
        words += [f"server {server} went silent" for server in self.silent]
        return ", ".join(words) or "nothing had to be done"


def keep_windows(
    ledger: Ledger, fleet: Fleet, facts: BatchDict, now: datetime, keep: Callable[[str, int], object]
) -> list[str]:
    """Keep the tiers awake whose window is open, and no longer than that; the jobs that warm its models.

    Said again at every tick, because a deployment makes Modal forget it. A tier without windows is never touched: what
    somebody set there by hand stays. To open one is a wake of our own, and the tier's budget for those may forbid it. A
    tier whose starts are refused is not kept up until one succeeds; it is tried by warm-ups, ever more rarely.

    Args:
        ledger: where the window's models are posted to be warmed, as it opens.
        fleet: declares the windows.
        facts: remembers which tiers are kept awake.
        now: the time.
        keep: keeps so many containers of a tier up.

    """
    opened, wakes = fleet.windows_open(now), Wakes(facts, fleet)
    awake = {window.tier for window in opened}
    kept = {name for name in fleet.tiers if facts.get(keys.window(name))}
    posted: list[Posted] = []
    parts = NightParts("windows")
    for name in {window.tier for window in fleet.windows} | kept:
        with parts.part(f"the window of {name}"):
            was, least = bool(facts.get(keys.window(name))), fleet.tier(name).min_containers
            if name in awake:
                if not was and not wakes.take(name, opening(fleet, name, now), now):
                    continue
                starts = _refused_starts(facts, name, now)
                # What is kept up is started again and again by the platform; a warm-up starts one, and when it may.
                keep(name, least if starts.is_broken else max(1, least))
                if starts.is_broken and not starts.must_wait(now):
                    posted += _warm_ups(ledger, opened, name)
            elif was:
                keep(name, least)
            if was == (name in awake):
                posted += _warm_ups_of_newcomers(ledger, opened, name)
                continue
            posted += _warm_ups(ledger, opened, name)
            act = "window-open" if name in awake else "window-close"
            line = entry_of(now, who=BY_WINDOW, request="tick", act=act, subject=name)
            facts.update({**line, keys.window(name): name in awake})  # last: one that broke off is opened again
            logger.info("window of {} {}", name, "opens" if name in awake else "closes")
    with parts.part("writing down what was posted"):
        record_posted(facts, now, who=BY_WINDOW, request="tick", posted=map(act_of, posted))
    parts.end()
    return [each.job.id for each in posted]


def act_of(posted: Posted) -> PostedAct:
    """What a schedule did by posting that."""
    job = posted.job
    return PostedAct(job.kind, job.subject, job.id, posted.attached)


def end_windows_of_gone_tiers(fleet: Fleet, facts: DictLike) -> None:
    """What kept a tier awake ended with it; nor is its window open should it be declared again."""
    for key, is_awake in list(facts.items(keys.WINDOW)):
        if is_awake and key.removeprefix(keys.WINDOW) not in fleet.tiers:
            facts.put(key, False)
            logger.info("tier {} is gone, and its window with it", key.removeprefix(keys.WINDOW))


def _refused_starts(facts: DictLike, tier: str, now: datetime) -> RefusedStarts:
    """What the tier's servers reported; where that cannot be read now, the window is kept as it was declared."""
    try:
        return refused_starts(ReportsOf(facts, tier)(), now)
    except StoreTrouble as trouble:
        logger.warning("whether {} can start could not be learnt: {}", tier, trouble)
        return refused_starts((), now)


def _warm_ups(ledger: Ledger, opened: Iterable[WindowConfig], tier: str) -> Iterator[Posted]:
    for text in _models_of(opened, tier):
        yield ledger.post(*KINDS["warm"].request(text, {"tier": tier}), by=BY_WINDOW)


def _warm_ups_of_newcomers(ledger: Ledger, opened: Iterable[WindowConfig], tier: str) -> Iterator[Posted]:
    """Of the models that were not there when their window opened, and have been pulled since."""
    for text in _models_of(opened, tier):
        request = KINDS["warm"].request(text, {"tier": tier})
        warm, pull = (ledger.reader.latest(kind, request.subject) for kind in ("warm", "pull"))
        if warm is None or pull is None or warm.posted_by != BY_WINDOW or pull.state is not JobState.SUCCEEDED:
            continue
        was_missing = warm.state is JobState.FAILED and warm.attempts[-1].failure_class == NotFound.failure_class
        if was_missing and warm.ended_at and pull.ended_at and warm.ended_at < pull.ended_at:
            yield ledger.post(*request, by=BY_WINDOW)


def _models_of(opened: Iterable[WindowConfig], tier: str) -> Iterator[str]:
    return (model for window in opened if window.tier == tier for model in window.models)


def tick_ledger(ledger: Ledger, facts: DictLike, clock: Clock, send_worker: Callable[[str], object]) -> Ticked:
    """Sweep, send a worker to every lane that has due work, and mark the servers that were not heard of for long.

    Args:
        ledger: where the jobs stand.
        facts: where the servers report.
        clock: the time.
        send_worker: sends one to a lane; one too many finds nothing to do and leaves.

    Raises:
        Exception: what went wrong with one of these, when the others have had their turn.

    """
    parts = NightParts("tick")
    lanes: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    going_on: tuple[HeardJob, ...] = ()
    silent: list[str] = []
    with parts.part("the sweep"):
        swept = ledger.sweep()
        lost, going_on = swept.lost, swept.going_on
        lanes = tuple(sorted(swept.due_lanes))
    for lane in lanes:
        with parts.part(f"sending a worker to lane {lane}"):
            send_worker(lane)
    with parts.part("the look for silent servers"):
        silent.extend(_silent(facts, clock.now()))
    ticked = Ticked(lanes, lost, tuple(silent), going_on)
    logger.info("tick: {}", ticked)
    parts.end()
    return ticked


def _silent(facts: DictLike, now: datetime) -> Iterable[str]:
    """Servers that say they are up and have not said anything for long: killed, most likely. Marked once."""
    reports = [(key, Report.from_json(value)) for key, value in facts.items(keys.SERVER)]
    for key, report in reports:
        if report.state == "serving" and now - report.at > REPORT_STALE:
            why = f"not heard of since {isoformat(report.at)}"
            facts.put(key, replace(report, state="silent", why=why, loaded=()).as_json())
            yield str(key.removeprefix(keys.SERVER))


def post_night(ledger: Ledger, night: Night, facts: BatchDict, now: datetime) -> list[NightJob]:
    """Post what this night is for, and write down who did; the jobs, each with its reason."""
    for note in night.notes:
        logger.warning("night: {}", note)
    posted = []
    jobs = ledger.post_all([(step.kind, step.subject, step.request) for step in night.steps], by=BY_NIGHTLY)
    record_posted(facts, now, who=BY_NIGHTLY, request="night", posted=map(act_of, jobs))
    for step, job in zip(night.steps, (each.job for each in jobs), strict=True):
        logger.info("posted {} {}, job {}: {}", step.kind, step.subject, job.id, step.why)
        posted.append(NightJob(job.id, step.kind, step.subject, step.why, step.size))
    return posted
