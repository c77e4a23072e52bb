"""The played month on one page of 100 columns: `python -m tests.support.month_report`, or `scripts/month`."""

import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from loguru import logger

from app.scheduler.night_plan import Night, NightStep
from jobs.core.units import human_bytes
from jobs.ledger.job import Job, JobState
from tests.support.month import BEGIN, DAYS, Month, foretold, played

WIDTH = 100
TOLD = ("pull", "rollback", "prune", "delete")


def report(month: Month) -> str:
    """The page. The registry is a double on whichever port was free, and is shown under a name instead."""
    sections = {
        "What happened, beside warm-ups and verifications that went well": _happened(month),
        "Nights": _nights(month),
        "Wakes": _wakes(month),
        "Price": _price(month),
        "Alerts": _alerts(month),
        "At the end": _end(month),
    }
    head = f"A month of a fleet: {DAYS} days from {BEGIN:%-d %B %Y}, times in {month.fleet.schedule.timezone}"
    parts = [head, *("\n".join([f"{name}", *(f"  {line}" for line in lines)]) for name, lines in sections.items())]
    return "\n\n".join(parts)


def _named(text: str, month: Month) -> str:
    return text.replace(month.registry.url.removeprefix("http://"), "registry.example")


def _at(month: Month, moment: datetime | None) -> str:
    return f"{moment.astimezone(month.fleet.schedule.zone):%d %b %H:%M}" if moment else "never"


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1].rstrip()}…"


def _happened(month: Month) -> Iterator[str]:
    """Everything but the warm-ups and verifications that went well: those are each night's."""
    reasons = {job.id: step.why for seen in month.nights for job in seen.posted for step in _steps(seen.planned, job)}
    for job in sorted(month.jobs(), key=lambda job: (job.posted_at, job.kind, job.subject)):
        if job.kind in TOLD or job.state is JobState.FAILED:
            subject = "" if job.subject == "*" else job.subject.removesuffix(":latest")
            why = reasons.get(job.id, f"asked for by {job.posted_by}")
            if job.state is JobState.FAILED:
                why = _named(str(job.attempts[-1].message), month)
            elif len(job.attempts) > 1:
                why += f"; done in attempt {len(job.attempts)}"
            line = f"{_at(month, job.posted_at)}  {job.kind:<8}  {subject:<15}  {job.state.value:<9}  {why}"
            yield _cut(line.rstrip(), WIDTH - 2)


def _steps(planned: Night, job: Job) -> list[NightStep]:
    return [step for step in planned.steps if (step.kind, step.subject) == (job.kind, job.subject)]


def _nights(month: Month) -> Iterator[str]:
    days = {seen.at.astimezone(month.fleet.schedule.zone).date() for seen in month.nights}
    same = sum(_pairs(seen.posted) == _pairs(seen.planned.steps) for seen in month.nights)
    yield f"{len(days)} of {DAYS} came; one was slept through, and one came again when the clock was set back"
    yield f"{same} of {len(month.nights)} runs posted exactly what `plan` had printed before"
    yield f"{sum(len(seen.again) for seen in month.nights)} jobs were posted by running each of them a second time"


def _pairs(of: Iterable[Job | NightStep]) -> list[tuple[str, str]]:
    return sorted((each.kind, each.subject) for each in of)


def _wakes(month: Month) -> Iterator[str]:
    yield "tier   windows open  again in one  nights  callers  starts foretold  started  most in a day"
    for tier in month.fleet.tiers:
        told, starts = foretold(month, tier), Counter(month.is_open(tier, at) for at in month.starts_of(tier))
        again, calls = starts[True] - told.openings, starts[False] - told.nights
        most = f"{max(month.own_wakes(tier).values())} of {month.fleet.tier(tier).own_wakes_per_day} allowed"
        yield (
            f"{tier:<6}{told.openings:>13}{again:>14}{told.nights:>8}{calls:>9}{month.starts_foretold(tier):>17}"
            f"{sum(starts.values()):>9}  {most}"
        )


def _price(month: Month) -> Iterator[str]:
    yield "tier    foretold  estimated from the containers' own seconds"
    for tier in month.fleet.tiers:
        yield f"{tier:<6}{foretold(month, tier).dollars:>10.1f}{month.dollars(tier):>11.1f}  dollars"


def _alerts(month: Month) -> Iterator[str]:
    yield "since         until         each told once as it came and once as it passed"
    for case in sorted(month.cases(), key=lambda case: (case.opened_at, case.id)):
        line = f"{_at(month, case.opened_at)}  {_at(month, case.recovered_at)}  {_named(case.incident.message, month)}"
        yield _cut(line, WIDTH - 2)


def _end(month: Month) -> Iterator[str]:
    found = month.survey()
    pinned = {model.parsed.folded() for model in month.fleet.models if model.pinned}
    for model in found.models:
        mark = "pinned" if model.name.folded() in pinned else "used"
        yield f"{str(model.name.folded()).removesuffix(':latest'):<16}{human_bytes(model.size):>7}  {mark}"
    quota = human_bytes(month.fleet.volume.quota_bytes)
    yield f"{human_bytes(found.usage_bytes)} of a quota of {quota}, {human_bytes(found.trash_bytes)} of it in the trash"


def main() -> None:
    logger.remove()
    with tempfile.TemporaryDirectory() as folder, played(Path(folder)) as month:
        sys.stdout.write(report(month) + "\n")


if __name__ == "__main__":
    main()
