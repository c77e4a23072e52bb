"""What the two schedules do: `tick` keeps the ledger moving, `nightly` posts what should be. Both only read and post.

Each may run twice, late, or beside itself: it looks at what is there first. Neither needs a volume to write, or a GPU.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cronsim import CronSim
from loguru import logger

from app.fleet import Fleet
from app.pulse import REPORT_STALE
from app.report import PREFIX, Report
from app.wakes import Wakes
from jobs.clock import Clock, isoformat
from jobs.ledger import Ledger
from jobs.names import ModelName
from jobs.protocols import DictLike

BY_NIGHTLY = "nightly"
BY_WINDOW = "window"


@dataclass(frozen=True)
class Ticked:
    """What a tick did."""

    lanes: tuple[str, ...]
    lost: tuple[str, ...]
    silent: tuple[str, ...]


def windows(ledger: Ledger, fleet: Fleet, facts: DictLike, now: datetime, keep: Callable[[str, int], object]) -> None:
    """Keep the tiers awake whose window is open, and no longer than that.

    Said again at every tick, because a deployment makes Modal forget it. A tier without windows is never touched: what
    somebody set there by hand stays. To open one is a wake of our own, and the tier's budget for those may forbid it.

    Args:
        ledger: where the window's models are posted to be warmed, as it opens.
        fleet: declares the windows.
        facts: remembers which tiers are kept awake.
        now: the time.
        keep: keeps so many containers of a tier up.

    """
    opened, wakes = fleet.windows_open(now), Wakes(facts, fleet)
    awake = {window.tier for window in opened}
    for name in {window.tier for window in fleet.windows} | {name for name in fleet.tiers if facts.get(_window(name))}:
        was, least = bool(facts.get(_window(name))), fleet.tier(name).min_containers
        if name in awake:
            if not was and not wakes.take(name, _window(name), now):
                continue
            keep(name, max(1, least))
        elif was:
            keep(name, least)
        if was != (name in awake):
            facts.put(_window(name), name in awake)
            logger.info("window of {} {}", name, "opens" if name in awake else "closes")
            for text in (model for window in opened if window.tier == name for model in window.models):
                subject = str(ModelName.parse(text).folded())
                ledger.post("warm", subject, {"model": text, "tier": name}, by=BY_WINDOW)


def _window(tier: str) -> str:
    return f"window/{tier}"


def tick(ledger: Ledger, facts: DictLike, clock: Clock, ring: Callable[[str], object]) -> Ticked:
    """Sweep, send a worker to every lane that has due work, and mark the servers that were not heard of for long.

    Args:
        ledger: where the jobs stand.
        facts: where the servers report.
        clock: the time.
        ring: sends a worker to a lane; one too many finds nothing to do and leaves.

    """
    swept = ledger.sweep()
    lanes = tuple(sorted({ledger.get(id).lane for id in swept.rung}))
    for lane in lanes:
        ring(lane)
    ticked = Ticked(lanes, swept.lost, tuple(_silent(facts, clock.now())))
    logger.info("tick: {}", ticked)
    return ticked


def _silent(facts: DictLike, now: datetime) -> Iterable[str]:
    """Servers that say they are up and have not said anything for long: killed, most likely. Marked once."""
    reports = [(key, Report.from_json(value)) for key, value in facts.items() if key.startswith(PREFIX)]
    for key, report in reports:
        if report.state == "serving" and now - report.at > REPORT_STALE:
            why = f"not heard of since {isoformat(report.at)}"
            facts.put(key, replace(report, state="silent", why=why, loaded=()).as_json())
            yield str(key.removeprefix(PREFIX))


def nightly(ledger: Ledger, fleet: Fleet, present: Iterable[ModelName], now: datetime) -> list[str]:
    """Post what this night is for and nobody has posted since it began; the jobs.

    Pinned models that are absent are pulled, all weights verified, and the warmed models that are present are warmed.
    """
    began = night_began(fleet, now)
    since = {(job.kind, job.subject) for job in ledger.jobs() if job.posted_at >= began}
    here = {name.folded() for name in present}
    posted = []

    def post(kind: str, subject: str, request: dict[str, str | None]) -> None:
        if (kind, subject) not in since:
            job = ledger.post(kind, subject, request, by=BY_NIGHTLY).job
            logger.info("posted {} {}, job {}", kind, subject, job.id)
            posted.append(job.id)

    for model in fleet.models:
        if model.pinned and model.parsed.folded() not in here:
            post("pull", str(model.parsed.folded()), {"model": model.name, "way": "auto", "rate_limit": None})
    post("verify", "*", {"model": None})
    for model in fleet.models:
        subject = str(model.parsed.folded())
        # One that came tonight is left alone, or the second run of a night would do more than the first.
        if model.warmed and model.parsed.folded() in here and ("pull", subject) not in since:
            post("warm", subject, {"model": model.name, "tier": model.tier})
    return posted


def night_began(fleet: Fleet, now: datetime) -> datetime:
    """When the schedule was last due."""
    local = now.astimezone(fleet.schedule.zone)
    began = local - timedelta(days=2)
    for due in CronSim(fleet.schedule.times.nightly, began):
        if due > local:
            break
        began = due
    return began
