"""Grants slices of a key's budgets, and keeps what became of them, in the ledger's dict.

All that is granted in one span is one fact, `grant/<key>/<span>/<n>`, whose versions are written once: whoever loses
the race for the next number reads again. So grants together never exceed the budget, whoever dies or hears nothing at
whichever step: what is written and was not heard of is found by its account at the next look, and what an account
never told is counted as used. What accounts took they write themselves, `took/<key>/<span>/<account>`.

    grant   read all · write version n+1
    settle  write what was taken

It waits for the store, so it belongs into a thread.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from jobs.access import budgets
from jobs.access.budgets import LEAST, Amounts, Grants, Known, Span, Taken, Took, Tooks
from jobs.access.limits import Unit
from jobs.core.clock import Clock
from jobs.core.errors import StoreUnavailable
from jobs.store import keys
from jobs.store.protocols import DictLike, ShrinkingDict

TRIES = 32
"""Versions that may be written by others between our look and our own; each of those got its grant."""

SURE_WITHIN = timedelta(minutes=1)
"""A write that came so long after its look is looked at again: the version it followed may have been removed."""

OUTDATED_AFTER = timedelta(minutes=10)
"""Older versions are removed, once nobody can be about to write the next one by them."""

PARTS = 8
"""A slice is at most this part of what is free, so that other gateways find some."""

KEPT = timedelta(days=3)
"""After the end of its span, before the night removes all of it."""


@dataclass(frozen=True)
class View:
    """How a key's budgets of one span stand, to one account.

    Args:
        granted: to this account, so far.
        grants: all of it, as the newest version has it.
        tooks: what the accounts have told.
        spent: what of what was asked for there is no more of.

    """

    granted: Amounts
    grants: Grants
    tooks: Tooks
    spent: tuple[Unit, ...] = ()


@dataclass(frozen=True)
class Ask:
    """What an account asks for.

    Args:
        caps: the budgets, by what they are of.
        least: so much it wants to have open; where less is left, that.
        wanted: so much more would be of use.
        taken: what its requests took so far.
        reserved: what those under way may take.

    """

    caps: Amounts
    least: Amounts
    wanted: Amounts
    taken: Taken
    reserved: Amounts


@dataclass
class GrantStore:
    """Threads may share one: it keeps nothing.

    Args:
        facts: the ledger's dict.
        clock: the time.
        known: the prices, and what came before.

    """

    facts: DictLike
    clock: Clock
    known: Known
    new_token: Callable[[], str] = field(default=lambda: secrets.token_hex(8))

    def grant(self, key: str, span: Span, account: str, ask: Ask) -> View:
        """Grant more to an account, of each of its budgets or of none.

        Raises:
            StoreTrouble: the store cannot be asked, or did not answer: it may have granted, which the next look tells.

        """
        if "dollars" in ask.caps:
            self.known.refresh(span)
        for _ in range(TRIES):
            began = self.clock.monotonic()
            grants, tooks = self._read(key, span)
            grants = budgets.folded(grants, tooks)
            had = grants.open.get(account, {})
            mine, spent = self._sliced(span, grants, tooks, account, ask)
            if spent or mine == had:
                return View(had, grants, tooks, spent)
            later, token = replace(grants, n=grants.n + 1, open={**grants.open, account: mine}), self.new_token()
            name = keys.grant(key, span.name, later.n)
            is_ours = self.facts.put(name, later.as_json(self.clock.now(), token), skip_if_exists=True)
            if not is_ours and (self.facts.get(name) or {}).get("token") != token:
                continue
            if self.clock.monotonic() - began < SURE_WITHIN.total_seconds():
                return View(mine, later, tooks)
        raise StoreUnavailable(f"what is left of the budget of {key!r} could not be settled: too many ask at once")

    def settle(self, key: str, span: Span, account: str, took: Took) -> None:
        """Write down what an account took. Once it is told to have ended, it must let nothing in any more.

        Raises:
            StoreTrouble: as the store says.

        """
        self.facts.put(keys.took(key, span.name, account), took.as_json(self.clock.now()))

    def _read(self, key: str, span: Span) -> tuple[Grants, Tooks]:
        entries = dict(self.facts.items(keys.grant(key, span.name, ""), keys.took(key, span.name, "")))
        grants, tooks = budgets.read(entries, key, span.name)
        return (grants, tooks) if grants.n else (replace(grants, base=self.known.before(key, span)), tooks)

    def _sliced(
        self, span: Span, grants: Grants, tooks: Tooks, account: str, ask: Ask
    ) -> tuple[dict[Unit, float], tuple[Unit, ...]]:
        """What the account has with one slice more, and which budgets have nothing left for it."""
        tariff, granted = self.known.tariff(span), dict(grants.open.get(account, {}))
        spent: list[Unit] = []
        for unit, cap in ask.caps.items():
            taken = tariff.amount(ask.taken, unit)
            own = max(granted.get(unit, 0.0), taken)
            opened = own - taken - ask.reserved.get(unit, 0.0)
            free = max(0.0, cap - own - budgets.committed(grants, tooks, tariff, unit, but_for=(account,)))
            least = max(ask.least.get(unit, 0.0), LEAST[unit])
            if opened + free < LEAST[unit]:
                spent.append(unit)
            elif opened < least:
                more = min(free, max(least - opened, min(ask.wanted.get(unit, 0.0), free / PARTS)))
                granted[unit] = own + (float(int(more)) if unit == "requests" else more)
        return granted, tuple(spent)


# -- what is removed, and what is kept from fading ---------------------------------------------------------------------


def tidy(facts: ShrinkingDict, key: str, span: Span, now: datetime) -> int:
    """Remove the versions that nobody can need any more; how many entries that were."""
    entries = dict(facts.items(keys.grant(key, span.name, ""), keys.took(key, span.name, "")))
    return facts.remove_all(budgets.outdated(entries, key, span.name, now - OUTDATED_AFTER))


def tidy_all(facts: ShrinkingDict, now: datetime) -> int:
    """The night's part: the same for all keys; and what is over is removed, some days later."""
    entries = dict(facts.items(keys.GRANT, keys.TOOK))
    old = [each for key, span in _chains(entries) for each in _old(entries, key, span, now)]
    return facts.remove_all(old)


def keep(facts: DictLike, now: datetime) -> None:
    """Read by its key what counts and may not be touched for days: listing does not keep a Dict's entries."""
    entries = dict(facts.items(keys.GRANT, keys.TOOK))
    for key, span in _chains(entries):
        grants, tooks = budgets.read(entries, key, span)
        needed = [keys.grant(key, span, grants.n), *(keys.took(key, span, each) for each in tooks)]
        for name in needed if grants.n else ():
            if now - budgets.written(entries.get(name)) >= keys.LASTS:
                facts.get(name)


def _chains(entries: Mapping[str, Any]) -> set[tuple[str, str]]:
    """The keys and spans that entries are of."""
    return {(parts[1], parts[2]) for each in entries if len(parts := each.split("/", 3)) == 4}


def _old(entries: Mapping[str, Any], key: str, span: str, now: datetime) -> Iterable[str]:
    if budgets.is_over(span, now - KEPT):
        return [each for each in entries if each.startswith((keys.grant(key, span, ""), keys.took(key, span, "")))]
    return budgets.outdated(entries, key, span, now - OUTDATED_AFTER)
