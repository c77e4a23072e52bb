"""The two schedules as they run in a container: `app.scheduler.runs` with everything it is handed there."""

import os

from app.deployment.spawn_worker import spawn_worker
from app.deployment.volume_queries import actual
from app.fleet.schema import declared
from app.logs import in_container
from app.resources import DELIVER_ALERTS, NIGHTLY, deployment, ledger, queue, server_class
from app.scheduler import alert_check, runs
from jobs.core.clock import SystemClock
from jobs.ledger.ledger import Ledger
from jobs.telemetry.webhook import Webhook


def tick() -> None:
    in_container(schedule="tick")
    runs.tick(
        _context(),
        send_for_delivery=lambda: deployment.send(DELIVER_ALERTS),
        keep=lambda tier, least: deployment.keep(server_class(tier), least),
        call_night=lambda: deployment.send(NIGHTLY),
    )


def deliver_alerts() -> None:
    in_container(schedule="tell")
    clock = SystemClock()
    alert_check.deliver(ledger, clock, Webhook(os.environ[alert_check.WEBHOOK], clock=clock).send)


def nightly() -> None:
    in_container(schedule="nightly")
    context = _context()
    runs.nightly(context, lambda memory, jobs: actual(jobs, context.fleet, memory, context.clock))


def _context() -> runs.ScheduleContext:
    clock = SystemClock()
    return runs.ScheduleContext(Ledger(queue, ledger, clock), ledger, declared(), clock, spawn_worker)
