"""The budgets of keys, as one gateway lets requests in by them.

It is granted slices (`jobs.access.grants`), and inside them lets requests in without a trip to the store: what one may
take is reserved before, and what it took is settled after. Where a slice is used up and the store cannot be asked, it
is closed, and says that. What requests took is written down every few seconds, and at the end of an account: that is
when its key has been quiet for a while, its span is over, or the gateway ends.
"""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from loguru import logger

from app.gateway.auth.keys import Caller
from app.gateway.auth.rate_limits import Left
from jobs.access import budgets, grants
from jobs.access.budgets import LEAST, NOTHING, BudgetSpent, Known, Span, Standing, Taken, Took, span_of
from jobs.access.grants import Ask, GrantStore, View
from jobs.access.limits import PERIODS, Budget, Limits, Period, Unit
from jobs.core.clock import Clock
from jobs.core.errors import StoreTrouble, StoreUnavailable, Trouble
from jobs.store import keys
from jobs.store.protocols import ShrinkingDict

ASK_SECONDS = 4.0
"""So long a caller waits for the store; what it answers later still counts for those who come then."""

EVERY_SECONDS = 5.0
"""Between two writes of what was taken."""

IDLE = timedelta(minutes=1)
"""A key that was quiet for so long gives back what it was granted and has not spent."""

SPENT_FOR = timedelta(seconds=2)
"""So long the store is not asked again whether there is more of a budget that is spent."""

QUICK = timedelta(seconds=10)
"""A slice that lasted less is followed by a larger one."""

MOST_SLICE = 4096
"""How much larger than the first one a slice may become."""

COME_AGAIN = timedelta(seconds=5)

USUAL_SECONDS = 1.0
"""What a request is taken to need before any of its key has told."""


@dataclass
class Account:
    """What one gateway was granted of a key's budgets in one span, and what became of it. The event loop's own.

    Args:
        key: whose.
        span: when.
        id: names it among all accounts.
        caps: the budgets.
        granted: so far.
        taken: by requests that have ended.
        reserved: for those under way.
        under_way: how many they are.
        view: the last look at the store.
        others: what was not free then, beside this account.
        spent: what there was no more of then.

    """

    key: str
    span: Span
    id: str
    caps: Mapping[Unit, float]
    used_at: float
    granted: Mapping[Unit, float] = field(default_factory=dict)
    taken: Taken = NOTHING
    reserved: dict[Unit, float] = field(default_factory=dict)
    under_way: int = 0
    view: View | None = None
    others: Mapping[Unit, float] = field(default_factory=dict)
    spent: tuple[Unit, ...] = ()
    spent_at: float = float("-inf")
    asking: "asyncio.Task[View] | None" = None
    asked_at: float = float("-inf")
    granted_at: float = float("-inf")
    slice: int = 4
    """Requests that the next slice is to last for."""
    mean_seconds: float = USUAL_SECONDS
    mean_tokens: float = 0.0
    is_unwritten: bool = False


class Reservation:
    """What a request may take, of each account that it counts in."""

    def __init__(self, owner: "Budgets", accounts: Sequence[tuple[Account, Mapping[Unit, float]]]) -> None:
        self._owner = owner
        self._accounts = accounts

    def settle(self, taken: Taken) -> None:
        """It has ended, and took so much; once."""
        for account, reserved in self._accounts:
            self._owner.settle(account, reserved, taken)
        self._accounts = ()


class Budgets:
    """Belongs to one event loop; a thread asks the store.

    Args:
        facts: the ledger's dict.
        clock: the time.
        known: prices, and what came before. Asked for prices on the event loop: it must not wait for them.
        writer: names this process in what it writes.
        ask_seconds: how long a caller waits for the store.

    """

    def __init__(
        self, facts: ShrinkingDict, clock: Clock, known: Known, writer: str, *, ask_seconds: float = ASK_SECONDS
    ) -> None:
        self._facts = facts
        self._clock = clock
        self._known = known
        self._writer = writer
        self.ask_seconds = ask_seconds
        self._store = GrantStore(facts, clock, known)
        self._accounts: dict[tuple[str, Period], Account] = {}
        #: Accounts that let nothing in any more, and whose end is not written yet.
        self._ending: list[Account] = []
        #: What something was granted of since old versions were removed last.
        self._granted: set[tuple[str, Span]] = set()
        self._tidied_at = clock.monotonic()

    # For callers

    async def admit(self, caller: Caller, tier: str, tokens: int, at: datetime) -> Reservation | None:
        """Reserve what a request may take; None where the key has no budgets.

        Args:
            caller: whose key it is.
            tier: where it goes.
            tokens: of its prompt, about.
            at: when it came.

        Raises:
            BudgetSpent: there is nothing left.
            StoreUnavailable: whether anything is left cannot be told.

        """
        if not caller.limits.budgets:
            return None
        reserved: list[tuple[Account, Mapping[Unit, float]]] = []
        with ExitStack() as taken_back:
            for period in PERIODS:
                if (account := self._account(caller, period, at)) is not None:
                    needs = self._needs(account, tier, tokens)
                    took = await self._reserve(account, needs)
                    taken_back.callback(self.settle, account, took, NOTHING)
                    reserved.append((account, took))
            taken_back.pop_all()
        return Reservation(self, reserved)

    def settle(self, account: Account, reserved: Mapping[Unit, float], taken: Taken) -> None:
        """What was reserved is not any more; so much was taken."""
        for unit, amount in reserved.items():
            account.reserved[unit] -= amount
        account.under_way -= 1
        account.used_at = self._clock.monotonic()
        if taken is not NOTHING:
            account.taken += taken
            account.is_unwritten = True
            took = sum(taken.seconds.values()) + sum(taken.lines.values())
            account.mean_seconds += (took - account.mean_seconds) / 4
            account.mean_tokens += (taken.tokens - account.mean_tokens) / 4

    def left(self, caller: Caller, at: datetime) -> list[Left]:
        """What is left of each budget, as far as it was looked at here."""
        found = []
        for budget in caller.limits.budgets:
            account = self._accounts.get((caller.name, budget.period))
            if account is not None and account.view is not None and account.span.holds(at):
                free = budget.amount - account.others.get(budget.unit, 0.0) - self._own(account, budget.unit)
                seconds = (account.span.ends - at).total_seconds()
                found.append(Left(budget.unit, budget.amount, max(0.0, free), seconds))
        return found

    async def standings(self, key: str, limits: Limits) -> list[Standing]:
        """How all budgets of a key stand; what was granted here and not spent is left.

        Raises:
            StoreTrouble: the store cannot be asked.

        """
        if not limits.budgets:
            return []
        await self.write()
        entries = await asyncio.to_thread(self._entries_of, key)
        found = await asyncio.to_thread(budgets.standings, key, limits, entries, self._known, self._clock.now())
        for at, standing in enumerate(found):
            account = self._accounts.get((key, standing.budget.period))
            if account is not None and account.span.ends == standing.until:
                spare = max(0.0, self._open(account, standing.budget.unit))
                found[at] = replace(standing, held=max(0.0, standing.held - spare))
        return found

    def _entries_of(self, key: str) -> Mapping[str, Any]:
        return dict(self._facts.items(f"{keys.GRANT}{key}/", f"{keys.TOOK}{key}/"))

    async def write(self) -> None:
        """Write down what was taken until now, as far as the store takes it."""
        for account in list(self._accounts.values()):  # meanwhile others come
            if account.is_unwritten:
                await self._write(account)

    async def run(self) -> None:
        """Write what was taken, every few seconds, and end accounts that are not needed."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                await self.look_after()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next time may do better
                logger.opt(exception=error).error("what keys took could not be looked after")

    async def look_after(self) -> None:
        """The same, once."""
        now, moment = self._clock.monotonic(), self._clock.now()
        for named, account in list(self._accounts.items()):
            is_idle = now - account.used_at >= IDLE.total_seconds() or not account.span.holds(moment)
            if is_idle and not account.under_way and account.asking is None:
                del self._accounts[named]
                self._end(account)
        await self.write()
        for account in [each for each in self._accounts.values() if "dollars" in each.caps]:
            with suppress(Trouble):  # the prices known so far will do, also where the archive cannot be read
                await asyncio.to_thread(self._known.refresh, account.span)
        for account in list(self._ending):
            if not account.under_way and account.asking is None and await self._write(account, is_ended=True):
                self._ending.remove(account)
        if now - self._tidied_at >= grants.OUTDATED_AFTER.total_seconds():
            self._tidied_at = now
            granted, self._granted = self._granted, set()
            for key, span in granted:
                with suppress(StoreTrouble):  # the night does it as well
                    await asyncio.to_thread(grants.tidy, self._facts, key, span, moment)

    async def close(self) -> None:
        """Give back what was not spent. What is still under way is not known to be over, so that stays taken."""
        for account in list(self._accounts.values()):
            self._end(account)
        self._accounts.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.ask_seconds):
                told = [each for each in self._ending if each.view is not None]
                await asyncio.gather(*(self._write(each, is_ended=not each.under_way) for each in told))

    # What an account has

    def _account(self, caller: Caller, period: Period, at: datetime) -> Account | None:
        """The account of a key for its budgets of a day, or of a month; None where it has none."""
        caps: dict[Unit, float] = {each.unit: each.amount for each in caller.limits.budgets if each.period == period}
        if not caps:
            return None
        named = caller.name, period
        account = self._accounts.get(named)
        if account is not None and account.span.holds(at):
            account.caps = caps
            return account
        if account is not None:
            self._end(account)
        span = span_of(period, at, self._known.zone)
        id = f"{self._writer.replace('/', '-')}-{secrets.token_hex(4)}"
        account = self._accounts[named] = Account(caller.name, span, id, caps, self._clock.monotonic())
        return account

    def _end(self, account: Account) -> None:
        if account.view is not None or account.asking is not None:
            self._ending.append(account)

    def _needs(self, account: Account, tier: str, tokens: int) -> Mapping[Unit, float]:
        """What a request may take, of what this key has budgets of."""
        tariff = self._known.tariff(account.span)
        dollars = tariff.of_a_request(tier)
        needs: dict[Unit, float] = {
            "requests": 1.0,
            "tokens": max(float(tokens), account.mean_tokens),
            "gpu_seconds": 0.0 if tier in tariff.without_gpu else account.mean_seconds,
            "dollars": dollars * account.mean_seconds,
        }
        return {unit: max(needs[unit], LEAST[unit]) for unit in account.caps if needs[unit] > 0}

    def _own(self, account: Account, unit: Unit) -> float:
        """What the account has taken, and what its requests under way may."""
        return self._known.tariff(account.span).amount(account.taken, unit) + account.reserved.get(unit, 0.0)

    def _open(self, account: Account, unit: Unit) -> float:
        return account.granted.get(unit, 0.0) - self._own(account, unit)

    async def _reserve(self, account: Account, needs: Mapping[Unit, float]) -> Mapping[Unit, float]:
        """Reserve it, or what is left of it."""
        if any(self._open(account, unit) < need for unit, need in needs.items()):
            while short := [unit for unit in needs if self._open(account, unit) < LEAST[unit]]:
                await self._more(account, needs, short)
        reserved = {unit: min(need, self._open(account, unit)) for unit, need in needs.items()}
        for unit, amount in reserved.items():
            account.reserved[unit] = account.reserved.get(unit, 0.0) + amount
        account.under_way += 1
        account.used_at = self._clock.monotonic()
        return reserved

    # Asking for more

    async def _more(self, account: Account, needs: Mapping[Unit, float], short: Sequence[Unit]) -> None:
        """Wait until there is more, or it is known why not."""
        now = self._clock.monotonic()
        if now - account.spent_at < SPENT_FOR.total_seconds() and (spent := set(short).intersection(account.spent)):
            raise self._spent(account, min(spent))
        asking = account.asking
        if asking is None:
            asking = self._ask(account, needs)
        elif now - account.asked_at > self.ask_seconds:
            raise _unknown(account, f"it has not answered for {now - account.asked_at:.0f} s")
        await asyncio.wait({asking}, timeout=self.ask_seconds)
        if not asking.done():
            raise _unknown(account, f"it has not answered for {self.ask_seconds:.0f} s")
        if (trouble := asking.exception()) is not None:
            if not isinstance(trouble, StoreTrouble):
                raise trouble
            raise _unknown(account, str(trouble)) from trouble
        if gone := [each for each in asking.result().spent if each in needs]:
            raise self._spent(account, gone[0])

    def _ask(self, account: Account, needs: Mapping[Unit, float]) -> "asyncio.Task[View]":
        now = self._clock.monotonic()
        is_quick = now - account.granted_at < QUICK.total_seconds()
        account.slice = min(2 * account.slice, MOST_SLICE) if is_quick else max(account.slice // 2, 4)
        ask = Ask(
            caps={unit: account.caps[unit] for unit in needs},
            least=needs,
            wanted={unit: account.slice * need for unit, need in needs.items()},
            taken=account.taken,
            reserved=dict(account.reserved),
        )
        account.asked_at = now
        self._granted.add((account.key, account.span))
        account.asking = asyncio.create_task(
            asyncio.to_thread(self._store.grant, account.key, account.span, account.id, ask), name="grant"
        )
        account.asking.add_done_callback(lambda task: self._answered(account, task))
        return account.asking

    def _answered(self, account: Account, task: "asyncio.Task[View]") -> None:
        account.asking = None
        if task.cancelled() or task.exception() is not None:
            return
        view, now = task.result(), self._clock.monotonic()
        tariff = self._known.tariff(account.span)
        account.view, account.granted = view, view.granted
        account.others = {
            unit: budgets.committed(view.grants, view.tooks, tariff, unit, but_for=(account.id,))
            for unit in account.caps
        }
        account.spent = view.spent
        if view.spent:
            account.spent_at = now
        else:
            account.granted_at = now

    def _spent(self, account: Account, unit: Unit) -> BudgetSpent:
        budget = Budget(unit, account.span.period, account.caps[unit])
        until = account.span.ends
        return BudgetSpent(
            f"key {account.key!r} has spent its budget of {told_budget(budget)}: nothing of it is left until"
            f" {until:%Y-%m-%d %H:%M} {until.tzname()}",
            hint="whoever runs this can raise it",
            retry_after=until - self._clock.now(),
        )

    # Writing it down

    async def _write(self, account: Account, *, is_ended: bool = False) -> bool:
        """Write what was taken; false when the store did not take it: then it is tried again."""
        took = Took(account.taken, is_ended)
        account.is_unwritten = False
        try:
            await asyncio.to_thread(self._store.settle, account.key, account.span, account.id, took)
        except StoreTrouble as trouble:
            account.is_unwritten = True
            logger.warning("what key {} took could not be written down, and is tried again: {}", account.key, trouble)
            return False
        return True


def _unknown(account: Account, why: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"whether anything is left of the budget of key {account.key!r} cannot be told, since the ledger could not be"
        f" asked: {why}",
        hint="nothing says that it is spent; ask again soon",
        retry_after=COME_AGAIN,
    )


def amount_of(unit: Unit, amount: float) -> str:
    """`$5`, `100 requests`, `2.5 seconds of a GPU`."""
    if unit == "dollars":
        return f"${amount:,.2f}" if amount % 1 else f"${amount:,.0f}"
    words = {"requests": "request", "tokens": "token", "gpu_seconds": "second"}[unit]
    many = "" if amount == 1 else "s"
    return f"{round(amount, 1):,g} {words}{many}{' of a GPU' if unit == 'gpu_seconds' else ''}"


def told_budget(budget: Budget) -> str:
    """`$5 a month`."""
    return f"{amount_of(budget.unit, budget.amount)} a {budget.period}"
