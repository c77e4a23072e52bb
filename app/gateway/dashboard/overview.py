"""What the page shows beside jobs, models and tiers: `GET /ops/v1/board`.

Whose key it is, what is declared of tiers and models, what is spent at this moment, when each model was last used,
what runs next by itself, and what to do about each class of failure. It reads what is written down, and asks a server
only where that costs nothing.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.fleet.schedule import due
from app.fleet.schema import Fleet, WindowConfig
from app.gateway.auth.keys import Caller
from app.gateway.event_loop.long_answers import json_response
from app.gateway.ops.post_jobs import MayRead
from app.model_server.report import REPORT_STALE, Report
from jobs.core.clock import Clock, isoformat
from jobs.core.units import counted
from jobs.ledger.job_text import REMEDIES, REMEDIES_OF_KINDS

MayName = Callable[[str], bool]


class CallerEntry(BaseModel):
    name: str
    scopes: list[str]
    models: Annotated[list[str], Field(description="Patterns of those that it may use; none of them is every model")]
    keyless: Annotated[bool, Field(description="No keys are configured here, so everybody may do everything")]


class ContainerEntry(BaseModel):
    model_config = ConfigDict(extra="allow")

    container: str
    state: str
    at: AwareDatetime
    loaded: list[dict[str, Any]]


class TierOverview(BaseModel):
    gpu: str | None
    vram_gb: float | None
    dollars_per_hour: Annotated[float | None, Field(description="One container, while it is up, where it is rented")]
    dollars_now: Annotated[
        float | None, Field(description="An hour, with all containers that are up now; null where nothing is rented")
    ]
    containers: list[ContainerEntry]


class ModelOverview(BaseModel):
    tier: str
    pinned: bool
    warmed: bool


class RunEntry(BaseModel):
    what: str
    at: AwareDatetime
    does: str


class PricesEntry(BaseModel):
    as_of: str
    source: str


class OverviewResponse(BaseModel):
    """What stands beside jobs, models and tiers on the page."""

    simulated: Annotated[bool, Field(description="The servers only pretend: nothing that they answer is of use")]
    caller: CallerEntry
    rented: Annotated[bool, Field(description="Servers are paid by the second; else they are this machine's own")]
    prices: PricesEntry | None
    quota_bytes: int | None
    tiers: dict[str, TierOverview]
    models: Annotated[
        dict[str, ModelOverview],
        Field(description="Those that are here or declared, by their names in full and in small letters"),
    ]
    last_used: dict[str, AwareDatetime]
    next: Annotated[list[RunEntry], Field(description="What runs by itself, soonest first")]
    remedies: Annotated[
        dict[str, str],
        Field(
            description="What to do about a failed job, by class, or by `kind/class` where that kind needs another"
            " remedy; {id} and {subject} are to be filled in"
        ),
    ]


async def nothing_newer() -> None:
    """The reports are as new as they get."""


@dataclass(frozen=True)
class Overview:
    """Collects what the page shows beside jobs, models and tiers, for one caller.

    Args:
        clock: the time.
        reports: of the servers that are up, with what is in their memory now.
        refresh: has the servers asked for that first, where it costs nothing.
        routes: the tier that answers for each model that is here, by its folded name.
        fleet: what is declared; None where nothing is.
        quota_bytes: for the weights; the fleet's when left out.
        keyless: whether no keys are configured.
        rented: servers are paid by the second, and ticks come, as on Modal; on one machine only nights and windows do,
            and the fleet's prices add up to nothing.
        simulated: the servers only pretend.

    """

    clock: Clock
    reports: Callable[[], Sequence[Report]]
    routes: Callable[[], Mapping[str, str]] = dict
    fleet: Fleet | None = None
    quota_bytes: int | None = None
    keyless: Callable[[], bool] = lambda: False
    rented: bool = True
    simulated: bool = False
    refresh: Callable[[], Awaitable[None]] = nothing_newer

    def as_json(self, caller: Caller, last_used: Mapping[str, datetime]) -> dict[str, Any]:
        """All of it, for this caller; with when each model was last used, by its folded name."""
        fleet, now = self.fleet, self.clock.now()
        may_name = caller.may_name
        prices = fleet.prices if fleet else None
        used = {name: isoformat(at) for name, at in last_used.items() if may_name(name)}
        return {
            "simulated": self.simulated,
            "caller": {
                "name": caller.name,
                "scopes": sorted(caller.scopes, reverse=True),
                "models": list(caller.models),
                "keyless": self.keyless(),
            },
            "rented": self.rented,
            "prices": prices and {"as_of": prices.as_of.isoformat(), "source": prices.source},
            "quota_bytes": fleet.volume.quota_bytes if fleet and self.quota_bytes is None else self.quota_bytes,
            "tiers": self._tiers(now, may_name),
            "models": {name: each for name, each in self._models().items() if may_name(name)},
            "last_used": used,
            "next": list(upcoming(fleet, now, rented=self.rented, may_name=may_name)) if fleet else [],
            "remedies": {cause: _for_a_page(text) for cause, text in _REMEDIES.items()},
        }

    def _tiers(self, now: datetime, may_name: MayName) -> dict[str, Any]:
        up = [each for each in self.reports() if each.state == "serving" and now - each.at < REPORT_STALE]
        names = [*(self.fleet.tiers if self.fleet else ()), *(each.tier for each in up)]
        return {
            name: self._tier(name, [each for each in up if each.tier == name], may_name)
            for name in dict.fromkeys(names)
        }

    def _tier(self, name: str, up: Sequence[Report], may_name: MayName) -> dict[str, Any]:
        declared = self.fleet.tiers.get(name) if self.fleet else None
        hourly = self.fleet.dollars_per_hour(name) if self.fleet and declared else None
        paid = hourly if self.rented else None
        reported = next((each.gpu for each in up if each.gpu), None)
        return {
            "gpu": (declared and declared.gpu_text) or (reported and reported.name),
            "vram_gb": declared.least_vram_gb if declared else reported and round(reported.vram_bytes / 1e9, 1),
            "dollars_per_hour": hourly,
            "dollars_now": _now(up, paid) if self.rented and self.fleet else None,
            "containers": [
                {
                    "container": each.container,
                    "state": each.state,
                    "at": isoformat(each.at),
                    "in_flight": each.in_flight,
                    "loaded": [
                        {"name": model.name, "size": model.size} for model in each.loaded if may_name(model.name)
                    ],
                }
                for each in up
            ],
        }

    def _models(self) -> dict[str, Any]:
        here = {name: {"tier": tier, "pinned": False, "warmed": False} for name, tier in self.routes().items()}
        declared = {
            str(model.parsed.folded()): {"tier": model.tier, "pinned": model.pinned, "warmed": model.warmed}
            for model in (self.fleet.models if self.fleet else ())
        }
        return {**here, **declared}


def _now(up: Sequence[Report], paid: float | None) -> float:
    """What those that are up cost an hour, by their own word: of a tier that is gone nobody else knows it."""
    return round(sum(each.dollars_per_hour or paid or 0.0 for each in up), 2)


_REMEDIES = {**REMEDIES, **{f"{kind}/{cause}": text for (kind, cause), text in REMEDIES_OF_KINDS.items()}}


def _for_a_page(remedy: str) -> str:
    """The same for a reader who has a button for trying again."""
    return remedy.replace("{subject!r}", "{subject}").removesuffix(": `ollama-modal retry {id}`")


def upcoming(
    fleet: Fleet, now: datetime, *, rented: bool = True, may_name: MayName = lambda _: True
) -> Iterable[dict[str, str]]:
    """What runs next by itself, soonest first."""
    times, zone = fleet.schedule.times, fleet.schedule.zone
    runs = [(next(due(times.nightly, zone, now)), "Nightly", _nightly(fleet, rented=rented))]
    if rented:
        does = "ends attempts that went silent, and sees to work that is due"
        runs += [(next(due(times.tick, zone, now)), "Tick", does)]
    runs += [_window(window, fleet, now, may_name) for window in fleet.windows]
    for at, what, does in sorted(runs, key=lambda run: run[0]):
        yield {"what": what, "at": isoformat(at), "does": does}


def _nightly(fleet: Fleet, *, rented: bool) -> str:
    pinned = sum(model.pinned for model in fleet.models)
    warmed = sum(model.warmed for model in fleet.models)
    parts = ["moves to the trash what nobody needs"]
    if pinned:
        parts.append(f"pulls what is missing of {counted(pinned, 'pinned model')}")
    if fleet.models:
        parts.append("pulls newer versions of declared models")
    parts.append("verifies a share of the weights")
    if warmed:
        parts.append(f"{'wakes servers to try' if rented else 'loads'} {counted(warmed, 'model')}")
    if rented:
        parts.append("archives what is old")
    return ", ".join(parts)


def _window(window: WindowConfig, fleet: Fleet, now: datetime, may_name: MayName) -> tuple[datetime, str, str]:
    zone, length = fleet.schedule.zone, timedelta(hours=window.hours)
    models = ", ".join(filter(may_name, window.models)) or "models of others"
    began = [*takewhile(lambda start: start <= now, due(window.start, zone, now - length))]
    if began:
        closes = began[-1] + length
        return closes, f"The window of {window.tier} closes", f"it is awake until then, with {models} loaded"
    opens = next(due(window.start, zone, now))
    return opens, f"The window of {window.tier} opens", f"awake for {window.hours} h, with {models} loaded"


def router(overview: Overview, last_used: Callable[[], Awaitable[Mapping[str, datetime]]]) -> APIRouter:
    """
    Args:
        overview: collects the rest.
        last_used: when each model was, by its folded name.
    """
    api = APIRouter(tags=["state"])

    @api.get("/board", response_model=OverviewResponse, operation_id="tell_ops_v1_board_get")
    async def board(caller: MayRead) -> Response:
        """Tell what stands beside jobs, models and tiers: prices, pins, last uses, next runs."""
        await overview.refresh()
        return await json_response(overview.as_json, caller, await last_used())

    return api
