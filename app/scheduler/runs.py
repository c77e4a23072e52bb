"""What each schedule does in its turn, from its first step to its last. The platform is handed in.

A tick sweeps and sends workers, keeps windows open, has batches begin that waited for one, checks for alerts and has
them delivered, and sends for a night that did not come or failed. A night remembers what was learnt, posts, and sends
workers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from loguru import logger

from app.fleet.schedule import NIGHT, night_began
from app.fleet.schema import Fleet
from app.scheduler import absence, alert_check, outages
from app.scheduler.batch_starts import RentedTiers, put_early
from app.scheduler.night_plan import Actual, night
from app.scheduler.parts import NightParts, mark_told
from app.scheduler.steps import end_windows_of_gone_tiers, keep_windows, post_night, tick_ledger
from jobs.access import grants
from jobs.batches.files.files_due import keep_records
from jobs.core.clock import Clock, isoformat, parse_moment
from jobs.ledger.job import Job
from jobs.ledger.kinds import BATCHES_LANE, KINDS, SERVERS_LANE, WEIGHTS_LANE
from jobs.ledger.ledger import Ledger
from jobs.ledger.open_jobs import HeardJob
from jobs.listing.dead_memory import look_and_remember
from jobs.store import keys
from jobs.store.listed import ListedDict
from jobs.store.protocols import BatchDict
from jobs.telemetry import usage
from jobs.telemetry.night_tries import SILENT, Tries, tries_of, write_down
from jobs.telemetry.nightly_report import NightJob, Ran, ran_last
from jobs.weights.history import Memory, recall, remember

ActualOf = Callable[[Memory, Sequence[Job]], Actual]
"""How it is, by what is remembered and all jobs, which a night lists once."""


@dataclass(frozen=True)
class ScheduleContext:
    """What a schedule works with.

    Args:
        ledger: the jobs.
        facts: the dict that keeps them, and all that is reported.
        fleet: what should be.
        clock: the time.
        send_worker: sends one to a lane.

    """

    ledger: Ledger
    facts: BatchDict
    fleet: Fleet
    clock: Clock
    send_worker: Callable[[str], object]


def tick(
    context: ScheduleContext,
    send_for_delivery: Callable[[], object],
    keep: Callable[[str, int], object],
    call_night: Callable[[], object],
) -> None:
    """Keep the ledger moving, see how everything is, and keep awake what a window wants awake.

    Args:
        context: what it works with.
        send_for_delivery: has the alerts delivered; called when there is news and the fleet has a webhook.
        keep: keeps so many containers of a tier up.
        call_night: sends somebody to run the night; called when it failed, or did not come by itself.

    """
    # Of each sort of entries there is a handful, and the parts of a tick ask for most of them.
    context = replace(context, facts=ListedDict(context.facts, *alert_check.LISTED))
    parts = NightParts("tick")  # what goes wrong with one of them ends the call, but none of the others
    every = timedelta(minutes=context.fleet.schedule.tick_minutes)
    with parts.part("the look at the tick before"):
        outages.note_gap(context.facts, every, context.clock.now())
        absence.note_late_tick(context.facts, context.clock.now())
    going_on: tuple[HeardJob, ...] | None = None
    with parts.part("the sweep of the ledger"):
        going_on = tick_ledger(context.ledger, context.facts, context.clock, context.send_worker).going_on
    with parts.part("the windows"):
        _keep_windows(context, keep)
    with parts.part("the batches that wait"):
        _begin_batches(context, going_on)
    with parts.part("the watch"):
        _check_alerts(context, going_on, send_for_delivery)
    with parts.part("the night"):
        _send_for_night(context, call_night)
    outages.note(context.facts, "tick", parts.failed, context.clock.now())
    if not any(map(outages.is_of_platform, parts.failed.values())):
        outages.note_done(context.facts, context.clock.now())
    parts.end()


def _check_alerts(
    context: ScheduleContext, going_on: Sequence[HeardJob] | None, send_for_delivery: Callable[[], object]
) -> None:
    now = context.clock.now()
    jobs = look_and_remember(context.ledger.reader, context.facts, now, going_on)
    checked = alert_check.check(jobs, context.facts, context.fleet, now)
    if checked.has_news and context.fleet.alerts.webhook_secret:
        send_for_delivery()


def _keep_windows(context: ScheduleContext, keep: Callable[[str, int], object]) -> None:
    if keep_windows(context.ledger, context.fleet, context.facts, context.clock.now(), keep):
        context.send_worker(SERVERS_LANE)  # now, not at the next tick: the window is open
    end_windows_of_gone_tiers(context.fleet, context.facts)


def _begin_batches(context: ScheduleContext, going_on: Sequence[HeardJob] | None) -> None:
    """Send a worker to the batches that waited for a window, or for a GPU that is awake now."""
    entries = [each.said for each in going_on or ()]
    tiers, now = RentedTiers(context.facts, context.fleet), context.clock.now()
    if put_early(context.ledger, context.facts, tiers, entries, now):
        context.send_worker(BATCHES_LANE)


def _send_for_night(context: ScheduleContext, call_night: Callable[[], object]) -> None:
    facts, now = context.facts, context.clock.now()
    due = night_began(context.fleet.schedule.times, now)
    ran, since = ran_last(facts), facts.get(keys.NIGHTS_SINCE)
    if ran is not None and ran.due >= due:
        return
    tries = tries_of(facts, due)
    if not tries.count:
        is_ours = since is not None and parse_moment(since["at"]) <= due  # else it was due before we were there
        if not is_ours or now - due < SILENT:
            return
    if tries.is_due(now):
        logger.warning("the night that was due at {} is sent for, try {}", isoformat(due), tries.count + 1)
        sent = tries.sent(now)
        write_down(facts, sent)
        try:
            call_night()
        except Exception as error:
            _write_failure(context, sent, error)
            raise


def _send(context: ScheduleContext, posted: Sequence[NightJob]) -> None:
    """Have it worked on. The jobs are posted, so what fails here is left to the next tick."""
    parts = NightParts("night")
    sent: set[str] = set()
    with parts.part("the sweep of the ledger"):
        sent.update(tick_ledger(context.ledger, context.facts, context.clock, context.send_worker).lanes)
    # The weights worker always comes, to archive; the others should a sweep that failed have sent nobody.
    for lane in {WEIGHTS_LANE, *(KINDS[each.kind].lane for each in posted)} - sent:
        with parts.part(f"sending a worker to lane {lane}"):
            context.send_worker(lane)
    outages.note(context.facts, "night", parts.failed, context.clock.now())
    if parts.failed:
        logger.warning("night: the next tick sends for what could not be sent for now")


def nightly(context: ScheduleContext, actual: ActualOf) -> None:
    """Post what this night is for, and write down how that went: a night that failed is tried again by others.

    On a clock that was set back there is an earlier night again, which was done long ago: nothing is done for it.
    """
    began = context.clock.now()
    due = night_began(context.fleet.schedule.times, began)
    before = ran_last(context.facts)
    if before is not None and due < before.due <= due + NIGHT:
        logger.warning("the clock was set back: the night of {} has run, nothing is done", isoformat(before.due))
        return
    tries = tries_of(context.facts, due).begun(began)
    write_down(context.facts, tries)
    try:
        ran = replace(_plan_and_post(context, actual, due, began), tries=tries.count, trouble=tries.trouble)
        context.facts.put(keys.NIGHT_RAN, ran.after(before).as_json())  # last: one that broke off did not come
    except Exception as error:
        _write_failure(context, tries, error)
        raise
    write_down(context.facts, tries.ran())


def _plan_and_post(context: ScheduleContext, actual: ActualOf, due: datetime, began: datetime) -> Ran:
    jobs = context.ledger.reader.jobs()
    _keep(context, jobs)
    memory = recall(context.facts, jobs)
    remember(context.facts, memory)  # the Dict forgets uses and jobs; what is written anew each night it keeps
    plan = night(context.fleet, actual(memory, jobs), began)
    posted = post_night(context.ledger, plan, context.facts, began)
    _send(context, posted)
    return Ran(due, began, tuple(posted), plan.notes, plan.share)


def _keep(context: ScheduleContext, jobs: Sequence[Job]) -> None:
    """Have the ledger know its open jobs, and the Dict not forget what is only listed. Another night can do it too."""
    parts = NightParts("night")
    with parts.part("the index of open jobs"):
        context.ledger.index_all(jobs)
        context.ledger.keep_open(jobs)
    with parts.part("what is known of the jobs"):  # begun anew: what no change told of is known again
        look_and_remember(context.ledger.reader, context.facts, context.clock.now(), every=jobs)
    with parts.part("a look at what is only listed"):
        alert_check.keep(context.facts, context.clock.now())
        usage.keep(context.facts, context.clock.now())
        grants.keep(context.facts, context.clock.now())
        keep_records(context.facts, context.clock.now())


def _write_failure(context: ScheduleContext, tries: Tries, failure: Exception) -> None:
    failed = tries.failed(failure)
    logger.error("the night that was due at {} failed, try {}: {}", isoformat(tries.due), failed.count, failed.trouble)
    mark_told(failure)
    try:
        write_down(context.facts, failed)
    except Exception as error:  # noqa: BLE001 - the first trouble is the one to raise; a silent try is tried again too
        logger.warning("that could not be written down: {}: {}", type(error).__name__, error)
