"""What a prune of the volume would do now, for whoever mounts it: nothing here writes. No server is asked."""

from pathlib import Path
from typing import Any

from app.fleet import declared
from app.report import PREFIX, Report
from app.resources import MODELS, ledger, queue, weights
from jobs.clock import SystemClock
from jobs.layout import Layout
from jobs.ledger import Ledger
from jobs.protocols import DictLike
from jobs.pruning import Around, Plan
from jobs.survey import survey
from jobs.tasks import planned
from jobs.trashing import require_models_directory
from jobs.upkeep import recall


def around(book: Ledger, facts: DictLike) -> Around:
    """Who uses the weights, by what was recorded and what the servers reported last."""
    jobs = book.jobs()
    return recall(facts, jobs).around(jobs, loaded(facts))


def loaded(facts: DictLike) -> list[str]:
    """The models that servers have in memory, by their last reports."""
    reports = [Report.from_json(facts.get(key)) for key in list(facts.keys()) if key.startswith(PREFIX)]
    return [each.name for report in reports if report.state == "serving" for each in report.loaded]


def pruning(request: dict[str, Any]) -> Plan:
    """What a prune that is asked for in these words would do."""
    clock = SystemClock()
    weights.reload()
    layout = Layout(Path(MODELS))
    require_models_directory(layout)
    here = around(Ledger(queue, ledger, clock), ledger)
    return planned(survey(layout), here, declared().retention(), clock.now(), request)
