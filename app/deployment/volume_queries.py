"""What is on the volume and around it, and what follows from that: the models, the archive, a prune's plan, a night's.

For whoever mounts the volume; nothing here writes to it, and no server is asked.
"""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from app.accounting import spending
from app.fleet.schedule import jobs_of_night
from app.fleet.schema import Fleet, declared
from app.model_server.report import Report
from app.resources import MODELS, ledger, volume
from app.scheduler.night_plan import Actual, Night, asked_about, night
from app.scheduler.upstream_tags import upstream_tags
from jobs.archive import archived
from jobs.archive.audited import AuditQuery, archived_lines
from jobs.batches.files.files_due import batches_due
from jobs.core.clock import Clock, SystemClock, parse_moment
from jobs.core.model_name import ModelName
from jobs.core.retry import NEVER
from jobs.home.status import ModelsFound, models_in
from jobs.ledger.job import Job
from jobs.ledger.reader import LedgerReader
from jobs.registry.client import Registry
from jobs.registry.mirror import mirrors, tokens
from jobs.store import keys
from jobs.store.protocols import DictLike
from jobs.tasks.prune import plan_request
from jobs.weights.history import Memory, recall
from jobs.weights.layout import Layout
from jobs.weights.prune_plan import PrunePlan, WeightsUse, plan
from jobs.weights.survey import Survey, survey
from jobs.weights.trash_moves import require_models_directory


def weights_use(reader: LedgerReader, facts: DictLike) -> WeightsUse:
    """Who uses the weights, by what was recorded and what the servers reported last."""
    jobs = reader.jobs()
    return recall(facts, jobs).weights_use(jobs, loaded(facts))


def loaded(facts: DictLike) -> list[str]:
    """The models that servers have in memory, by their last reports."""
    reports = [Report.from_json(value) for _, value in facts.items(keys.SERVER)]
    return [each.name for report in reports if report.state == "serving" for each in report.loaded]


def survey_volume() -> Survey:
    volume.reload()
    return survey(Layout(Path(MODELS)))


def names_here(*, with_trash: bool) -> list[ModelName]:
    return survey_volume().names(trash=with_trash)


def plan_prune(request: dict[str, Any]) -> PrunePlan:
    """What a prune that is asked for in these words would do."""
    clock = SystemClock()
    require_models_directory(Layout(Path(MODELS)))
    use = weights_use(LedgerReader.of(ledger, clock), ledger)
    return plan_request(survey_volume(), use, declared().retention(), clock.now(), request)


def actual(jobs: Sequence[Job], fleet: Fleet, memory: Memory, clock: Clock) -> Actual:
    """How it is: the volume, the ledger, and what the registries say."""
    registry = Registry(
        clock=clock,
        mirrors=mirrors(os.environ),
        tokens=tokens(os.environ),
        registries=fleet.may_pull_from(),
        requests=NEVER,
    )
    return actual_from(survey_volume(), jobs, ledger, fleet=fleet, memory=memory, registry=registry, now=clock.now())


def actual_from(
    surveyed: Survey,
    jobs: Sequence[Job],
    facts: DictLike,
    *,
    fleet: Fleet,
    memory: Memory,
    registry: Registry,
    now: datetime,
) -> Actual:
    """What is found on a volume, beside what is known of it elsewhere."""
    return Actual(
        surveyed.known,
        upstream_tags(registry, asked_about(fleet, surveyed.known)),
        memory,
        plan(surveyed, memory.weights_use(jobs, loaded(facts)), fleet.retention(), now),
        jobs_of_night(fleet.schedule.times, jobs, now),
        batches_due=batches_due(facts, jobs, fleet.batches.limits.keep, now),
    )


def plan_night() -> Night:
    """What `nightly` would post now."""
    clock, fleet = SystemClock(), declared()
    jobs = LedgerReader.of(ledger, clock).jobs()
    return night(fleet, actual(jobs, fleet, recall(ledger, jobs), clock), clock.now())


def list_models() -> ModelsFound:
    """The models, and what is wrong with those that are not whole."""
    volume.reload()
    return models_in(survey(Layout(Path(MODELS))), "the volume")


def archived_jobs(since: str) -> list[dict[str, Any]]:
    """The archived jobs that were posted since then."""
    volume.reload()
    return [job.as_json() for job in archived.archived_jobs(archived.archive_at(Path(MODELS)), parse_moment(since))]


def archived_audit(query: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of who did what that have left the ledger."""
    volume.reload()
    lines = archived_lines(archived.archive_at(Path(MODELS)), AuditQuery.from_json(query))
    return [line.as_json() for line in lines]


def archived_usage() -> dict[str, Any]:
    """What the archive knows of containers and usage."""
    volume.reload()
    return spending.archived_usage(archived.archive_at(Path(MODELS)))
