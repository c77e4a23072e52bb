"""What a key has taken of its budgets, what it is granted, and what is left until when. Pure.

A budget is given out in slices: a gateway is granted some of it before it lets requests in, and says afterwards what
they took. `grants` keeps both in the ledger's dict. What an account was granted counts as used until it has ended and
told what it took: of a gateway that was killed nobody knows, and in doubt it is closed.

Dollars are not added up but priced: what is kept are the seconds that requests took on each tier, as the usage has
them, so that budgets follow `cost` whenever that learns more of what containers counted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any, Protocol, Self

from jobs.access.limits import UNITS, Budget, Limits, Period, Unit
from jobs.core import foreign
from jobs.core.clock import isoformat, parse_moment
from jobs.core.errors import StoreUnusable, TooManyRequests
from jobs.store import keys

Amounts = Mapping[Unit, float]

LEAST: Amounts = {"requests": 1.0, "tokens": 1.0, "gpu_seconds": 0.001, "dollars": 0.000001}
"""Less than that is nothing: a request is whole, and sums of fractions are never quite what they should be."""


class BudgetSpent(TooManyRequests):
    """A budget is spent; asking again before it begins anew does not help."""


# -- spans of time -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """One day, or one month, by the clocks of a time zone."""

    period: Period
    name: str
    began: datetime
    ends: datetime

    def holds(self, moment: datetime) -> bool:
        return self.began <= moment < self.ends


def span_of(period: Period, moment: datetime, zone: tzinfo) -> Span:
    """The day or the month in which a moment lies."""
    day = moment.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return Span(period, f"{day:%Y-%m-%d}", day, _midnight(day + timedelta(days=1), zone))
    first = _midnight(day.replace(day=1), zone)
    return Span(period, f"{first:%Y-%m}", first, _midnight((first + timedelta(days=32)).replace(day=1), zone))


def _midnight(day: datetime, zone: tzinfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone)


# -- what was taken ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taken:
    """What requests took; of seconds, by tier.

    Args:
        requests: that a server was asked for.
        tokens: of prompts and answers.
        seconds: that requests took, as the usage counts them: the wait for a server is in them. Lines of batches are
            none of them.
        held: the part of them that was that wait.
        cold: of the starts that the key caused.
        idle: for which servers wait on after the last request, because the key had woken them.
        lines: that lines of batches had of the servers' time.

    """

    requests: int = 0
    tokens: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict, hash=False)
    held: Mapping[str, float] = field(default_factory=dict, hash=False)
    cold: Mapping[str, float] = field(default_factory=dict, hash=False)
    idle: Mapping[str, float] = field(default_factory=dict, hash=False)
    lines: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __add__(self, other: "Taken") -> "Taken":
        return Taken(
            self.requests + other.requests,
            self.tokens + other.tokens,
            *(_sum(getattr(self, name), getattr(other, name)) for name in _SECONDS),
        )

    def as_json(self) -> dict[str, Any]:
        seconds = {name: {tier: round(each, 6) for tier, each in getattr(self, name).items()} for name in _SECONDS}
        known = {name: each for name, each in seconds.items() if each}
        return {"requests": self.requests, "tokens": self.tokens, **known}

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """What makes no sense counts as nothing."""
        known = foreign.fields(document)
        return cls(
            foreign.count(known.get("requests")),
            foreign.count(known.get("tokens")),
            *({tier: _number(each) for tier, each in foreign.fields(known.get(name)).items()} for name in _SECONDS),
        )


NOTHING = Taken()

_SECONDS = ("seconds", "held", "cold", "idle", "lines")


def _sum(one: Mapping[str, float], other: Mapping[str, float]) -> Mapping[str, float]:
    if not one or not other:
        return one or other
    return {tier: one.get(tier, 0.0) + other.get(tier, 0.0) for tier in {*one, *other}}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


@dataclass(frozen=True)
class Tariff:
    """What seconds count for, in one span.

    Args:
        of_requests: dollars for a second that a request took, by tier, as `cost` shares what serving cost.
        of_containers: dollars for a second of a container.
        without_gpu: the tiers whose seconds are none of a GPU.
        charges_cold: starts that a key caused, and the idle time after them, count in its dollars.
        of_lines: dollars for a second that lines of batches had of a tier's servers.

    """

    of_requests: Mapping[str, float] = field(default_factory=dict, hash=False)
    of_containers: Mapping[str, float] = field(default_factory=dict, hash=False)
    without_gpu: frozenset[str] = frozenset()
    charges_cold: bool = False
    of_lines: Mapping[str, float] = field(default_factory=dict, hash=False)

    def amount(self, taken: Taken, unit: Unit) -> float:
        """What was taken of one kind of budget."""
        match unit:
            case "requests":
                return float(taken.requests)
            case "tokens":
                return float(taken.tokens)
            case "gpu_seconds":
                on = [tier for tier in taken.seconds if tier not in self.without_gpu]
                lines = sum(seconds for tier, seconds in taken.lines.items() if tier not in self.without_gpu)
                return lines + sum(max(0.0, taken.seconds[tier] - taken.held.get(tier, 0.0)) for tier in on)
            case "dollars":
                shared = sum(seconds * self.of_a_request(tier) for tier, seconds in taken.seconds.items())
                shared += sum(seconds * self.of_a_line(tier) for tier, seconds in taken.lines.items())
                return shared + (sum(self.caused(taken)) if self.charges_cold else 0.0)

    def of_a_request(self, tier: str) -> float:
        """Dollars for a second that a request takes there; of a tier of which nothing is known yet, a container's."""
        known = self.of_requests.get(tier)
        return self.of_containers.get(tier, 0.0) if known is None else known

    def of_a_line(self, tier: str) -> float:
        """Dollars for a second of its servers that lines have there; of one of which nothing is known yet, likewise."""
        known = self.of_lines.get(tier)
        return self.of_containers.get(tier, 0.0) if known is None else known

    def caused(self, taken: Taken) -> tuple[float, float]:
        """Dollars for the starts that the key caused, and for the idle time after them."""
        cold, idle = (
            sum(seconds * self.of_containers.get(tier, 0.0) for tier, seconds in each.items())
            for each in (taken.cold, taken.idle)
        )
        return cold, idle


OWNED = Tariff()
"""Where nothing is paid by the second."""


# -- what is granted ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Took:
    """What an account has told of itself: what it took, and whether it lets anything in any more."""

    taken: Taken
    is_ended: bool = False

    def as_json(self, at: datetime) -> dict[str, Any]:
        return {"v": 1, "at": isoformat(at), "taken": self.taken.as_json(), "ended": self.is_ended}

    @classmethod
    def from_json(cls, document: Any) -> Self:
        known = foreign.fields(document)
        return cls(Taken.from_json(known.get("taken")), known.get("ended") is True)


@dataclass(frozen=True)
class Grants:
    """All that was granted of a key's budgets in one span, as its newest version says.

    Args:
        n: the number of that version; 0 before the first.
        base: what accounts took that have ended.
        open: what each other account was granted.

    """

    n: int = 0
    base: Taken = NOTHING
    open: Mapping[str, Amounts] = field(default_factory=dict, hash=False)

    def as_json(self, at: datetime, token: str) -> dict[str, Any]:
        return {
            "v": 1,
            "at": isoformat(at),
            "token": token,
            "base": self.base.as_json(),
            "open": {account: dict(amounts) for account, amounts in self.open.items()},
        }

    @classmethod
    def from_json(cls, n: int, document: Any) -> Self:
        """
        Raises:
            StoreUnusable: it cannot be read: then nobody knows what is granted already.
        """
        try:
            opened = {account: _amounts(amounts) for account, amounts in document["open"].items()}
            return cls(n, Taken.from_json(document["base"]), opened)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StoreUnusable(f"version {n} of what is granted of a budget cannot be read: {error!r}") from error


def _amounts(document: Mapping[str, Any]) -> Amounts:
    return {unit: float(document[unit]) for unit in UNITS if unit in document}


Tooks = Mapping[str, Took]
"""By account."""


def read(entries: Mapping[str, Any], key: str, span: str) -> tuple[Grants, Tooks]:
    """The newest version among these entries, and what the accounts have told."""
    begin = keys.grant(key, span, "")
    numbers = [int(n) for each in entries if each.startswith(begin) and (n := each.removeprefix(begin)).isdecimal()]
    newest = max(numbers, default=0)
    grants = Grants.from_json(newest, entries[f"{begin}{newest}"]) if newest else Grants()
    told = keys.took(key, span, "")
    tooks = {each.removeprefix(told): Took.from_json(entries[each]) for each in entries if each.startswith(told)}
    return grants, tooks


def outdated(entries: Mapping[str, Any], key: str, span: str, before: datetime) -> list[str]:
    """The entries that say nothing any more: older versions, and what accounts told that are in the newest's base."""
    grants, tooks = read(entries, key, span)
    begin = keys.grant(key, span, "")
    old = [
        each
        for each, document in entries.items()
        if each.startswith(begin) and each != f"{begin}{grants.n}" and written(document) < before
    ]
    gone = [keys.took(key, span, account) for account in tooks if account not in grants.open]
    return [*old, *(each for each in gone if written(entries[each]) < before)]


def written(document: Any) -> datetime:
    """When an entry was written; one that does not say so, long ago."""
    at = foreign.text(foreign.fields(document).get("at"))
    return parse_moment(at) if at else datetime.min.replace(tzinfo=UTC)


def is_over(span: str, before: datetime) -> bool:
    """Whether the day or the month of this name was over by then, in every zone."""
    try:
        first = date.fromisoformat(span if len(span) > _MONTH else f"{span}-01")
    except ValueError:
        return True
    last = first if len(span) > _MONTH else (first + timedelta(days=32)).replace(day=1) - timedelta(days=1)
    return last + timedelta(days=2) <= before.astimezone(UTC).date()


_MONTH = len("2026-11")


def folded(grants: Grants, tooks: Tooks) -> Grants:
    """The same, with what ended accounts took in the base."""
    ended = [account for account in grants.open if account in tooks and tooks[account].is_ended]
    base = sum((tooks[account].taken for account in ended), grants.base)
    return Grants(grants.n, base, {account: each for account, each in grants.open.items() if account not in ended})


def used(grants: Grants, tooks: Tooks) -> Taken:
    """What was taken, as far as it was told."""
    return sum((tooks[account].taken for account in grants.open if account in tooks), grants.base)


def committed(grants: Grants, tooks: Tooks, tariff: Tariff, unit: Unit, *, but_for: Iterable[str] = ()) -> float:
    """What is not free any more: what was taken, and what was granted to accounts that have not ended."""
    total, left_out = tariff.amount(grants.base, unit), frozenset(but_for)
    for account, granted in grants.open.items():
        if account not in left_out:
            took = tooks.get(account)
            taken = tariff.amount(took.taken, unit) if took else 0.0
            total += taken if took and took.is_ended else max(taken, granted.get(unit, 0.0))
    return total


# -- what is left ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """How one budget stands.

    Args:
        budget: as it is set.
        used: of it.
        held: granted to gateways and not spent yet, or in doubt after one was killed.
        until: when it begins anew.
        caused: of dollars, what the key caused: starts, and idle time after them.
        is_charged: that is part of what is used.

    """

    budget: Budget
    used: float
    held: float
    until: datetime
    caused: tuple[float, float] = (0.0, 0.0)
    is_charged: bool = False

    @property
    def left(self) -> float:
        return max(0.0, self.budget.amount - self.used - self.held)

    def as_json(self) -> dict[str, Any]:
        digits = 6 if self.budget.unit == "dollars" else 3
        cold, idle = (round(each, digits) for each in self.caused)
        caused = {"cold": cold, "idle": idle, "is_charged": self.is_charged} if self.budget.unit == "dollars" else None
        return {
            "unit": self.budget.unit,
            "period": self.budget.period,
            "limit": self.budget.amount,
            "used": round(self.used, digits),
            "held": round(self.held, digits),
            "left": round(self.left, digits),
            "until": isoformat(self.until),
            "caused": caused,
        }


def standing(budget: Budget, span: Span, grants: Grants, tooks: Tooks, tariff: Tariff) -> Standing:
    """How a budget stands by what was told."""
    taken = used(grants, tooks)
    amount = tariff.amount(taken, budget.unit)
    held = max(0.0, committed(grants, tooks, tariff, budget.unit) - amount)
    caused = tariff.caused(taken) if budget.unit == "dollars" else (0.0, 0.0)
    return Standing(budget, amount, held, span.ends, caused, tariff.charges_cold)


class Known(Protocol):
    """What beside the ledger's grants decides how budgets stand."""

    @property
    def zone(self) -> tzinfo:
        """In which days and months begin."""

    def tariff(self, span: Span, /) -> Tariff:
        """What seconds count for in a span, as far as that is known; it does not wait."""

    def refresh(self, span: Span, /) -> None:
        """Have that looked up, unless it was just now; waits for the store.

        Raises:
            StoreTrouble: it cannot be asked.

        """

    def before(self, key: str, span: Span, /) -> Taken:
        """What a key took in a span, by the usage: for a budget of which nothing was granted yet."""


def standings(key: str, limits: Limits, entries: Mapping[str, Any], known: Known, now: datetime) -> list[Standing]:
    """How all budgets of a key stand.

    Args:
        key: its name.
        limits: what it may take.
        entries: of the ledger, all that begin with `keys.GRANT` or `keys.TOOK` and the name, and a slash.
        known: the zone, the prices, and what came before.
        now: the time.

    """
    found = []
    for budget in limits.budgets:
        span = span_of(budget.period, now, known.zone)
        grants, tooks = read(entries, key, span.name)
        if not grants.n:
            grants = Grants(base=known.before(key, span))
        if budget.unit == "dollars":
            known.refresh(span)
        found.append(standing(budget, span, grants, tooks, known.tariff(span)))
    return found
