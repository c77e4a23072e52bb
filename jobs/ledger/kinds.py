"""The kinds of jobs, a record each: what it is about, who runs it, and its parameters.

From these records are made: the commands of `ollama-modal`, the entry points of `modal run`, the bodies of the API with
their document, the request as it is stored, and its words in a job's story. So a parameter is added to a kind in two
files: here, and where its task reads it from the request.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from jobs.core.errors import BadRequest
from jobs.core.model_name import ModelName
from jobs.core.units import human_bytes, parse_bytes

WEIGHTS_LANE = "weights"
SERVERS_LANE = "servers"
BATCHES_LANE = "batches"
LANES = (WEIGHTS_LANE, SERVERS_LANE, BATCHES_LANE)

ALL = "*"
"""The subject of a job about every model."""

MOST_DAYS = 3650

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Parameter:
    """What a job of a kind can be told beside its model.

    Args:
        name: its key in the request, and in the API; as an option, `--name` with dashes.
        value_type: of its value in the request.
        help: what it does, for `--help` and for the API's document.
        default: its value when it is left out.
        metavar: what stands for its value in `--help`.
        choices: the values that there are; any when empty.
        above: its value is greater.
        least: its value is at least this; a text is at least as long.
        most: its value is at most this; a text is at most as long.
        parse: reads what a person types, given with the name of the option, where that is not the value itself.
        description: instead of `help` in the API's document, where the value is not written as it is typed.
        show: its value in words.

    """

    name: str
    value_type: type[str] | type[int] | type[float] | type[bool]
    help: str
    default: Any = None
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    above: float | None = None
    least: int | None = None
    most: int | None = None
    parse: Callable[[str, str], Any] | None = None
    description: str | None = None
    show: Callable[[Any], str] = repr

    @property
    def option(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def typed_as(self) -> type[str] | type[int] | type[float] | type[bool]:
        """The type of what a person types."""
        return str if self.parse else self.value_type

    def allows(self, number: float) -> bool:
        """Whether a number is within its limits."""
        is_low = (self.above is not None and number <= self.above) or (self.least is not None and number < self.least)
        return not is_low and (self.most is None or number <= self.most)


class JobRequest(NamedTuple):
    """What is posted, in the order in which a ledger takes it."""

    kind: str
    subject: str
    request: dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of job.

    Args:
        name: what it is called everywhere.
        lane: whose workers run it.
        attempts: how often it is tried in all, when whoever posts it does not say.
        help: what it does.
        model: whether it is about one model, about one or all of them, or about all.
        parameters: what else it can be told.
        has_dry_run: whether what it would do can be shown without posting it.
        needs: what has to be here of its model, or come by a pull that is under way, else nothing is posted.
        changes_weights: whether it changes which weights there are of what it is about. What failed there before is
            then no longer what somebody waits for.
        takes_away: whether it takes weights from their place. It is then never posted again among others, nor after
            something else changed those weights, unless somebody says so.
        waits_for: the kinds of which a job about the same model has to end before one of this kind begins.
        has_command: whether people post it as it is, by a command, an entry point and the API of jobs. What is posted
            by other ways alone has none of them.
        ended_by_worker: whether a worker has something to finish before a job of this kind is cancelled. A cancel of
            one that nobody runs makes it due, and whoever claims it ends it.

    """

    name: str
    lane: str
    attempts: int
    help: str
    model: Literal["one", "one or all", "all"] = "one"
    parameters: tuple[Parameter, ...] = ()
    has_dry_run: bool = False
    needs: Literal["nothing", "model", "model or trash"] = "nothing"
    changes_weights: bool = False
    takes_away: bool = False
    waits_for: tuple[str, ...] = ()
    has_command: bool = True
    ended_by_worker: bool = False

    def read(self, typed: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that a person typed, as values; what is None or False was left out.

        Raises:
            BadRequest: one of them makes no sense.

        """
        given = {each.name: typed.get(each.name) for each in self.parameters}
        left_out = {name for name, value in given.items() if value is None or value is False}
        return {each.name: self._value(each, given[each.name]) for each in self.parameters if each.name not in left_out}

    def _value(self, parameter: Parameter, typed: Any) -> Any:
        value = parameter.parse(typed, parameter.option) if parameter.parse else typed
        if parameter.choices and value not in parameter.choices:
            raise BadRequest(
                f"there is no {parameter.name} to {self.name} called {value!r}",
                hint=f"{parameter.name}s are {', '.join(parameter.choices)}",
            )
        if parameter.value_type in {int, float} and not parameter.allows(value):
            low = f"at least {parameter.least}" if parameter.above is None else f"more than {parameter.above:g}"
            shown = f"{typed:g}" if isinstance(typed, float) else typed
            raise BadRequest(f"{parameter.option} {shown} makes no sense", hint=f"{low}, at most {parameter.most}")
        return value

    def request(
        self, model: str | None = None, parameters: Mapping[str, Any] = _NOTHING, defaults: Mapping[str, Any] = _NOTHING
    ) -> JobRequest:
        """What is posted for a job of this kind.

        Args:
            model: what it is about; None for all models.
            parameters: by name; None is left out.
            defaults: of the place, for what is left out.

        Raises:
            BadRequest: the model's name is none, or the kind has no such parameter.

        """
        if strange := parameters.keys() - {each.name for each in self.parameters}:
            raise BadRequest(f"a {self.name} has no parameter {min(strange)!r}")
        is_all = self.model == "all" or (model is None and self.model == "one or all")
        subject = ALL if is_all else str(ModelName.parse(model or "").folded())
        request: dict[str, Any] = {} if self.model == "all" else {"model": model}
        for each in self.parameters:
            value = parameters.get(each.name)
            request[each.name] = defaults.get(each.name, each.default) if value is None else value
        return JobRequest(self.name, subject, request)

    def without_effect(self, asked: Mapping[str, Any], first: Mapping[str, Any]) -> list[str]:
        """The options of a request that the job which was posted `first` goes on without."""
        return [
            each.option
            for each in self.parameters
            if asked.get(each.name) not in {None, each.default, first.get(each.name)}
        ]


Kinds = Mapping[str, Kind]

WAYS = ("auto", "registry", "server")

_WAY = Parameter("way", str, "How: our own puller, or an Ollama server's", default="auto", choices=WAYS)
_RATE_LIMIT = Parameter(
    "rate_limit", int, "At most so much a second, like 20MB", metavar="SIZE", least=1, most=10**15, parse=parse_bytes,
    description="At most so many bytes a second",
    show=lambda rate: f"{human_bytes(rate)}/s" if isinstance(rate, int) else repr(rate),
)  # fmt: skip
_UNUSED_DAYS = Parameter(
    "unused_days", float, "Also models that nobody used for so many days", metavar="N", above=0, most=MOST_DAYS
)
_EMPTY_TRASH = Parameter("empty_trash", bool, "Do not wait for the trash's grace")
_TIER = Parameter("tier", str, "Where; by the model's size when left out", metavar="NAME", least=1, most=64)

_KINDS = (
    Kind(
        "pull", WEIGHTS_LANE, 8,  # a resumed pull loses almost nothing, so it may be interrupted often
        "Bring a model here, through the queue. One that is under way is shared.",
        parameters=(_WAY, _RATE_LIMIT), changes_weights=True,
    ),
    Kind(
        "verify", WEIGHTS_LANE, 4, "Hash every byte of a model, or of all. What is damaged is fetched again.",
        model="one or all", needs="model",
    ),
    Kind(
        "delete", WEIGHTS_LANE, 3, "Remove a model and the blobs that no other model needs.",
        needs="model", changes_weights=True, takes_away=True,
    ),
    Kind(
        "prune", WEIGHTS_LANE, 3, "Move to the trash what nobody needs. What lay there for its grace is deleted.",
        model="all", parameters=(_UNUSED_DAYS, _EMPTY_TRASH), has_dry_run=True,
        changes_weights=True, takes_away=True,
    ),
    Kind(
        "rollback", WEIGHTS_LANE, 3,
        "Bring back the version of a model that was there before. Again, and the newer one is back.",
        needs="model or trash", changes_weights=True, takes_away=True,
    ),
    Kind(
        "warm", SERVERS_LANE, 3, "Load a model. The next question to it is answered at once.",
        parameters=(_TIER,), needs="model", waits_for=("pull", "delete", "rollback"),
    ),
    Kind(
        "batch", BATCHES_LANE, 1000,  # it is handed back, or waits for its start, as often as may be
        "Answer each line of a file once.", has_command=False, ended_by_worker=True,
    ),
    Kind(
        "prune_batches", BATCHES_LANE, 3, "Remove files and batches that are no longer kept.",
        model="all", has_command=False,
    ),
)  # fmt: skip
KINDS: Kinds = {kind.name: kind for kind in _KINDS}


def with_commands(kinds: Kinds) -> Kinds:
    """Those that people post as they are."""
    return {name: kind for name, kind in kinds.items() if kind.has_command}


def kind_named(name: str, kinds: Kinds = KINDS) -> Kind:
    """The kind of this name.

    Raises:
        BadRequest: there is no such kind.

    """
    try:
        return kinds[name]
    except KeyError:
        raise BadRequest(f"there is no kind of job {name!r}", hint=f"kinds are {', '.join(kinds)}") from None
