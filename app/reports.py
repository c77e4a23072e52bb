"""How a deployment stands, by what was last reported to the ledger. It asks no server, so it wakes none."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.freshness import GENERATION
from app.resources import APP
from jobs.clock import parse_moment
from jobs.plain import plain
from jobs.protocols import DictLike
from jobs.story import lasted
from jobs.units import human_bytes


@dataclass(frozen=True)
class Status:
    deployed: bool
    servers: tuple[Mapping[str, Any], ...]
    generation: Any
    jobs: Mapping[str, int]
    now: datetime

    def as_json(self) -> dict[str, Any]:
        return {
            "app": APP,
            "deployed": self.deployed,
            "servers": [dict(each) for each in self.servers],
            "generation": self.generation,
            "jobs": dict(self.jobs),
        }

    def lines(self) -> list[str]:
        known = [f"{count:,} {state}" for state, count in self.jobs.items() if count]
        return [
            f"app      {APP} is {'deployed' if self.deployed else 'not deployed'}",
            "servers  " + ("as they reported last" if self.servers else "none has reported yet: asleep is healthy"),
            *(line for each in self.servers for line in self._server(each)),
            f"jobs     {', '.join(known) or 'none'}",
        ]

    def _server(self, report: Mapping[str, Any]) -> list[str]:
        age = lasted(self.now - parse_moment(report["at"]))
        gpu = (report.get("gpu") or {}).get("name", "no GPU")
        why = f": {report['why']}" if report.get("why") else ""
        words = [report["tier"], report["container"], f"{report['state']} {age} ago{why}", gpu]
        return [
            "  " + "  ".join(map(plain, words)),
            *(
                f"    {plain(each['name'])} is loaded,"
                f" {human_bytes(each['size_vram'])} of {human_bytes(each['size'])} on the GPU"
                for each in report.get("loaded", ())
            ),
        ]


def status(facts: DictLike, now: datetime, *, deployed: bool, jobs: Mapping[str, int]) -> Status:
    entries = dict(facts.items())
    servers = [value for key, value in entries.items() if key.startswith("server/")]
    newest = sorted(servers, key=lambda report: str(report["at"]), reverse=True)
    return Status(deployed, tuple(newest), entries.get(GENERATION), jobs, now)
