"""The two schedules as they run in a container: `app.rounds` with everything it is handed there."""

import os
from contextlib import ExitStack

import modal

from app import lookout, rounds
from app.fleet import Fleet, declared
from app.forecast import actual
from app.logs import in_container
from app.resources import APP, MESSENGER, SERVERS, ledger, queue
from app.ringing import ring
from app.watch import NIGHT_RAN
from jobs.clock import Clock, SystemClock, isoformat
from jobs.ledger import Ledger
from jobs.record import WEIGHTS_LANE
from jobs.upkeep import recall, remember
from jobs.webhook import Webhook


def tick() -> None:
    in_container(schedule="tick")
    clock, fleet = SystemClock(), declared()
    book = Ledger(queue, ledger, clock)
    with ExitStack() as others:  # what goes wrong with one of them ends the call, but none of the others
        others.callback(_look, book, fleet, clock)
        others.callback(lambda: rounds.windows(book, fleet, ledger, clock.now(), _keep))
        rounds.tick(book, ledger, clock, ring)


def _look(book: Ledger, fleet: Fleet, clock: Clock) -> None:
    if lookout.look(book, ledger, fleet, clock.now()).has_news and fleet.alerts.webhook_secret:
        modal.Function.from_name(APP, MESSENGER).spawn()


def tell() -> None:
    in_container(schedule="tell")
    clock = SystemClock()
    lookout.tell(ledger, clock, Webhook(os.environ[lookout.WEBHOOK], clock=clock).tell)


def _keep(tier: str, least: int) -> None:
    modal.Server.from_name(APP, SERVERS[tier]).autoscaler.update(min_containers=least)


def nightly() -> None:
    in_container(schedule="nightly")
    clock = SystemClock()
    book = Ledger(queue, ledger, clock)
    ledger.put(NIGHT_RAN, {"v": 1, "at": isoformat(clock.now())})
    memory = recall(ledger, book.jobs())
    remember(ledger, memory)  # the Dict forgets uses and jobs; what is written anew each night it keeps
    rounds.nightly(book, declared(), actual(book, declared(), memory, clock), clock.now())
    rounds.tick(book, ledger, clock, ring)
    ring(WEIGHTS_LANE)  # though nothing may be due: it also archives
