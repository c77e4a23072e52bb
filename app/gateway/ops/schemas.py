"""The bodies of the ops API, typed, for its document and for what comes in. What goes out is made elsewhere.

The body of a job that is posted is made from the record of its kind.

A job has one JSON for the command line and for this API, `Job.as_json`; the shapes here only describe it, and a test
tries whether they do.
"""

import inspect
from datetime import date, datetime
from functools import cache
from typing import Annotated, Any, Literal, Union

from fastapi import Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model
from pydantic.json_schema import SkipJsonSchema

from app.engines.engine import EngineName
from jobs.cli.signature import parameter
from jobs.core.since import parse_since
from jobs.ledger.job import JobState
from jobs.ledger.kinds import Kind, Kinds, Parameter, with_commands
from jobs.telemetry.cold_starts import Phase

_NAME = r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,79}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})?)$"
"""What any server takes; a namespace and a host may come before, as in hf.co/user/repo:Q4_K_M."""

ModelField = Annotated[
    str,
    Field(
        min_length=1,
        max_length=700,
        description="A model's name by Ollama's grammar: `[host/][namespace/]model[:tag]`",
        examples=["llama3.2", "deepseek-r1:32b", "hf.co/user/repo:Q4_K_M"],
        json_schema_extra={"pattern": _NAME.replace("^(", "^(([A-Za-z0-9_][A-Za-z0-9_-]{0,79}/)?", 1)},
    ),
]

Left = SkipJsonSchema[None]
"""A parameter that may be left out. It cannot be sent as null, so the document must not say so."""


def _number(value: Any) -> Any:
    """What JSON calls a whole number, 3.0 included, and no text or truth that pydantic would turn into one."""
    if isinstance(value, str | bool):
        raise ValueError("not a number")  # noqa: TRY004 - pydantic words a ValueError
    return value


# The limits come first: those that stand after a validator are checked, but not documented.
Attempts = Annotated[int, Field(ge=1, le=100), BeforeValidator(_number)]
Since = Annotated[
    str,
    Field(max_length=64),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": "^[0-9]{1,3}(s|m|min|h|d|w)$"},
                {"type": "string", "format": "date"},
                {"type": "string", "format": "date-time"},
            ],
            "examples": ["7d", "24h", "2026-09-15", "2026-09-15T08:00:00Z"],
        }
    ),
]
"""A span before now, a day in UTC, or a moment; `since_of` reads it as the command line does."""


def since_of(text: str | None, now: datetime) -> datetime | None:
    """The moment that a `since` names, in UTC.

    Raises:
        BadRequest: it names none.

    """
    return None if text is None else parse_since(text, "since", now)


_JOB = {
    "id": "k7m2p9x4qd-1",
    "kind": "pull",
    "subject": "llama3.2:latest",
    "state": "running",
    "progress": {"completed": 1073741824, "total": 2019393189, "bytes_per_second": 88000000.0, "status": "pulling"},
    "attempts": [
        {
            "n": 1,
            "worker": "worker@host:17",
            "started_at": "2026-09-15T08:00:01.000Z",
            "ended_at": None,
            "outcome": None,
            "class": None,
            "message": None,
            "hint": None,
            "not_before": None,
            "last_sign": "2026-09-15T08:00:13.000Z",
        }
    ],
    "attempts_allowed": 8,
    "request": {"model": "llama3.2", "way": "auto", "rate_limit": None},
    "posted_at": "2026-09-15T08:00:00.000Z",
    "posted_by": "alice",
    "ended_at": None,
    "result": None,
    "cancel_asked": False,
    "dismissed": False,
}


def _example(document: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [document]})


def examples(shape: type[BaseModel]) -> list[Any]:
    extra: Any = shape.model_config.get("json_schema_extra")
    return list(extra["examples"])


class Failure(BaseModel):
    """What went wrong, and what to do about it."""

    model_config = _example({"error": "there is no job 'nope'", "hint": "`ollama-modal jobs` lists them"})

    error: str
    hint: str | None = None


FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"model": Failure, "description": "This cannot be done as asked"},
    401: {"model": Failure, "description": "No key, or none that is good"},
    403: {"model": Failure, "description": "The key is good, but not for this"},
    404: {"model": Failure, "description": "There is no such thing"},
    422: {"model": Failure, "description": "A parameter is missing or wrong"},
    429: {"model": Failure, "description": "The key has asked too often; see Retry-After"},
    503: {"model": Failure, "description": "Not now; see Retry-After"},
}
"""What any operation may answer."""

# -- jobs, as they come in ---------------------------------------------------------------------------------------------


class JobBody(BaseModel):
    """What is posted for a job of any kind; of each kind there is a model of its own."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    model: str | None
    attempts: Annotated[Attempts | None, Field(description="How often to try in all")] = None


_MODEL: dict[str, Any] = {"one": (ModelField, ...), "one or all": (ModelField | None, None), "all": (None, None)}


def job_body(kinds: Kinds) -> Any:
    """The type of a body that is one of these kinds, as far as people post them."""
    return Annotated[Union[tuple(map(_body, with_commands(kinds).values()))], Field(discriminator="kind")]  # noqa: UP007 - of as many as there are


@cache
def _body(kind: Kind) -> type[JobBody]:
    example = {"kind": kind.name, **({"model": "llama3.2"} if kind.model == "one" else {})}
    fields: dict[str, Any] = {each.name: (_annotation(each), each.default) for each in kind.parameters}
    fields |= {"kind": (Literal[kind.name], ...), "model": _MODEL[kind.model]}
    config = {"json_schema_extra": {"examples": [example]}}
    name = f"{kind.name.capitalize()}Body"
    return create_model(name, __base__=JobBody, __doc__=kind.help, __cls_kwargs__=config, **fields)


def query_of(kind: Kind) -> list[inspect.Parameter]:
    """The parameters of a kind, as those of a query."""
    return [
        parameter(each.name, Annotated[bool, Query(description=each.help)], False)
        if each.value_type is bool
        else parameter(each.name, Annotated[_value(each) | Left, Query(description=each.help)], each.default)
        for each in kind.parameters
    ]


def _annotation(of: Parameter) -> Any:
    value = Annotated[_value(of), BeforeValidator(_number)] if of.value_type in {int, float} else _value(of)
    return Annotated[value | None if of.default is None else value, Field(description=of.description or of.help)]


def _value(of: Parameter) -> Any:
    length = of.value_type is str
    limits = Field(
        gt=of.above,
        ge=None if length else of.least,
        le=None if length else of.most,
        min_length=of.least if length else None,
        max_length=of.most if length else None,
    )
    if of.choices:
        return Literal[of.choices]
    return Annotated[of.value_type, limits]


# -- jobs, as they go out ----------------------------------------------------------------------------------------------


class ProgressEntry(BaseModel):
    completed: int
    total: int
    bytes_per_second: float
    status: str


class AttemptEntry(BaseModel):
    n: int
    worker: str
    started_at: datetime
    ended_at: datetime | None
    outcome: Literal["succeeded", "failed", "retry", "cancelled", "lost"] | None
    failure_class: Annotated[str | None, Field(alias="class")]
    message: str | None
    hint: str | None
    not_before: datetime | None
    last_sign: Annotated[datetime, Field(description="When its worker was last heard of")]


class JobResponse(BaseModel):
    """A job with its whole story, as `ollama-modal job ID --json` prints it."""

    model_config = _example(_JOB)

    id: str
    kind: str
    subject: str
    state: JobState
    progress: ProgressEntry
    attempts: list[AttemptEntry]
    attempts_allowed: int
    request: dict[str, Any]
    posted_at: datetime
    posted_by: str
    ended_at: datetime | None
    result: dict[str, Any] | None
    cancel_asked: bool
    dismissed: Annotated[bool, Field(description="It failed for good, and nobody needs to hear of it any more")]


class JobReference(BaseModel):
    id: str
    kind: str
    subject: str
    cursor: Annotated[str, Field(description="A list of jobs that fit this one begins with it")]


class DeadGroupEntry(BaseModel):
    """Jobs of one kind that failed for good in one way, that nothing supersedes, and that nobody dismissed."""

    kind: str
    failure_class: Annotated[str, Field(alias="class")]
    count: int
    newest: JobReference
    newest_at: Annotated[datetime, Field(description="When the newest of them was posted")]
    message: Annotated[str | None, Field(description="Why the newest of them failed")]
    remedy: str
    few: Annotated[list[JobReference], Field(description="Each of them, unless they are so many that they are folded")]
    can_retry: Annotated[bool, Field(description="To post all of them again may help, and takes no weights away")]


_COUNTS = {"queued": 0, "running": 1, "waiting": 0, "succeeded": 0, "failed": 0, "cancelled": 0}


class JobsResponse(BaseModel):
    """A page of the jobs that fit, the newest first."""

    model_config = _example(
        {
            "jobs": [_JOB],
            "next": None,
            "current": ["k7m2p9x4qd-1"],
            "waits_for": {},
            "groups": {},
        }
    )

    jobs: list[JobResponse]
    next: Annotated[
        str | None,
        Field(description="The `cursor` of the page after this one; null where no job comes after these"),
    ]
    current: Annotated[
        list[str], Field(description="The ids on this page that failed or were cancelled, and that nothing supersedes")
    ]
    waits_for: Annotated[
        dict[str, JobReference],
        Field(description="By the id of a job that may not begin yet, the job about the same model that has to end"),
    ]
    groups: Annotated[
        dict[str, DeadGroupEntry],
        Field(description="When `folded`: by the id on this page that stands for several failures of one kind, all"),
    ]


class JobsSummaryResponse(BaseModel):
    """How many jobs there are, and what has failed and needs somebody, of all jobs that the ledger has."""

    model_config = _example({"total": 1, "open": 1, "counts": _COUNTS, "dead": []})

    total: int
    open: Annotated[int, Field(description="How many have not ended")]
    counts: dict[JobState, int]
    dead: Annotated[list[DeadGroupEntry], Field(description="Failures that need somebody, the largest group first")]


class RefusedEntry(BaseModel):
    id: str
    error: str


class ChangedJobsResponse(BaseModel):
    """What was done with the jobs of a group, and how many of them are left for the next time."""

    model_config = _example({"changed": 50, "left": 189, "refused": []})

    changed: int
    left: int
    refused: list[RefusedEntry]


# -- how things stand --------------------------------------------------------------------------------------------------


class ModelResponse(BaseModel):
    """A whole model, as Ollama's own list shows it."""

    model_config = ConfigDict(extra="allow")

    name: str
    size: int
    digest: str
    modified_at: datetime
    details: dict[str, Any]
    can_roll_back: Annotated[bool, Field(description="The trash has an earlier version")] = False


class AliasResponse(BaseModel):
    """Another name for a model."""

    alias: Annotated[str, Field(description="The name, or a pattern in which * stands for anything")]
    model: str
    by: Annotated[str, Field(description="The key that made it, or `the fleet` where it is declared")]
    is_here: Annotated[bool, Field(description="Whether the model is here")]


class ModelsResponse(BaseModel):
    models: list[ModelResponse]
    aliases: Annotated[list[AliasResponse], Field(description="Other names of models")] = []
    complaints: Annotated[list[str], Field(description="What is wrong with the rest, in lines for people")]


class ComingEntry(BaseModel):
    """How far the start of a server has come, or a load in one."""

    model: Annotated[str, Field(description="Empty while nobody knows")]
    words: Annotated[str, Field(description="What goes on, as who waits is told")]
    kind: Annotated[Literal["start", "load"], Field(description="Whether a server has to start for it")]
    phase: Annotated[Phase, Field(description="That goes on")]
    since: datetime
    size: Annotated[int | None, Field(description="Of the model, in bytes")]
    read: Annotated[int | None, Field(description="So many of these bytes have come in; null where nobody knows")]
    bytes_per_second: int | None
    seconds_left: Annotated[float | None, Field(description="About, by earlier ones of the tier; null without any")]


class TierResponse(BaseModel):
    """How a tier stands. Asleep is healthy."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "tier": "a10g",
                    "engine": "ollama",
                    "state": "asleep",
                    "since": "2026-09-15T08:00:00.000Z",
                    "why": "nobody asks",
                    "held": 0,
                    "coming": None,
                }
            ]
        },
    )

    tier: str
    engine: Annotated[EngineName, Field(description="What answers there, and so which routes it speaks")] = "ollama"
    state: Literal["asleep", "waking", "ready", "degraded", "lost"]
    since: datetime
    why: str
    held: Annotated[int, Field(description="Callers that wait for it now")]
    coming: Annotated[ComingEntry | None, Field(description="The start or load that goes on there")] = None


class TiersResponse(BaseModel):
    tiers: list[TierResponse]


class RouteResponse(BaseModel):
    """On which tier a model is answered, and why, in words and numbers."""

    model_config = ConfigDict(extra="allow")

    model: str
    alias: Annotated[str | None, Field(description="What was asked for, where that is an alias")] = None
    tier: str
    engine: Annotated[EngineName, Field(description="What answers there, and so which routes it speaks")] = "ollama"
    facts: list[str]
    warning: str | None = None


class UsageEntry(BaseModel):
    """One day's requests to one model, by one key, on one tier, with one ending; lines of a batch by themselves."""

    model_config = ConfigDict(extra="allow")

    day: date
    model: str
    key: str
    tier: str
    ending: str
    count: int
    prompt_tokens: int
    output_tokens: int
    batch: str = ""


class UsageResponse(BaseModel):
    usage: list[UsageEntry]


class HealthResponse(BaseModel):
    """How all of it stands. Nothing was asked of a server for it, so it wakes none."""

    status: Literal["ok", "trouble"]
    problems: list[str]
    notes: Annotated[list[str], Field(description="What of the fleet has no effect here")] = []
    version: str
    models: dict[str, int]
    tiers: list[TierResponse]
    jobs: Annotated[dict[str, int], Field(description="How many jobs are in each state")]
