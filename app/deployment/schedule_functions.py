"""The two schedules as they run in a container: `app.scheduler.runs` with everything it is handed there."""

import os

from app.deployment.spawn_worker import spawn_worker
from app.deployment.volume_queries import actual
from app.fleet.schema import declared
from app.logs import in_container
from app.resources import DELIVER_ALERTS, NIGHTLY, SERVERS, deployment, ledger, queue
from app.scheduler import alert_check, runs
from jobs.core.clock import SystemClock
from jobs.ledger.ledger import Ledger
from jobs.telemetry.webhook import Webhook


def tick() -> None:
    in_container(schedule="tick")
    runs.tick(_context(), _send_for_delivery, _keep, _call_night)


def deliver_alerts() -> None:
    in_container(schedule="tell")
    clock = SystemClock()
    alert_check.deliver(ledger, clock, Webhook(os.environ[alert_check.WEBHOOK], clock=clock).send)


def nightly() -> None:
    in_container(schedule="nightly")
    context = _context()
    runs.nightly(context, lambda memory: actual(context.ledger.reader, context.fleet, memory, context.clock))


def _context() -> runs.ScheduleContext:
    clock = SystemClock()
    return runs.ScheduleContext(Ledger(queue, ledger, clock), ledger, declared(), clock, spawn_worker)


def _send_for_delivery() -> None:
    deployment.send(DELIVER_ALERTS)


def _call_night() -> None:
    deployment.send(NIGHTLY)


def _keep(tier: str, least: int) -> None:
    deployment.keep(SERVERS[tier], least)
