"""What the next night would do on this machine, by what is here and what the registries say. It posts nothing.

`ollama-modal plan` without a running `up` is little more than this, so what takes long to import comes with its need.
"""

import os
from collections.abc import Sequence

from app.fleet.schedule import jobs_of_night
from app.fleet.schema import Fleet
from app.local.plan import allowed_registries
from app.scheduler.night_plan import Actual, Night, UpstreamTag, asked_about, night
from jobs.batches.files.files_due import batches_due
from jobs.core.clock import Clock
from jobs.core.errors import Unsupported
from jobs.core.model_name import ModelName
from jobs.core.retry import NEVER
from jobs.home.home import Home, Stack
from jobs.home.prune_preview import loaded
from jobs.ledger.job import Job
from jobs.registry.mirror import mirrors, tokens
from jobs.store.protocols import ReadableDict
from jobs.weights.history import Memory, recall
from jobs.weights.layout import Layout
from jobs.weights.prune_plan import plan
from jobs.weights.survey import survey


def actual(
    stack: Stack, facts: ReadableDict, *, fleet: Fleet, memory: Memory, jobs: Sequence[Job], clock: Clock
) -> Actual:
    """How it is on this machine: the directory, the ledger, the servers, and what the registries say.

    Raises:
        Unsupported: the models directory is not ours.

    """
    if stack.models is None:
        raise Unsupported(f"the models directory is not ours to keep: {stack.why_by_server}")
    now, found = clock.now(), survey(Layout(stack.models))
    return Actual(
        found.known,
        _upstream(stack, fleet, asked_about(fleet, found.known), clock),
        memory,
        plan(found, memory.weights_use(jobs, loaded(stack.servers, clock)), stack.retention, now),
        jobs_of_night(fleet.schedule.times, jobs, now),
        frozenset(server.tier for server in stack.servers),
        batches_due(facts, jobs, stack.batches.keep, now),
    )


def _upstream(stack: Stack, fleet: Fleet, names: Sequence[ModelName], clock: Clock) -> dict[ModelName, UpstreamTag]:
    """What the registries say of these; none is asked about none."""
    if not names:
        return {}
    from app.scheduler.upstream_tags import upstream_tags  # noqa: PLC0415 - brings httpx, which takes long to import
    from jobs.registry.client import Registry  # noqa: PLC0415

    mirror = {"*": stack.mirror} if stack.mirror else mirrors(os.environ)
    registries = allowed_registries(os.environ, fleet, is_loopback=True)
    registry = Registry(clock=clock, mirrors=mirror, tokens=tokens(os.environ), registries=registries, requests=NEVER)
    return upstream_tags(registry, names)


def coming_night(home: Home, stack: Stack, fleet: Fleet, clock: Clock) -> Night:
    """What the next night would post now."""
    jobs, facts = home.reader(clock).jobs(), home.read_facts()
    found = actual(stack, facts, fleet=fleet, memory=recall(facts, jobs), jobs=jobs, clock=clock)
    return night(fleet, found, clock.now())
