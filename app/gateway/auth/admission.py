"""What stands between a request to a model and its server: the limits of its key, and the month's budget of the fleet.

It is asked once a request has its route, so what is refused here has cost nobody anything. Keys without limits do not
come here.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from app.gateway.auth.budgets import Budgets, Reservation
from app.gateway.auth.fleet_budget import FleetBudget
from app.gateway.auth.keys import Caller
from app.gateway.auth.rate_limits import Left, RateLimits
from jobs.access.budgets import Taken
from jobs.access.limits import NO_LIMITS
from jobs.core.clock import Clock, isoformat
from jobs.core.errors import Forbidden, TooManyRequests

Header = tuple[bytes, bytes]

TellsLeft = Callable[[Caller, str], Callable[[], Sequence[Header]] | None]
"""Makes, for a key and a dialect, what makes the headers of an answer; None where there is nothing to tell."""


def tells_nothing(_: Caller, __: str) -> None:
    """For whoever knows of no limits."""


BYTES_A_TOKEN = 4
"""Of a prompt, about; what a request really took is counted when it has ended."""

COME_AGAIN = timedelta(seconds=10)
"""When to look again whether a tier is awake, or ready."""

NOT_HELD = 1.0
"""Seconds that a key which may not be held waits all the same, for a server to say that the model is there."""


@dataclass(frozen=True)
class Admitted:
    """A request that was let in."""

    caller: Caller
    rates: RateLimits
    reservation: Reservation | None

    def settle(self, taken: Taken) -> None:
        """It has ended, and took so much."""
        self.rates.used_tokens(self.caller, taken.tokens)
        if self.reservation is not None:
            self.reservation.settle(taken)


class Admission:
    """Belongs to one event loop.

    Args:
        rates: what counts by the minute.
        budgets: what counts by the day and the month.
        clock: the time.
        fleet: the budget of all; None where none stops anything.
        idle_seconds: by tier, how long a server waits on after its last request.

    """

    def __init__(
        self,
        rates: RateLimits,
        budgets: Budgets,
        clock: Clock,
        *,
        fleet: FleetBudget | None = None,
        idle_seconds: Mapping[str, float] | None = None,
    ) -> None:
        self.rates = rates
        self.budgets = budgets
        self._clock = clock
        self._fleet = fleet
        self.idle_seconds = idle_seconds or {}
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Look after all of it, from now on."""
        work = [self.budgets.run(), *([self._fleet.run()] if self._fleet else [])]
        self._tasks = [asyncio.create_task(each, name="budgets") for each in work]

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.budgets.close()

    # On the way of each request

    def concerns(self, caller: Caller) -> bool:
        """Whether anything here is about this caller."""
        return caller.limits is not NO_LIMITS or (self._fleet is not None and not self._fleet.is_open)

    async def admit(self, caller: Caller, tier: str, size: int, at: datetime) -> Admitted:
        """Let a request in, and reserve what it may take.

        Args:
            caller: whose key it came with.
            tier: where it goes.
            size: of its body.
            at: when it came.

        Raises:
            Forbidden: the key is not for that tier.
            TooManyRequests: a limit is reached.
            StoreUnavailable: whether one is cannot be told.

        """
        limits = caller.limits
        if limits.tiers and tier not in limits.tiers:
            raise Forbidden(
                f"key {caller.name!r} may not use tier {tier!r}, where this model is answered",
                hint=f"it may use {', '.join(limits.tiers)}: ask for a model that is answered there",
            )
        if self._fleet is not None:
            await self._fleet.insist(caller)
        self.rates.need_tokens(caller)
        return Admitted(caller, self.rates, await self.budgets.admit(caller, tier, size // BYTES_A_TOKEN, at))

    async def insist_on_waking(self, caller: Caller, tier: str) -> None:
        """Refuse to wake a tier that is asleep for a key that may not do so.

        Raises:
            TooManyRequests: it has to be awake already.
            StoreUnavailable: whether it may cannot be told.

        """
        if caller.limits.may_wake is False:
            raise TooManyRequests(
                f"tier {tier!r} is asleep, and key {caller.name!r} may not wake it",
                hint="ask again when it is awake",
                retry_after=COME_AGAIN,
            )
        if self._fleet is not None:
            await self._fleet.insist_on_waking(caller, tier)

    # What callers are told

    def told(self, caller: Caller, speech: str) -> Callable[[], list[Header]] | None:
        """Makes the headers of an answer to this key; None where it has no limits."""
        return partial(self.headers, caller, speech) if caller.limits is not NO_LIMITS else None

    def headers(self, caller: Caller, speech: str) -> list[Header]:
        """What is left, as OpenAI's clients read it; and as Anthropic's do, where one asks."""
        now = self._clock.now()
        headers = []
        for each in tightest([*self.rates.left(caller), *self.budgets.left(caller, now)]):
            name = each.unit.replace("_", "-")
            limit, left = (_number(amount) for amount in (each.limit, each.left))
            headers += _named(f"x-ratelimit-{{}}-{name}", limit, left, go_duration(each.seconds))
            if speech == "anthropic" and each.unit in {"requests", "tokens"}:
                resets = isoformat(now + timedelta(seconds=each.seconds))
                headers += _named(f"anthropic-ratelimit-{name}-{{}}", limit, left, resets)
        return headers

    async def as_json(self, caller: Caller) -> dict[str, Any]:
        """What a key may take, what it took, and what is left until when.

        Raises:
            StoreTrouble: the store cannot be asked for its budgets.

        """
        minute = [
            {"unit": each.unit, "limit": int(each.limit), "left": int(each.left), "seconds": round(each.seconds, 1)}
            for each in self.rates.left(caller)
        ]
        standings = await self.budgets.standings(caller.name, caller.limits)
        return {
            "key": caller.name,
            "limits": caller.limits.options(),
            "minute": minute,
            "budgets": [each.as_json() for each in standings],
        }


def tightest(all_left: Iterable[Left]) -> Iterable[Left]:
    """Of what is about the same, the one of which least is left."""
    found: Mapping[str, Left] = {}
    for each in all_left:
        known = found.get(each.unit)
        if known is None or each.left < known.left:
            found = {**found, each.unit: each}
    return found.values()


def _named(pattern: str, limit: str, left: str, resets: str) -> list[Header]:
    values = {"limit": limit, "remaining": left, "reset": resets}
    return [(pattern.format(name).encode(), value.encode()) for name, value in values.items()]


def _number(amount: float) -> str:
    return f"{amount:.4f}".rstrip("0").rstrip(".") if amount % 1 else f"{amount:.0f}"


def go_duration(seconds: float) -> str:
    """As Go words it, and OpenAI's headers: `1s`, `6m0s`, `49h0m0s`."""
    whole = int(-(-seconds // 1))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s" if minutes else f"{rest}s"
