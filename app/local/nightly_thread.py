"""The nights of the one-machine stack: what a schedule does on Modal, a thread does while `up` runs with a fleet file.

A night that was slept through is made up for when `up` starts: what was done since it began is not done again.
"""

import os
import threading
from datetime import datetime, timedelta

from loguru import logger

from app.fleet.schema import Fleet
from app.gateway.ops.context import nobody
from app.local.registry_policy import allowed
from app.local.windows import LocalWindows
from app.scheduler import alert_check
from app.scheduler import runs as shift
from app.scheduler.night_plan import Actual, Night, asked_about, night
from app.scheduler.steps import night_began, tonight
from app.scheduler.upstream_tags import upstream
from jobs.core.clock import Clock
from jobs.core.errors import StoreTrouble, Unsupported
from jobs.core.retry import NEVER
from jobs.home.home import Home, Stack
from jobs.home.prune_preview import loaded
from jobs.home.status import weights_of
from jobs.registry.client import Registry
from jobs.registry.mirror import mirrors
from jobs.store import keys
from jobs.store.outage import StoreOutage
from jobs.telemetry.night_tries import tried
from jobs.telemetry.webhook import Webhook
from jobs.weights.history import Memory, recall
from jobs.weights.prune_plan import plan
from jobs.weights.survey import Survey, SurveyedModel

LOOK_EVERY = timedelta(minutes=1)


def actual(home: Home, stack: Stack, fleet: Fleet, memory: Memory, clock: Clock) -> Actual:
    """How it is on this machine: the directory, the ledger, the servers, and what the registries say.

    Raises:
        Unsupported: the models directory is not ours.

    """
    if stack.models is None:
        raise Unsupported(f"the models directory is not ours to keep: {stack.why_by_server}")
    jobs, now = home.reader(clock).jobs(), clock.now()
    found = weights_of(stack.models, home, clock).survey()
    mirror = {"*": stack.mirror} if stack.mirror else mirrors(os.environ)
    whence = allowed(os.environ, fleet, is_loopback=True)
    registry = Registry(clock=clock, mirrors=mirror, registries=whence, requests=NEVER)
    return Actual(
        found.known,
        upstream(registry, asked_about(fleet, found.known)),
        memory,
        plan(found, memory.around(jobs, loaded(stack.servers, clock)), stack.retention, now),
        tonight(fleet, jobs, now),
        frozenset(server.tier for server in stack.servers),
    )


def coming_night(home: Home, stack: Stack, fleet: Fleet, clock: Clock) -> Night:
    """What the next night would post now."""
    memory = recall(home.facts(), home.reader(clock).jobs())
    return night(fleet, actual(home, stack, fleet, memory, clock), clock.now())


class Nights:
    def __init__(self, home: Home, stack: Stack, fleet: Fleet, clock: Clock) -> None:
        self._home, self._stack, self._fleet, self._clock = home, stack, fleet, clock
        self._facts = home.facts()
        self._windows = LocalWindows(fleet, stack.servers, clock)
        self._outage = StoreOutage("the ledger of the nights", clock)
        self._stopping = threading.Event()
        self._done: datetime | None = None
        self._is_fresh = True
        self._thread = threading.Thread(target=self._keep, name="nights", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=5)

    def _keep(self) -> None:
        while True:
            for what, do in (("night", self.look), ("windows", self.keep_windows), ("watch", self.watch)):
                try:
                    do()
                    self._outage.passed(what)
                except StoreTrouble as trouble:
                    self._outage.met(what, trouble)
                except Exception as error:  # noqa: BLE001 - what failed is tried again, and must not end `up`
                    logger.opt(exception=error).error("the {} failed and is tried again: {}", what, error)
            if self._clock.wait(LOOK_EVERY.total_seconds(), self._stopping):
                return

    def look(self) -> None:
        """Do the round of this night, unless it was done, or failed just now. A start of `up` tries at once."""
        now = self._clock.now()
        began = night_began(self._fleet, now)
        if began == self._done or not (self._is_fresh or tried(self._facts, began).is_due(now)):
            return
        self._is_fresh = False
        # The workers of this machine hear the bells themselves, and need not be sent for.
        post = shift.ScheduleContext(self._home.ledger(self._clock), self._facts, self._fleet, self._clock, nobody)
        shift.nightly(post, lambda memory: actual(self._home, self._stack, self._fleet, memory, self._clock))
        self._done = began

    def keep_windows(self) -> None:
        """Have loaded what an open window wants loaded."""
        self._windows.keep(self._home.ledger(self._clock))

    def _tell_weights(self, found: Survey) -> None:
        """Write down what the watch goes by: which models are whole, and how full it is."""
        whole = (each for each in found.known if isinstance(each, SurveyedModel))
        self._facts.put(
            keys.WEIGHTS_MODELS, {str(each.name.folded()): {"size": each.size, "facts": None} for each in whole}
        )
        self._facts.put(
            keys.WEIGHTS_ROOM, {"v": 1, "used": found.usage_bytes, "quota": self._stack.retention.quota_bytes}
        )

    def watch(self) -> None:
        """See what is wrong, and tell OLLAMA_MODAL_WEBHOOK of it, where that is set."""
        if self._stack.models is not None:
            self._tell_weights(weights_of(self._stack.models, self._home, self._clock).survey())
        now = self._clock.now()
        looked = alert_check.look(self._home.reader(self._clock), self._facts, self._fleet, now, rented=False)
        if looked.has_news and (url := os.environ.get(alert_check.WEBHOOK)):
            alert_check.tell(self._facts, self._clock, Webhook(url, clock=self._clock).tell)
