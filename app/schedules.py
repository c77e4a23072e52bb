"""The two schedules as they run in a container: `app.rounds` with everything it is handed there."""

from app import rounds, shelf
from app.fleet import declared
from app.resources import ledger, queue
from app.ringing import ring
from jobs.clock import SystemClock
from jobs.ledger import Ledger
from jobs.record import WEIGHTS_LANE


def tick() -> None:
    clock = SystemClock()
    rounds.tick(Ledger(queue, ledger, clock), ledger, clock, ring)


def nightly() -> None:
    clock = SystemClock()
    book = Ledger(queue, ledger, clock)
    rounds.nightly(book, declared(), shelf.names(), clock.now())
    rounds.tick(book, ledger, clock, ring)
    ring(WEIGHTS_LANE)  # though nothing may be due: it also archives
