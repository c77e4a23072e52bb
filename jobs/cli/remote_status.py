"""How a gateway elsewhere stands, in words: what `status`, `models`, `route` and plans print when given a URL."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jobs.core.clock import parse_moment
from jobs.core.errors import NotFound, Trouble
from jobs.core.sanitize import plain
from jobs.core.units import human_bytes, human_span
from jobs.home.gateway_client import GatewayClient

if TYPE_CHECKING:
    from jobs.home.status import ModelsFound


def remote_models(remote: GatewayClient) -> "ModelsFound":
    """The models there, as a models directory here is shown."""
    from jobs.home.status import ModelEntry, ModelsFound  # noqa: PLC0415 - to be told of a route takes none of it
    from jobs.models.aliases import Aliases  # noqa: PLC0415

    listed, aliases, complaints = remote.models()
    found = ModelsFound(remote.url, tuple(map(ModelEntry.of, listed))).with_aliases(
        Aliases({each.text: str(each.target) for each in aliases})
    )
    return replace(found, complaints=tuple(map(plain, complaints)))


def absent_there(remote: GatewayClient, text: str) -> Trouble | None:
    """Why nothing can be done with a model that the gateway has not: with the names that come near, or of an alias with
    what it stands for."""
    try:
        remote.route(text, None)
    except NotFound as error:
        return error
    return None


@dataclass(frozen=True)
class Served:
    """What a gateway makes of a model's name.

    Args:
        model: that is answered.
        is_alias: the name stands for it, and is not its own.
        tier: that answers.
        context: tokens, for who asks for no other.
        set_here: what is set for the model there, in words; empty where nothing is.
        engine: what answers there; an older gateway does not say, and has Ollamas alone.

    """

    model: str
    is_alias: bool
    tier: str
    context: int | None
    set_here: str
    engine: str = "ollama"

    @classmethod
    def at(cls, remote: GatewayClient, text: str) -> "Served | None":
        """None where the gateway does not say."""
        try:
            route = remote.route(text, None)
        except Trouble:  # what else is asked of it tells why; this only adds to what is known of a model that is there
            return None
        told = (str(fact).partition(SET) for fact in route["facts"])
        set_here = next((plain(rest) for before, found, rest in told if found and not before), "")
        context = int(route["context"]) if route.get("context") else None
        alias, engine = bool(route.get("alias")), plain(route.get("engine") or "ollama")
        return cls(plain(route["model"]), alias, plain(route["tier"]), context, set_here, engine)

    def as_json(self) -> dict[str, Any]:
        return {"model": self.model, "alias": self.is_alias, "tier": self.tier, "context": self.context}


SET = "set for it: "
"""Begins the fact of a route that tells what is set for the model."""


def status_lines(health: Mapping[str, Any], url: str, now: datetime) -> Iterator[str]:
    """Line by line. The words are those of the status of this machine, as far as they have the same to say."""
    from jobs.telemetry.nightly_report import line  # noqa: PLC0415 - as above

    yield f"gateway  {url} answers, ollama-modal {plain(health['version'])}"
    for problem in health["problems"]:
        yield f"trouble  {plain(problem)}"
    for note in health.get("notes", ()):
        yield f"note     {plain(note)}"
    yield "tiers    " + ("as they are known there; asleep is healthy" if health["tiers"] else "none")
    for tier in health["tiers"]:
        held = f", {tier['held']} callers wait" if tier["held"] else ""
        why = f": {plain(tier['why'])}" if tier["why"] else ""
        age = human_span(now - parse_moment(tier["since"]))
        engine = "" if tier.get("engine", "ollama") == "ollama" else f", {plain(tier['engine'])}"
        yield f"  {plain(tier['tier'])}{engine}  {plain(tier['state'])} for {age}{held}{why}"
    models = health["models"]
    yield f"models   {models['count']}, {human_bytes(models['bytes'])}"
    known = [f"{count:,} {plain(state)}" for state, count in health["jobs"].items() if count]
    yield f"jobs     {', '.join(known) or 'none'}"
    yield f"night    {plain(line(health['night'], now))}"


@dataclass(frozen=True)
class RemotePreview:
    """What would be done, as a gateway says."""

    document: Mapping[str, Any]

    @property
    def summary(self) -> str:
        return plain(self.document["summary"])

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(map(str, self.document["notes"]))

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        for row in self.document["rows"]:
            yield str(row["do"]), str(row["what"]), str(row["size"]), str(row["why"])

    def as_json(self) -> dict[str, Any]:
        return dict(self.document["plan"])


def route_lines(route: Mapping[str, Any]) -> Iterator[str]:
    """Where a model is answered, and why."""
    asked = (
        f"{plain(route['alias'])} is {plain(route['model'])}, which" if route.get("alias") else plain(route["model"])
    )
    yield f"{asked} is answered on tier {plain(route['tier'])}"
    for fact in route["facts"]:
        yield f"  {plain(fact)}"
    if route.get("warning"):
        yield f"  warning: {plain(route['warning'])}"
