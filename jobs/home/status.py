"""What is here, for the command line: the models and what is wrong with them, the servers and whether they answer.

It reads what `up` wrote down and asks the servers; it changes nothing, and needs no running `up`. Servers of this
machine are asked without httpx, which takes longer to import than all of this takes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.core import foreign
from jobs.core.clock import Clock, isoformat
from jobs.core.errors import NetworkTrouble, ServerTrouble, Trouble, Unauthorized
from jobs.core.model_name import ModelName
from jobs.core.retry import NEVER
from jobs.core.sanitize import plain
from jobs.core.units import human_bytes, human_span, local_time
from jobs.home.gateway_client import GatewayClient, client_for
from jobs.home.home import Home, LocalServer, Stack
from jobs.http.loopback import LoopbackClient, is_plain_loopback
from jobs.ledger.job import JobState
from jobs.listing.dead_memory import known_jobs, of_last_night
from jobs.models.aliases import Alias, Aliases
from jobs.models.aliases import complaints as complaints_of
from jobs.ollama.responses import Listed, Running, listed_in
from jobs.store import keys
from jobs.telemetry.nightly_report import OF_NIGHTS, ids_of_night, line, ran_last, report
from jobs.weights.layout import Layout
from jobs.weights.manifest import ModelDetails
from jobs.weights.survey import Broken, Survey, SurveyedModel, survey

if TYPE_CHECKING:
    from jobs.models.card import KnownModel
    from jobs.ollama.client import OllamaClient
    from jobs.weights.directory import ModelsDirectory

PATIENCE = timedelta(seconds=5)
"""A server on loopback answers a short question at once, or something is wrong with it."""


@dataclass(frozen=True)
class ModelEntry:
    """A whole model, from the directory or from a server's list."""

    name: str
    size: int
    digest: str
    modified_at: datetime
    details: ModelDetails
    alias_of: str = ""
    """The model, where this is another name of it."""

    @classmethod
    def of(cls, model: SurveyedModel | Listed) -> "ModelEntry":
        return cls(str(model.name), model.size, model.digest, model.modified_at, model.details)

    def named(self, alias: str) -> "ModelEntry":
        """The same model by another name."""
        return replace(self, name=alias, alias_of=self.name)

    def row(self, now: datetime) -> tuple[object, ...]:
        details = self.details
        return (
            f"{self.name} is {self.alias_of}" if self.alias_of else self.name,
            human_bytes(self.size),
            self.digest[:12],
            local_time(self.modified_at, now),
            details.family or "-",
            details.parameter_size or "-",
            details.quantization_level or "-",
        )

    def as_json(self) -> dict[str, Any]:
        """As Ollama's own list shows it."""
        shown = asdict(self) | {"modified_at": isoformat(self.modified_at), "details": self.details.as_json()}
        if alias_of := shown.pop("alias_of"):
            shown["details"]["parent_model"] = alias_of
        return shown


@dataclass(frozen=True)
class ModelsFound:
    where: str
    models: tuple[ModelEntry, ...]
    complaints: tuple[str, ...] = ()
    patterns: tuple[Alias, ...] = ()
    """Names of no list, by which models are found."""

    def with_aliases(self, aliases: Aliases) -> "ModelsFound":
        """The same models by their other names too."""
        by_name = {ModelName.parse(entry.name).folded(): entry for entry in self.models}
        named = [
            entry.named(str(alias.name))
            for name, entry in by_name.items()
            for alias in aliases.by_target.get(name, ())
            if alias.name.folded() not in by_name
        ]
        wrong = complaints_of(aliases, lambda name: name.folded() in by_name)
        models = tuple(sorted((*self.models, *named), key=lambda entry: entry.name))
        return replace(self, models=models, complaints=(*self.complaints, *wrong), patterns=aliases.patterns)


def local_models(home: Home, clock: Clock) -> ModelsFound:
    """The models of the stack that `up` composed last.

    Raises:
        Refused: there never was one.

    """
    stack = home.need_stack()
    aliases = aliases_here(home, stack)
    if stack.models is not None:
        return models_in(survey(Layout(stack.models)), str(stack.models)).with_aliases(aliases)
    server = stack.servers[0]
    with client_of(server, clock) as ollama:
        listed = sorted(map(ModelEntry.of, ollama.tags()), key=lambda entry: entry.name)
    return ModelsFound(server.url, tuple(listed)).with_aliases(aliases)


def aliases_here(home: Home, stack: Stack) -> Aliases:
    """Those of the fleet that `up` was started with, and those that were made."""
    return Aliases(stack.aliases).with_made(home.read_facts().get(keys.ALIASES))


def models_in(found: Survey, where: str) -> ModelsFound:
    whole = sorted(found.models, key=lambda model: model.name)
    return ModelsFound(where, tuple(map(ModelEntry.of, whole)), tuple(complaints(found)))


def weights_of(models: Path, home: Home, clock: Clock) -> "ModelsDirectory":
    from jobs.weights.directory import ModelsDirectory  # noqa: PLC0415 - whoever only looks needs none of it

    return ModelsDirectory(models, lock=home.weights_lock, persist=lambda: None, clock=clock)


def client_of(server: LocalServer, clock: Clock) -> "OllamaClient":
    """A server that is asked once, and not for long."""
    from jobs.ollama.client import OllamaClient  # noqa: PLC0415 - brings httpx, which takes long to import

    return OllamaClient(server.url, policy=NEVER, clock=clock, stall=PATIENCE)


def complaints(found: Survey) -> list[str]:
    """What is wrong, each with what to do about it."""
    lines = []
    for broken in found.broken:
        lines += [f"warning: {broken.name} is broken: {plain(broken.cause)}", f"hint: {_cure(broken)}"]
    for stray in found.poisoned:
        lines += [
            f"warning: {plain(stray.path)} ends every pull that a server makes of that blob",
            "hint: delete that file",
        ]
    return lines


def card_complaints(models: "Iterable[KnownModel]") -> list[str]:
    """What is wrong with the files of whole models, each with what to do about it."""
    lines = []
    for model in models:
        if model.card and model.card.wrong:
            lines += [
                f"warning: of {model.name} not everything is known: {plain(model.card.wrong)}",
                f"hint: if no server can use it either: `ollama-modal delete {model.name}`",
            ]
    return lines


def _cure(broken: Broken) -> str:
    return f"fetch what is missing: `ollama-modal pull {broken.name}`; or `ollama-modal delete {broken.name}`"


@dataclass(frozen=True)
class LocalTier:
    """A server of the stack, as it answers now."""

    server: LocalServer
    version: str | None
    loaded: tuple[Running, ...] = ()
    problem: str | None = None
    engine: str = "Ollama"

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.server.tier,
            "url": self.server.url,
            "answers": self.version is not None,
            "version": self.version,
            "engine": self.engine,
            "problem": self.problem,
            "loaded": [{"name": model.name, "size": model.size, "size_vram": model.size_vram} for model in self.loaded],
        }

    def lines(self) -> list[str]:
        head = f"  {self.server.tier}  {self.server.url}  "
        if self.version is None:
            return [f"{head}does not answer: {plain(self.problem)}"]
        return [
            f"{head}answers, {plain(self.engine)} {plain(self.version)}",
            *(
                f"    {plain(model.name)} is loaded,"
                f" {human_bytes(model.size_vram)} of {human_bytes(model.size)} on the GPU"
                for model in self.loaded
            ),
        ]


@dataclass(frozen=True)
class LocalStatus:
    home: Home
    up_pid: int | None
    stack: Stack | None
    tiers: tuple[LocalTier, ...]
    models: int | None
    usage_bytes: int | None
    queue: Mapping[str, int]
    night: Mapping[str, Any]
    problems: tuple[str, ...] = ()
    """What the gateway says is wrong, or why it says nothing."""
    notes: tuple[str, ...] = ()
    """What of the fleet has no effect here, as the gateway says."""

    def as_json(self) -> dict[str, Any]:
        stack = self.stack
        is_up = self.up_pid is not None and stack is not None
        return {
            "home": str(self.home.root),
            "up": {"pid": self.up_pid, "since": isoformat(stack.started_at)} if is_up and stack else None,
            "gateway": stack.gateway if is_up and stack else None,
            "problems": list(self.problems),
            "notes": list(self.notes),
            "simulated": stack.simulated if stack else None,
            "tiers": [tier.as_json() for tier in self.tiers],
            "ways": list(stack.pull_ways) if stack else [],
            "models": {
                "directory": str(stack.models) if stack and stack.models else None,
                "count": self.models,
                "usage_bytes": self.usage_bytes,
                "quota_bytes": stack.retention.quota_bytes if stack else None,
            },
            "jobs": dict(self.queue),
            "night": dict(self.night),
        }

    def lines(self, now: datetime) -> list[str]:
        return [
            *self._up(now),
            *(f"trouble  {plain(problem)}" for problem in self.problems),
            *(f"note     {plain(note)}" for note in self.notes),
            *self._servers(),
            *self._models(),
            self._queue(),
            *self._night(now),
            f"home     {plain(self.home.root)}",
        ]

    def _up(self, now: datetime) -> list[str]:
        if self.up_pid is None:
            return ["up       is not running: jobs wait (start it: `ollama-modal up`)"]
        if self.stack is None or self.stack.pid != self.up_pid:
            return [f"up       is starting, pid {self.up_pid}"]
        since = self.stack.started_at
        runs = f"up       runs with pid {self.up_pid} since {local_time(since, now)} ({human_span(now - since)})"
        return [runs, *([f"gateway  {self.stack.gateway}"] if self.stack.gateway else [])]

    def _servers(self) -> list[str]:
        if self.stack is None:
            return []
        kind = "SIMULATED, they answer nothing of use" if self.stack.simulated else "real"
        return [f"servers  {kind}", *(line for tier in self.tiers for line in tier.lines())]

    def _models(self) -> list[str]:
        stack = self.stack
        if stack is None:
            return []
        if stack.models is None:
            return [f"models   kept by the server; pulls go by it: {plain(stack.why_by_server)}"]
        quota = (
            f" of a quota of {human_bytes(stack.retention.quota_bytes)}"
            if stack.retention.quota_bytes
            else ", no quota"
        )
        return [
            f"models   {self.models} in {plain(stack.models)}, {human_bytes(self.usage_bytes or 0)}{quota}",
            f"ways     {', '.join(stack.pull_ways)}",
        ]

    def _queue(self) -> str:
        known = [f"{count:,} {state}" for state, count in self.queue.items() if count]
        return f"jobs     {', '.join(known) or 'none'}"

    def _night(self, now: datetime) -> list[str]:
        """Nothing where none is to be expected: without a fleet file there are no nights."""
        has_nights = self.night["at"] or (self.stack and self.stack.fleet)
        return [f"night    {line(self.night, now)}"] if has_nights else []


def local_status(home: Home, clock: Clock, key: str | None = None) -> LocalStatus:
    """How things stand; `key` opens the gateway, where it wants one. Where that answers it has counted all jobs; else
    those are told that have not ended, and as failed those that need somebody."""
    night = local_night(home, clock)
    stack = home.read_stack()
    pid = home.up_pid()
    tiers = tuple(tier_now(server, clock) for server in stack.servers) if stack else ()
    answers = stack and stack.gateway and stack.pid == pid
    told = _health(str(stack.gateway), key, clock) if stack and answers else _Told()
    problems, notes = told.problems, told.notes
    queue = told.jobs or known_jobs(home.reader(clock), clock.now()).counts
    if stack is None or stack.models is None:
        return LocalStatus(home, pid, stack, tiers, None, None, queue, night, problems, notes)
    found = survey(Layout(stack.models))
    return LocalStatus(home, pid, stack, tiers, len(found.models), found.usage_bytes, queue, night, problems, notes)


def local_night(home: Home, clock: Clock) -> dict[str, Any]:
    """What the last night did on this machine."""
    entries, reader = dict(home.read_facts().items(*OF_NIGHTS)), home.reader(clock)
    if ran_last(entries) is None:
        return report(entries, ())
    return report(entries, of_last_night(reader, known_jobs(reader, clock.now()), ids_of_night(entries)))


@dataclass(frozen=True)
class _Told:
    """What the gateway says is wrong, what it notes, and how many jobs there are in each state."""

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    jobs: Mapping[str, int] | None = None


def _health(gateway: str, key: str | None, clock: Clock) -> _Told:
    """What the gateway of the running stack says."""
    patient = client_for(gateway, PATIENCE)
    with GatewayClient(gateway, key, clock=clock, client=patient, policy=NEVER) as remote:
        try:
            health = remote.health()
            counts = {str(state): int(health["jobs"].get(state, 0)) for state in JobState}
            problems, notes = (tuple(map(str, health.get(what, ()))) for what in ("problems", "notes"))
            return _Told(problems, notes, None if problems else counts)
        except Unauthorized:
            why = "whether all of it works is told to whoever has a key: set OLLAMA_MODAL_KEY"
            return _Told(() if key else (why,))
        except Trouble as trouble:
            return _Told((f"the gateway does not say how it is: {trouble}",))


def tier_now(server: LocalServer, clock: Clock) -> LocalTier:
    """What a server of the stack answers now, or why it does not."""
    try:
        if not is_plain_loopback(server.url):
            with client_of(server, clock) as ollama:
                return LocalTier(server, ollama.version(), tuple(ollama.ps()), engine=ollama.engine())
        version = _document(server, "/api/version", "asking for the version")
        running = _document(server, "/api/ps", "listing running models")
        said = foreign.fields(version)
        loaded = tuple(map(Running.of, listed_in(running)))
        return LocalTier(
            server, str(said.get("version", "")), loaded, engine=foreign.text(said.get("engine")) or "Ollama"
        )
    except Trouble as trouble:
        return LocalTier(server, None, problem=str(trouble))


def _document(server: LocalServer, path: str, doing: str) -> Any:
    """What a server of this machine answers.

    Raises:
        NetworkTrouble: it does not, or what comes makes no sense.

    """
    url = server.url.rstrip("/") + path
    try:
        answer = LoopbackClient(PATIENCE.total_seconds()).request("GET", url)
    except NetworkTrouble as trouble:
        raise type(trouble)(f"{doing}: {trouble}") from trouble
    if not answer.is_success:
        raise ServerTrouble(f"{doing}: the server answers {answer.status_code}")
    try:
        return answer.json()
    except ValueError as error:
        raise ServerTrouble(f"{doing}: the answer is no JSON") from error
