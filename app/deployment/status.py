"""How a deployment stands, by what was last reported to the ledger. It asks no server, so it wakes none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.model_server.health import Health, of_tier
from app.model_server.report import Report
from app.resources import APP
from jobs.core.sanitize import plain
from jobs.core.units import human_bytes, human_span
from jobs.ledger.job import Job
from jobs.listing.dead_memory import KnownJobs
from jobs.store import keys
from jobs.store.protocols import DictLike
from jobs.telemetry.incidents import Case, cases
from jobs.telemetry.nightly_report import OF_NIGHTS, line, report


@dataclass(frozen=True)
class DeploymentStatus:
    deployed: bool
    gateway: str | None
    servers: tuple[Report, ...]
    tiers: tuple[Health, ...]
    incidents: tuple[Case, ...]
    generation: Any
    night: Mapping[str, Any]
    jobs: Mapping[str, int]
    now: datetime

    def as_json(self) -> dict[str, Any]:
        return {
            "app": APP,
            "deployed": self.deployed,
            "gateway": self.gateway,
            "tiers": [{"tier": each.tier, "state": each.state, "why": each.why} for each in self.tiers],
            "servers": [each.as_json() for each in self.servers],
            "incidents": [each.as_json() for each in self.incidents],
            "generation": self.generation,
            "night": dict(self.night),
            "jobs": dict(self.jobs),
        }

    def lines(self) -> list[str]:
        known = [f"{count:,} {state}" for state, count in self.jobs.items() if count]
        return [
            f"app      {APP} is {'deployed' if self.deployed else 'not deployed'}",
            *([f"gateway  {plain(self.gateway)}"] if self.gateway else ()),
            "tiers    " + ", ".join(f"{each.tier} is {each.state}" for each in self.tiers),
            "servers  " + ("as they reported last" if self.servers else "none has reported yet: asleep is healthy"),
            *(line for each in self.servers for line in self._server(each)),
            f"jobs     {', '.join(known) or 'none'}",
            f"night    {line(self.night, self.now)}",
            *(f"trouble  {plain(each.incident.message)}" for each in self.incidents),
        ]

    def _server(self, report: Report) -> list[str]:
        age = human_span(self.now - report.at)
        gpu = report.gpu.name if report.gpu else "no GPU"
        why = f": {report.why}" if report.why else ""
        words = [report.tier, report.container, f"{report.state} {age} ago{why}", gpu]
        return [
            "  " + "  ".join(map(plain, words)),
            *(
                f"    {plain(each.name)} is loaded,"
                f" {human_bytes(each.size_vram)} of {human_bytes(each.size)} on the GPU"
                for each in report.loaded
            ),
        ]


def status(
    facts: DictLike,
    now: datetime,
    tiers: Iterable[str],
    *,
    deployed: bool,
    known: KnownJobs,
    of_night: Sequence[Job],
    gateway: str | None = None,
) -> DeploymentStatus:
    """
    Args:
        facts: the ledger's dict.
        now: the time.
        tiers: those that are declared; of another one that has reported, its servers alone are told.
        deployed: whether there is a deployment.
        known: what is known of the jobs.
        of_night: those of the last night.
        gateway: where it answers.
    """
    entries = dict(facts.items(keys.SERVER, *OF_NIGHTS)) | {keys.WEIGHTS_GENERATION: facts.get(keys.WEIGHTS_GENERATION)}
    servers = [Report.from_json(value) for key, value in entries.items() if key.startswith(keys.SERVER)]
    newest = sorted(servers, key=lambda report: report.at, reverse=True)
    return DeploymentStatus(
        deployed=deployed,
        gateway=gateway,
        servers=tuple(newest),
        tiers=tuple(of_tier(tier, [each for each in servers if each.tier == tier], now) for tier in tiers),
        incidents=tuple(case for case in cases(entries) if case.is_open),
        generation=entries.get(keys.WEIGHTS_GENERATION),
        jobs=known.counts,
        night=report(entries, of_night),
        now=now,
    )
