"""What is wrong now: from what is written down to incidents. Pure; the facts and the time are handed in.

job       a job failed for good, and none of its kind and subject has been posted since
worker    jobs of a lane wait, and nobody has worked there for a while
tier      a tier is degraded, or its last container was lost
quota     the weights near their quota
pinned    a model that the fleet pins is not there, and nobody is pulling it
budget    the month has cost more than was meant
nightly   the night's run has not come, or failed again and again
wakes     the night, a window or a batch was refused a wake: the day's are used up
platform  a tick or a night was not answered, or refused for a while, by the platform itself; or the app was away for so
          long that the ledger has forgotten
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from app.accounting.spending import month_began, month_dollars
from app.fleet.schema import Fleet
from app.model_server.health import Health
from app.scheduler import absence
from app.scheduler.outages import noted
from jobs.core.clock import parse_moment
from jobs.core.units import counted, human_bytes
from jobs.ledger.dead_letters import class_of
from jobs.ledger.job import Job, JobState
from jobs.ledger.job_text import trouble
from jobs.ledger.kinds import LANES
from jobs.listing.dead_memory import KnownJobs
from jobs.store import keys
from jobs.telemetry.incidents import Incident
from jobs.telemetry.night_tries import ALERTED_FROM, tries_of

TICKS_UNWORKED = 3
"""Each tick sends a worker to a lane whose jobs wait; so many that brought none are no chance."""


@dataclass(frozen=True)
class AlertFacts:
    """All that there is to judge by.

    Args:
        entries: of the Dict.
        jobs: what is known of those of the ledger.
        health: of each tier.
        refused: the tiers that were refused a wake today.
        night_began: when the night's run was last due.
        now: the time.
        rented: the servers are Modal's, and paid by the second; on one machine they are neither.

    """

    entries: Mapping[str, Any]
    jobs: KnownJobs
    health: Sequence[Health]
    refused: Sequence[str]
    night_began: datetime
    now: datetime
    rented: bool = True


def incidents(fleet: Fleet, facts: AlertFacts) -> list[Incident]:
    """What is wrong, of the kinds that the fleet wants to hear of."""
    kinds = [kind for kind in fleet.alerts.kinds if facts.rented or kind not in {"budget", "platform"}]
    wrong = [each for kind in kinds for each in _RULES[kind](fleet, facts)]
    return wrong if facts.rented else [replace(each, hint=hint_on_one_machine(each.hint)) for each in wrong]


def hint_on_one_machine(hint: str) -> str:
    """The same for one machine, where no command of Modal's helps."""
    hint = re.sub(r"modal run -m app\.jobs::(\w+)", r"ollama-modal \1", hint)
    hint = re.sub(r"\b(ollama-modal \w+) --(?:id|model)\b", r"\1", hint)
    hint = hint.replace("the app page has a button that runs it now", "`ollama-modal up` tries it when it starts")
    return _LOG_OF_MODAL.sub("the log of `up`", hint)


_LOG_OF_MODAL = re.compile("`modal app logs ollama-service`")


def _jobs(_: Fleet, facts: AlertFacts) -> Iterator[Incident]:
    for job in facts.jobs.dead:
        why = trouble(job.attempts[-1]) if job.attempts else class_of(job)
        said = f"the {job.kind} of {job.subject} failed for good: {why}"
        hint = (
            f"`modal run -m app.jobs::job --id {job.id}` tells its story,"
            f" `modal run -m app.jobs::retry --id {job.id}` tries it again,"
            f" `modal run -m app.jobs::dismiss --id {job.id}` has no more said of it"
        )
        yield Incident("job", f"{job.kind}/{job.subject}", said, hint)


def _workers(fleet: Fleet, facts: AlertFacts) -> Iterator[Incident]:
    """One that was killed is followed by another within a tick or two; one that hangs may keep all others out."""
    late = facts.now - TICKS_UNWORKED * timedelta(minutes=fleet.schedule.tick_minutes)
    for lane in LANES:
        jobs = [job for job in facts.jobs.going_on if job.lane == lane]
        if any(job.state is JobState.RUNNING and not job.attempts[-1].is_lost(facts.now) for job in jobs):
            continue
        waiting = [since for job in jobs if (since := _waits_since(job, facts.now)) is not None and since < late]
        heard = facts.jobs.heard.get(lane)
        if not waiting or (heard is not None and heard.at > late):
            continue
        worker = f"worker {heard.worker}" if heard and heard.worker else "a worker"
        known = f"; {worker} was heard of last, at {heard.at:%H:%M}" if heard else ""
        wait = f"{counted(len(waiting), 'waits', 'wait')}, since {min(waiting):%H:%M}"
        said = f"nobody takes up the jobs of lane {lane}: {wait}{known}"
        hint = "`modal app logs ollama-service` may tell why; what hangs in a container ends when that is stopped"
        yield Incident("worker", lane, said, hint)


def _waits_since(job: Job, now: datetime) -> datetime | None:
    """Since when somebody could have taken it up; None when nobody could, or somebody has."""
    last = job.attempts[-1] if job.attempts else None
    if last is None:
        return job.posted_at
    if job.state is JobState.RUNNING:
        return last.last_sign + last.lease if last.is_lost(now) else None
    if not job.is_due(now):
        return None
    return max(filter(None, (last.ended_at, last.not_before)), default=job.posted_at)


def _tiers(_: Fleet, facts: AlertFacts) -> Iterator[Incident]:
    for health in facts.health:
        if health.is_trouble:
            why = f": {health.why}" if health.why else ""
            then = "the next request to it starts a container anew"
            if health.next_start is not None:
                then = "starts are tried ever more rarely until one succeeds, and at once by a `warm` that you post"
            hint = f"`modal app logs ollama-service` tells more; {then}"
            yield Incident("tier", health.tier, f"tier {health.tier} is {health.state}{why}", hint)


def _quota(fleet: Fleet, facts: AlertFacts) -> Iterator[Incident]:
    room = facts.entries.get(keys.WEIGHTS_ROOM) or {}
    used, quota = room.get("used", 0), room.get("quota") or fleet.volume.quota_bytes
    if used * 100 >= quota * fleet.alerts.quota_percent:
        said = f"the weights take {human_bytes(used)} of their quota of {human_bytes(quota)}"
        yield Incident("quota", "volume", said, "delete a model, or raise volume.quota_gb")


def _pinned(fleet: Fleet, facts: AlertFacts) -> Iterator[Incident]:
    known = facts.entries.get(keys.WEIGHTS_MODELS)
    if known is None:  # no worker has checked yet
        return
    coming = {job.subject for job in facts.jobs.going_on if job.kind == "pull"}
    for model in fleet.models:
        name = str(model.parsed.folded())
        if model.pinned and name not in known and name not in coming:
            hint = f"`modal run -m app.jobs::pull --model {model.name}` brings it; the night does, too"
            yield Incident("pinned", name, f"{model.name} is pinned and not there", hint)


def _budget(fleet: Fleet, facts: AlertFacts) -> Iterator[Incident]:
    budget = fleet.alerts.monthly_budget_dollars
    spent = month_dollars(facts.entries, fleet, facts.now)
    if budget is not None and spent > budget:
        month = f"{month_began(fleet, facts.now):%Y-%m}"
        hint = "`modal run -m app.jobs::cost --since 30d` tells what for; it is an estimate, and leaves things out"
        yield Incident("budget", month, f"the servers have cost more than ${budget:,.0f} in {month}", hint)


def _nightly(fleet: Fleet, facts: AlertFacts) -> Iterator[Incident]:
    due, late = facts.night_began, timedelta(hours=fleet.alerts.nightly_late_hours)
    ran, since = facts.entries.get(keys.NIGHT_RAN), facts.entries.get(keys.NIGHTS_SINCE)
    if ran is not None and parse_moment(ran["at"]) >= due:
        return
    tries = tries_of(facts.entries, due)
    is_missed = ran is not None or (since is not None and parse_moment(since["at"]) <= due)
    if tries.state == "failed" and tries.count >= ALERTED_FROM:
        said = f"has failed {tries.count} times: {tries.trouble}"
    elif is_missed and facts.now - due > late:
        said = f"has not come{f': {tries.trouble}' if tries.trouble else ''}"
    else:
        return
    again = "" if tries.is_given_up else "it is tried again by itself, and "
    hint = f"`modal app logs ollama-service` may tell why; {again}the app page has a button that runs it now"
    yield Incident("nightly", "run", f"the night's run was due at {due:%H:%M} and {said}", hint)


def _wakes(fleet: Fleet, facts: AlertFacts) -> Iterator[Incident]:
    for tier in facts.refused:
        allowed = fleet.tier(tier).own_wakes_per_day
        wakes, are = counted(allowed, "wake"), "is" if allowed == 1 else "are"
        said = f"tier {tier} was not woken: the day's {wakes} by night, windows and batches {are} used up"
        yield Incident("wakes", tier, said, f"raise tiers.{tier}.own_wakes_per_day if that was meant")


def _platform(_: Fleet, facts: AlertFacts) -> Iterator[Incident]:
    for outage in noted(facts.entries, facts.now):
        said = f"the platform failed a {outage.who} at {', '.join(outage.parts)}: {outage.message}"
        if outage.who == "gap":
            said = f"the platform was away: {outage.message}"
        hint = "it is tried again at the next tick; status.modal.com tells whether others see it, too"
        if outage.who == absence.ABSENCE:
            said, hint = outage.message, absence.HINT
        yield Incident("platform", outage.who, said, hint)


_RULES: Mapping[str, Callable[[Fleet, AlertFacts], Iterable[Incident]]] = {
    "job": _jobs,
    "worker": _workers,
    "tier": _tiers,
    "quota": _quota,
    "pinned": _pinned,
    "budget": _budget,
    "nightly": _nightly,
    "wakes": _wakes,
    "platform": _platform,
}
