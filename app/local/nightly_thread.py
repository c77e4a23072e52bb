"""The nights of the one-machine stack: what a schedule does on Modal, a thread does while `up` runs with a fleet file.

A night that was slept through is made up for when `up` starts: what was done since it began is not done again.
"""

import os
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta

from loguru import logger

from app.fleet.schedule import night_began
from app.fleet.schema import Fleet
from app.gateway.ops.context import send_none
from app.local.coming_night import actual
from app.local.windows import LocalWindows
from app.scheduler import alert_check, runs
from app.scheduler.batch_starts import OwnTiers, put_early
from app.scheduler.night_plan import Actual
from app.scheduler.parts import is_told
from jobs.core.clock import Clock
from jobs.core.errors import StoreTrouble
from jobs.home.home import Home, Stack
from jobs.home.status import weights_of
from jobs.ledger.job import Job
from jobs.ledger.open_jobs import OpenJobs
from jobs.listing.dead_memory import look_and_remember
from jobs.store import keys
from jobs.store.outage import StoreOutage
from jobs.telemetry.night_tries import tries_of
from jobs.telemetry.webhook import Webhook
from jobs.weights.history import Memory
from jobs.weights.survey import Survey, SurveyedModel

CHECK_EVERY = timedelta(minutes=1)


class NightlyThread:
    """Runs each night that is due, warms what open windows want, has batches begin in them, and checks for alerts, in a
    thread of its own."""

    def __init__(self, home: Home, stack: Stack, fleet: Fleet, clock: Clock) -> None:
        self._home, self._stack, self._fleet, self._clock = home, stack, fleet, clock
        self._facts = home.facts()
        self._ledger = home.ledger(clock)
        self._windows = LocalWindows(fleet, stack.servers, clock)
        self._outage = StoreOutage("the ledger of the nights", clock)
        self._stopping = threading.Event()
        #: These two are the nightly thread's own: the night it did last, and whether it has tried none yet.
        self._done: datetime | None = None
        self._is_fresh = True
        self._thread = threading.Thread(target=self._run, name="nightly", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        steps = {
            "night": self.run_if_due,
            "windows": self.post_warmups,
            "batches": self.begin_batches,
            "alert check": self.check_alerts,
        }
        while True:
            for what, do in steps.items():
                try:
                    do()
                    self._outage.passed(what)
                except StoreTrouble as trouble:
                    self._outage.met(what, trouble)
                except Exception as error:  # noqa: BLE001 - what failed is tried again, and must not end `up`
                    level = "DEBUG" if is_told(error) else "ERROR"  # its trace is for the file, where all of it is kept
                    logger.opt(exception=error).log(level, "the {} failed and is tried again: {}", what, error)
            if self._clock.wait(CHECK_EVERY.total_seconds(), self._stopping):
                return

    def run_if_due(self) -> None:
        """Run this night, unless it was done, or failed just now. A start of `up` tries at once."""
        now = self._clock.now()
        began = night_began(self._fleet.schedule.times, now)
        if began == self._done or not (self._is_fresh or tries_of(self._facts, began).is_due(now)):
            return
        self._is_fresh = False
        # The workers of this machine wait at the queue by themselves, and need not be sent for.
        context = runs.ScheduleContext(self._ledger, self._facts, self._fleet, self._clock, send_none)

        def found(memory: Memory, jobs: Sequence[Job]) -> Actual:
            return actual(self._stack, self._facts, fleet=self._fleet, memory=memory, jobs=jobs, clock=self._clock)

        runs.nightly(context, found)
        self._done = began

    def post_warmups(self) -> None:
        """Have loaded what an open window wants loaded."""
        self._windows.post_warmups(self._ledger, self._facts)

    def begin_batches(self) -> None:
        """Have batches begin that waited for a window which is open."""
        now, going_on = self._clock.now(), OpenJobs(self._facts, self._clock).all().jobs
        put_early(self._ledger, self._facts, OwnTiers(self._fleet), going_on, now)

    def _note_weights(self, found: Survey) -> None:
        """Write down what the alerts go by: which models are whole, and how full it is."""
        whole = (each for each in found.known if isinstance(each, SurveyedModel))
        self._facts.put(
            keys.WEIGHTS_MODELS, {str(each.name.folded()): {"size": each.size, "facts": None} for each in whole}
        )
        self._facts.put(
            keys.WEIGHTS_ROOM, {"v": 1, "used": found.usage_bytes, "quota": self._stack.retention.quota_bytes}
        )

    def check_alerts(self) -> None:
        """See what is wrong, and tell OLLAMA_MODAL_WEBHOOK of it, where that is set."""
        if self._stack.models is not None:
            self._note_weights(weights_of(self._stack.models, self._home, self._clock).survey())
        now = self._clock.now()
        jobs = look_and_remember(self._home.reader(self._clock), self._facts, now)
        checked = alert_check.check(jobs, self._facts, self._fleet, now, rented=False)
        if checked.has_news and (url := os.environ.get(alert_check.WEBHOOK)):
            alert_check.deliver(self._facts, self._clock, Webhook(url, clock=self._clock).send)
