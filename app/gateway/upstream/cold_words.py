"""What a caller of a sleeping tier waits for, in words and numbers. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.model_server.report import Report
from jobs.core.clock import isoformat
from jobs.core.units import human_span, part_of_bytes
from jobs.telemetry.cold_estimate import Situation, seconds_left
from jobs.telemetry.cold_starts import OF_THE_READ, TELL_AT_LEAST_EVERY, ColdStart, Progress

FRESH = 3 * TELL_AT_LEAST_EVERY
"""A server that starts or loads says so as often as that; one that was heard last longer ago was killed."""


@dataclass(frozen=True)
class Coming:
    """A start or a load that goes on.

    Args:
        tier: where.
        model: that is coming; empty while nobody knows.
        since: when it began.
        now: how far it has come.
        left: the seconds that it takes yet, where earlier ones tell.

    """

    tier: str
    model: str
    since: datetime
    now: Situation
    left: float | None

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "words": self.words("", self.model),
            "kind": self.now.kind,
            "phase": self.now.phase,
            "since": isoformat(self.since),
            "size": self.now.size,
            "read": self.now.read,
            "bytes_per_second": self.now.bytes_per_second and round(self.now.bytes_per_second),
            "seconds_left": None if self.left is None else round(self.left, 1),
        }

    def words(self, model: str, shown: str, before: float | None = None) -> str:
        """For a caller who waits for a model, which is another one where these differ.

        Args:
            model: that the caller waits for.
            shown: what that caller may be told of what is coming.
            before: how long the caller's own load takes after that, where it is another one.

        """
        text = self._doing(shown)
        if model and self.model and model != self.model:
            left = None if self.left is None or before is None else self.left + before
            return f"{text}, then {short(model)}{_about(left)}"
        return f"{text}{_about(self.left)}"

    def _doing(self, shown: str) -> str:
        what, now = short(shown), self.now
        if now.phase in OF_THE_READ and not what:
            return f"{self.tier} reads a model"
        size = f", {part_of_bytes(now.read, now.size)}" if now.size else ""
        whose = f" for {what}" if what else ""
        doing = {
            "container": f"gets a container{whose}",
            "weights": f"looks at the weights{whose}",
            "engine": f"starts its engine{whose}",
            "bytes": f"reads {what}{size}",
            "memory": f"puts {what} into memory",
        }.get(now.phase, f"has {what or 'the model'} in memory")
        return f"{self.tier} {doing}"


def _about(left: float | None) -> str:
    if left is None:
        return ""
    seconds = max(1, round(left))
    return ", at any moment" if left < 0.5 else f", about {f'{seconds} s' if seconds < 60 else human_span(seconds)}"


def short(model: str) -> str:
    """As people type it."""
    return model.removesuffix(":latest")


def reported(
    reports: Sequence[Report], now: datetime, silent_since: datetime | None = None
) -> tuple[Report, Progress] | None:
    """The start or load that goes on by the servers' own word, and who said so; the one that was told of last.

    Args:
        reports: of a tier.
        now: the time.
        silent_since: from then on none of its servers answers: one that served before was killed.

    """
    going_on = [
        (report, each)
        for report in reports
        if report.state == "waking" or (report.state == "serving" and not _fell_silent(report, silent_since))
        if report.age(now) < FRESH
        for each in report.progress
        if not each.is_over
    ]
    return max(going_on, key=lambda found: found[0].written_at, default=None)


def _fell_silent(report: Report, since: datetime | None) -> bool:
    return since is not None and report.written_at < since


def coming(tier: str, found: tuple[Report, Progress], history: Sequence[ColdStart], now: datetime) -> Coming:
    """What is reported, as it is now."""
    report, progress = found
    assert progress.phase is not None
    situation = Situation(
        kind=progress.kind,
        phase=progress.phase,
        in_phase=progress.in_phase + max(0.0, report.age(now).total_seconds()),
        size=progress.size,
        read=progress.read,
        bytes_per_second=progress.bytes_per_second,
    )
    since = min(now, report.here(progress.at))
    return Coming(tier, progress.model, since, situation, seconds_left(history, tier, situation))
