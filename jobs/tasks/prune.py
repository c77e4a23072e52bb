"""Prune: delete from the trash what is due, then move to it what retention wants to go."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from jobs.core.retention import RetentionRules
from jobs.tasks.context import Result, TaskContext
from jobs.weights import prune_plan, trash_moves
from jobs.weights.prune_plan import PrunePlan, WeightsUse
from jobs.weights.survey import Survey
from jobs.worker.attempt import RunningAttempt


def prune(attempt: RunningAttempt, context: TaskContext) -> Result:
    """Follow the plan of now: delete from the trash what is due, then move to it what retention wants to go."""
    weights = context.require_weights()
    attempt.progress.begin("looking")
    trash_moves.require_models_directory(weights.layout)
    # What an earlier attempt threw has its grace before it: --empty-trash meant what lay there when the job began.
    began = attempt.job.attempts[0].started_at if attempt.n > 1 else None
    plan = plan_request(
        weights.survey(),
        context.weights_use(),
        context.retention,
        context.clock.now(),
        attempt.job.request,
        began=began,
    )
    trash_moves.follow(weights, plan, still_ours=attempt.hold, begin_phase=attempt.progress.begin)
    return plan.as_json()


def plan_request(
    survey: Survey,
    use: WeightsUse,
    retention: RetentionRules,
    now: datetime,
    request: Mapping[str, Any],
    *,
    began: datetime | None = None,
) -> PrunePlan:
    """What a prune that is asked for in these words would do: the dry one and the real one ask here.

    One that `began` earlier and goes on empties the trash of what lay there by then.
    """
    days = request.get("unused_days")
    asked = retention if days is None else replace(retention, unused=timedelta(days=days))
    empty_trash = bool(request.get("empty_trash", False))
    return prune_plan.plan(survey, use, asked, now, empty_trash=empty_trash, began=began)
