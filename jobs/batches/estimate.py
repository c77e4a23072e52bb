"""What a batch will take, before it runs: tokens, seconds of a GPU, dollars, and when it will be done. Pure.

It follows from what finished batches measured of the model on its tier; else from the usage of people, whose requests
are told apart by model and tier as well; else from what is usual, which is called a guess with its reason.

More lines, bytes or tokens never take less. What several models take is the sum of what each takes alone; those of one
tier share its servers, and tiers work beside one another.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, Protocol

from jobs.batches.records import BatchUse, Estimate, LineError, in_dollars
from jobs.batches.speed import GUESSED, Speed, Speeds, guessed
from jobs.core.units import counted
from jobs.telemetry.usage import Row

Basis = Literal["measured", "usage", "guess"]
_BASES: tuple[Basis, ...] = ("measured", "usage", "guess")
"""The surest first."""

FILLS = 0.7
"""Of the lines that a server takes beside one another, so many of ten count as if they did not slow each other down:
a guess, for servers of which no batch has measured it."""


@dataclass(frozen=True)
class ServedLines:
    """What the read-through counted of the lines to one model.

    Args:
        model: as it is served.
        tier: where.
        lines: how many.
        prompt_bytes: of all of them.
        limited: those that limit their answer.
        asked: the tokens that these allow, added up.
        makes_tokens: whether their answers have any, as those of embeddings have not.

    """

    model: str
    tier: str
    lines: int
    prompt_bytes: int
    limited: int = 0
    asked: int = 0
    makes_tokens: bool = True


@dataclass(frozen=True)
class PricedTier:
    """What counts for an estimate of a tier.

    Args:
        dollars_per_second: of one server; None where nothing is paid by the second.
        beside: lines that one server takes beside one another.
        servers: that will answer.
        start_seconds: that a start takes, where the batch needs one.
        idle_seconds: that a server waits on after the last line, where the batch needed the start.

    """

    dollars_per_second: float | None = None
    beside: int = 1
    servers: int = 1
    start_seconds: float = 0.0
    idle_seconds: float = 0.0


OWN = PricedTier()
"""A tier of which nothing is declared."""


class CountedLines(Protocol):
    """What a read through a file counted of one model, under the name that lines have."""

    @property
    def model(self) -> str: ...
    @property
    def lines(self) -> int: ...
    @property
    def prompt_bytes(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def unlimited(self) -> int: ...


Where = Callable[[str], tuple[str, str]]
"""As what a model is served that lines name so, and on which tier.

Raises:
    NotFound: it is not here.
"""


def served(models: Iterable[CountedLines], where: Where, endpoint: str) -> list[ServedLines]:
    """The lines of a batch to each model that serves them; several names of one model are one."""
    found: dict[tuple[str, str], ServedLines] = {}
    makes_tokens = endpoint != "/v1/embeddings"
    for each in models:
        model, tier = where(each.model)
        known = found.get((model, tier), ServedLines(model, tier, 0, 0, makes_tokens=makes_tokens))
        found[model, tier] = replace(
            known,
            lines=known.lines + each.lines,
            prompt_bytes=known.prompt_bytes + each.prompt_bytes,
            limited=known.limited + each.lines - each.unlimited,
            asked=known.asked + each.max_tokens,
        )
    return list(found.values())


@dataclass(frozen=True)
class ModelEstimate:
    """What the lines to one model will take."""

    lines: ServedLines
    use: BatchUse
    basis: Basis
    reason: str

    def as_json(self) -> dict[str, object]:
        return {
            "model": self.lines.model,
            "tier": self.lines.tier,
            "lines": self.lines.lines,
            **self.use.as_json(),
            "basis": self.basis,
            "reason": self.reason,
        }


def model_estimate(lines: ServedLines, tier: PricedTier, speeds: Speeds, rows: Iterable[Row] = ()) -> ModelEstimate:
    """What the lines to one model will take, by the surest that is known of it."""
    speed, basis, reason = _known(lines, tier, speeds, rows)
    of_tokens = GUESSED if basis != "measured" else speed
    read = of_tokens.read_of(lines.lines, lines.prompt_bytes)
    free = lines.lines - lines.limited
    made = speed.made_of(lines.limited, lines.asked, free) if lines.makes_tokens else 0.0
    seconds = speed.seconds_of(lines.lines, read, made)
    gpu_seconds = speed.gpu_seconds_of(seconds)
    dollars = None if tier.dollars_per_second is None else gpu_seconds * tier.dollars_per_second
    return ModelEstimate(lines, BatchUse(round(read), round(made), seconds, gpu_seconds, dollars), basis, reason)


def _known(lines: ServedLines, tier: PricedTier, speeds: Speeds, rows: Iterable[Row]) -> tuple[Speed, Basis, str]:
    what = f"{lines.model} on {lines.tier}" if lines.tier else lines.model
    if (measured := speeds.get((lines.tier, lines.model))) and measured.is_measured:
        return measured, "measured", f"by what batches of {what} took"
    beside = max(1.0, FILLS * tier.beside)
    if used := of_usage(rows, lines.tier, lines.model, beside):
        count = counted(round(used.lines), "request")
        return used, "usage", f"by {count} of people to {what}: no batch has measured it yet"
    return guessed(beside), "guess", f"nothing was asked of {what} yet: it is taken to be as fast as is usual"


def of_usage(rows: Iterable[Row], tier: str, model: str, beside: float) -> Speed | None:
    """What people's requests took, as if they had been alike; None without any that made it to its end.

    They came one by one, more or less: a batch's come beside one another.
    """
    sums = [
        row.sums
        for row in rows
        if (row.about.tier, row.about.model, row.about.ending, row.about.batch) == (tier, model, "success", "")
        and row.sums.count > 0
    ]
    lines, seconds = sum(each.count for each in sums), sum(each.seconds for each in sums)
    if not lines or seconds <= 0:
        return None
    read, made = sum(each.prompt_tokens for each in sums), sum(each.output_tokens for each in sums)
    return Speed(
        lines=lines,
        seconds=seconds,
        gpu_seconds=seconds / beside,
        read=read,
        made=made,
        read_read=read * read / lines,
        read_made=read * made / lines,
        made_made=made * made / lines,
        read_seconds=read * seconds / lines,
        made_seconds=made * seconds / lines,
        free=lines,
        free_made=made,
    )


def estimate(
    lines: Sequence[ServedLines],
    tiers: Mapping[str, PricedTier],
    speeds: Speeds,
    rows: Sequence[Row],
    starts_at: datetime,
) -> Estimate:
    """What a batch will take that starts then.

    Args:
        lines: of each of its models.
        tiers: those where they are served.
        speeds: what finished batches measured.
        rows: the usage.
        starts_at: when a GPU is asked for its first line.

    """
    return told([model_estimate(each, tiers.get(each.tier, OWN), speeds, rows) for each in lines], tiers, starts_at)


def told(models: Sequence[ModelEstimate], tiers: Mapping[str, PricedTier], starts_at: datetime) -> Estimate:
    """The estimates of its models, as one of the batch."""
    on_tier: dict[str, float] = defaultdict(float)
    for each in models:
        on_tier[each.lines.tier] += each.use.gpu_seconds
    known = {tier: tiers.get(tier, OWN) for tier in on_tier}
    seconds = max((taken / max(1, known[tier].servers) for tier, taken in on_tier.items()), default=0.0)
    lasts = max(
        (taken / max(1, known[tier].servers) + known[tier].start_seconds for tier, taken in on_tier.items()),
        default=0.0,
    )
    basis = _BASES[max((_BASES.index(each.basis) for each in models), default=-1)]
    wake = _dollars((each.start_seconds, each) for each in known.values())
    idle = _dollars((each.idle_seconds, each) for each in known.values())
    return Estimate(
        use=total(each.use for each in models),
        seconds=seconds,
        extra_dollars=None if wake is None or idle is None else wake + idle,
        done_at=starts_at + timedelta(seconds=lasts),
        basis=basis,
        wake_dollars=wake,
        idle_dollars=idle,
        reason="; ".join(dict.fromkeys(each.reason for each in models if each.basis == basis)),
    )


def _dollars(parts: Iterable[tuple[float, PricedTier]]) -> float | None:
    """What so many seconds of servers cost together; None where nothing of it is paid by the second."""
    paid = [seconds * tier.dollars_per_second for seconds, tier in parts if tier.dollars_per_second is not None]
    return sum(paid) if paid else None


def total(uses: Iterable[BatchUse]) -> BatchUse:
    """What several took together; of no price where none has one."""
    sums = BatchUse()
    for each in uses:
        priced = [dollars for dollars in (sums.dollars, each.dollars) if dollars is not None]
        sums = BatchUse(
            sums.prompt_tokens + each.prompt_tokens,
            sums.output_tokens + each.output_tokens,
            sums.line_seconds + each.line_seconds,
            sums.gpu_seconds + each.gpu_seconds,
            sum(priced) if priced else None,
        )
    return sums


# -- what it may cost --------------------------------------------------------------------------------------------------

TOO_DEAR = "max_dollars_exceeded"
SPENT = "budget_spent"


def too_dear(max_dollars: float | None, expected: Estimate) -> LineError | None:
    """Why a batch is refused before it runs, by what it may cost; None where it is not, or nothing is paid."""
    if max_dollars is None or expected.dollars is None or expected.dollars <= max_dollars:
        return None
    sure = "" if expected.basis == "measured" else f" ({expected.reason}; a small batch of it first would measure it)"
    return LineError(
        TOO_DEAR,
        f"the batch will cost about {expected.price}, and max_dollars is {in_dollars(max_dollars)}; raise it, or post"
        f" fewer lines{sure}",
        param="max_dollars",
    )


@dataclass(frozen=True)
class DollarLimit:
    """What a batch may cost, while it runs: the price of its lines so far, and of the wake that it needed.

    Args:
        max_dollars: None for no limit.
        extra_dollars: for the wake and the idle time after it, once the batch has taken one.

    """

    max_dollars: float | None
    extra_dollars: float = 0.0

    def __call__(self, use: BatchUse) -> bool:
        """Whether it is spent."""
        return (
            self.max_dollars is not None
            and use.dollars is not None
            and use.dollars + self.extra_dollars >= self.max_dollars
        )

    def error(self, use: BatchUse) -> LineError:
        """Why the batch ended."""
        cost = (use.dollars or 0.0) + self.extra_dollars
        return LineError(
            SPENT,
            f"it has cost about {in_dollars(cost)}, and max_dollars is {in_dollars(self.max_dollars or 0)}; what is"
            " done is kept, and the other lines are in the error file: post those again to go on",
        )
