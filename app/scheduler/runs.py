"""What each schedule does in its turn, from its first step to its last. The platform is handed in.

A tick sweeps and sends workers, looks around, has somebody told, keeps windows open, and sends for a night that did not
come or failed. A night remembers what was learnt, posts, and sends workers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from loguru import logger

from app.fleet.schema import Fleet
from app.scheduler import alert_check, outages
from app.scheduler import steps as rounds
from app.scheduler.night_plan import NIGHT, Actual, night
from app.scheduler.parts import NightParts
from jobs.core.clock import Clock, isoformat, parse_moment
from jobs.ledger.kinds import KINDS, SERVERS_LANE, WEIGHTS_LANE
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.store.protocols import DictLike
from jobs.telemetry.night_tries import SILENT, Tries, tried, write_down
from jobs.telemetry.nightly_report import NightJob, Ran, ran_last
from jobs.weights.history import Memory, recall, remember


@dataclass(frozen=True)
class ScheduleContext:
    """Where a schedule stands.

    Args:
        book: the jobs.
        facts: the dict that keeps them, and all that is reported.
        fleet: what should be.
        clock: the time.
        ring: sends a worker to a lane.

    """

    book: Ledger
    facts: DictLike
    fleet: Fleet
    clock: Clock
    ring: Callable[[str], object]


def tick(
    post: ScheduleContext,
    send_for_delivery: Callable[[], object],
    keep: Callable[[str, int], object],
    call_night: Callable[[], object],
) -> None:
    """Keep the ledger moving, see how everything is, and keep awake what a window wants awake.

    Args:
        post: where we stand.
        send_for_delivery: has the alerts delivered; called when there is news and the fleet has a webhook.
        keep: keeps so many containers of a tier up.
        call_night: sends somebody to run the night; called when it failed, or did not come by itself.

    """
    parts = NightParts("tick")  # what goes wrong with one of them ends the call, but none of the others
    every = timedelta(minutes=post.fleet.schedule.tick_minutes)
    with parts.part("the look at the tick before"):
        outages.note_gap(post.facts, every, post.clock.now())
    with parts.part("the round of the ledger"):
        rounds.tick(post.book, post.facts, post.clock, post.ring)
    with parts.part("the windows"):
        _windows(post, keep)
    with parts.part("the watch"):
        _look(post, send_for_delivery)
    with parts.part("the night"):
        _send_for_night(post, call_night)
    outages.note(post.facts, "tick", parts.failed, post.clock.now())
    if not any(map(outages.is_of_platform, parts.failed.values())):
        outages.note_done(post.facts, post.clock.now())
    parts.end()


def _look(post: ScheduleContext, send_for_delivery: Callable[[], object]) -> None:
    looked = alert_check.look(post.book.reader, post.facts, post.fleet, post.clock.now())
    if looked.has_news and post.fleet.alerts.webhook_secret:
        send_for_delivery()


def _windows(post: ScheduleContext, keep: Callable[[str, int], object]) -> None:
    if rounds.windows(post.book, post.fleet, post.facts, post.clock.now(), keep):
        post.ring(SERVERS_LANE)  # now, not at the next tick: the window is open


def _send_for_night(post: ScheduleContext, call_night: Callable[[], object]) -> None:
    facts, now = post.facts, post.clock.now()
    due = rounds.night_began(post.fleet, now)
    ran, since = ran_last(facts), facts.get(keys.NIGHTS_SINCE)
    if ran is not None and ran.due >= due:
        return
    tries = tried(facts, due)
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
            _write_failure(post, sent.failed(error))
            raise


def _send(post: ScheduleContext, posted: Sequence[NightJob]) -> None:
    """Have it worked on. The jobs are posted, so what fails here is left to the next tick."""
    parts = NightParts("night")
    with parts.part("the round of the ledger"):
        rounds.tick(post.book, post.facts, post.clock, post.ring)
    # A sweep sends nobody for a bell that rang just now; and the weights worker always comes, to archive.
    for lane in {WEIGHTS_LANE, *(KINDS[each.kind].lane for each in posted)}:
        with parts.part(f"sending a worker to lane {lane}"):
            post.ring(lane)
    outages.note(post.facts, "night", parts.failed, post.clock.now())
    if parts.failed:
        logger.warning("night: the next tick sends for what could not be sent for now")


def nightly(post: ScheduleContext, actual: Callable[[Memory], Actual]) -> None:
    """Post what this night is for, and write down how that went: a night that failed is tried again by others.

    On a clock that was set back there is an earlier night again, which was done long ago: nothing is done for it.
    """
    began = post.clock.now()
    due = rounds.night_began(post.fleet, began)
    before = ran_last(post.facts)
    if before is not None and due < before.due <= due + NIGHT:
        logger.warning("the clock was set back: the night of {} has run, nothing is done", isoformat(before.due))
        return
    tries = tried(post.facts, due).begun(began)
    write_down(post.facts, tries)
    try:
        ran = replace(_round(post, actual, due, began), tries=tries.count, trouble=tries.trouble)
        post.facts.put(keys.NIGHT_RAN, ran.after(before).as_json())  # last: one that broke off on the way did not come
    except Exception as error:
        _write_failure(post, tries.failed(error))
        raise
    write_down(post.facts, tries.ran())


def _round(post: ScheduleContext, actual: Callable[[Memory], Actual], due: datetime, began: datetime) -> Ran:
    memory = recall(post.facts, post.book.reader.jobs())
    remember(post.facts, memory)  # the Dict forgets uses and jobs; what is written anew each night it keeps
    found = night(post.fleet, actual(memory), began)
    posted = rounds.nightly(post.book, found)
    _send(post, posted)
    return Ran(due, began, tuple(posted), found.notes, found.share)


def _write_failure(post: ScheduleContext, tries: Tries) -> None:
    logger.error("the night that was due at {} failed, try {}: {}", isoformat(tries.due), tries.count, tries.trouble)
    try:
        write_down(post.facts, tries)
    except Exception as error:  # noqa: BLE001 - the first trouble is the one to raise; a silent try is tried again too
        logger.warning("that could not be written down: {}: {}", type(error).__name__, error)
