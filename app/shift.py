"""What each schedule does in its turn, from its first step to its last. The platform is handed in.

A tick sweeps and sends workers, looks around, has somebody told, and keeps windows open. A night remembers what was
learnt, posts, and sends workers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from loguru import logger

from app import lookout, outages, rounds
from app.desired import Actual, night
from app.fleet import Fleet
from app.parts import Parts
from jobs.clock import Clock
from jobs.ledger import Ledger
from jobs.night import NIGHT_RAN, Posted, Ran
from jobs.protocols import DictLike
from jobs.record import KINDS, SERVERS_LANE, WEIGHTS_LANE
from jobs.upkeep import Memory, recall, remember


@dataclass(frozen=True)
class Post:
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


def tick(post: Post, call_messenger: Callable[[], object], keep: Callable[[str, int], object]) -> None:
    """Keep the ledger moving, see how everything is, and keep awake what a window wants awake.

    Args:
        post: where we stand.
        call_messenger: sends somebody to tell the webhook; called when there is news and the fleet has a webhook.
        keep: keeps so many containers of a tier up.

    """
    parts = Parts("tick")  # what goes wrong with one of them ends the call, but none of the others
    every = timedelta(minutes=post.fleet.schedule.tick_minutes)
    with parts.part("the look at the tick before"):
        outages.note_gap(post.facts, every, post.clock.now())
    with parts.part("the round of the ledger"):
        rounds.tick(post.book, post.facts, post.clock, post.ring)
    with parts.part("the windows"):
        _windows(post, keep)
    with parts.part("the watch"):
        _look(post, call_messenger)
    outages.note(post.facts, "tick", parts.failed, post.clock.now())
    parts.end()
    outages.note_done(post.facts, post.clock.now())


def _look(post: Post, call_messenger: Callable[[], object]) -> None:
    looked = lookout.look(post.book, post.facts, post.fleet, post.clock.now())
    if looked.has_news and post.fleet.alerts.webhook_secret:
        call_messenger()


def _windows(post: Post, keep: Callable[[str, int], object]) -> None:
    if rounds.windows(post.book, post.fleet, post.facts, post.clock.now(), keep):
        post.ring(SERVERS_LANE)  # now, not at the next tick: the window is open


def _send(post: Post, posted: list[Posted]) -> None:
    """Have it worked on. The jobs are posted, so what fails here is left to the next tick."""
    parts = Parts("night")
    with parts.part("the round of the ledger"):
        rounds.tick(post.book, post.facts, post.clock, post.ring)
    # A sweep sends nobody for a bell that rang just now; and the weights worker always comes, to archive.
    for lane in {WEIGHTS_LANE, *(KINDS[each.kind].lane for each in posted)}:
        with parts.part(f"sending a worker to lane {lane}"):
            post.ring(lane)
    outages.note(post.facts, "night", parts.failed, post.clock.now())
    if parts.failed:
        logger.warning("night: the next tick sends for what could not be sent for now")


def nightly(post: Post, actual: Callable[[Memory], Actual]) -> None:
    """Post what this night is for. That it ran is written last: one that broke off on the way did not come."""
    memory = recall(post.facts, post.book.jobs())
    remember(post.facts, memory)  # the Dict forgets uses and jobs; what is written anew each night it keeps
    began = post.clock.now()
    found = night(post.fleet, actual(memory), began)
    posted = rounds.nightly(post.book, found)
    _send(post, posted)
    ran = Ran(rounds.night_began(post.fleet, began), began, tuple(posted), found.notes, found.share)
    before = post.facts.get(NIGHT_RAN)
    post.facts.put(NIGHT_RAN, ran.after(Ran.from_json(before) if before else None).as_json())
