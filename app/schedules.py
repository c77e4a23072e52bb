"""The two schedules as they run in a container: `app.rounds` with everything it is handed there."""

import modal

from app import rounds
from app.fleet import declared
from app.forecast import actual
from app.resources import APP, SERVERS, ledger, queue
from app.ringing import ring
from jobs.clock import SystemClock
from jobs.ledger import Ledger
from jobs.record import WEIGHTS_LANE
from jobs.upkeep import recall, remember


def tick() -> None:
    clock = SystemClock()
    book = Ledger(queue, ledger, clock)
    rounds.windows(book, declared(), ledger, clock.now(), _keep)
    rounds.tick(book, ledger, clock, ring)


def _keep(tier: str, least: int) -> None:
    modal.Server.from_name(APP, SERVERS[tier]).autoscaler.update(min_containers=least)


def nightly() -> None:
    clock = SystemClock()
    book = Ledger(queue, ledger, clock)
    memory = recall(ledger, book.jobs())
    remember(ledger, memory)  # the Dict forgets uses and jobs; what is written anew each night it keeps
    rounds.nightly(book, declared(), actual(book, declared(), memory, clock), clock.now())
    rounds.tick(book, ledger, clock, ring)
    ring(WEIGHTS_LANE)  # though nothing may be due: it also archives
