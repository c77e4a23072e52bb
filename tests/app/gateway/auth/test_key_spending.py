"""A month of spending on a clock that is moved by hand: what budgets say of a key is what `cost` says, to the cent."""

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from app.accounting.key_budgets import KnownSpending
from app.accounting.spending import Past, estimate
from app.fleet.file import read
from app.fleet.schema import Fleet, parse
from app.gateway.auth.budgets import Budgets
from app.gateway.auth.keys import Caller
from jobs.access.budgets import BudgetSpent, Standing, Taken
from jobs.access.limits import Limits
from jobs.archive.archive import archive_facts
from jobs.archive.archive_files import Archive
from jobs.archive.archived import archive_at
from jobs.store import keys
from jobs.telemetry.container_time import Meter
from jobs.telemetry.cost import Cost
from jobs.telemetry.usage import UsageRecorder, Use
from jobs.testing.clock import HandClock
from tests.support.failing_stores import MemoryDict

BEGIN = datetime(2026, 10, 1, tzinfo=UTC)
DAYS = 31
BOBS = 2
LINES = {"ann": "dollars=500/month", "bob": f"dollars={BOBS}/month", "eve": "requests=40/day tokens=1000000/month"}


def fleet(**charged: Any) -> Fleet:
    document = read()
    document["schedule"]["timezone"] = "UTC"
    document["keys"] = charged
    return parse(document, "test")


@dataclass
class Gateway:
    """One gateway process: what it lets in, and what it writes down."""

    budgets: Budgets
    usage: UsageRecorder


@dataclass
class Played:
    """A store, the containers and the gateways on it, and what passed."""

    facts: MemoryDict
    archive: Archive
    past: Past
    clock: HandClock
    fleet: Fleet
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    passed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    refused: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    gateways: list[Gateway] = field(default_factory=list)
    numbers: int = 0
    lines: float = 0.3
    """So many requests are lines of a batch of their key."""

    def entries(self) -> dict[str, Any]:
        for each in self.gateways:
            each.usage.flush()
        return {**self.past(), **dict(self.facts.items(*keys.SORTS["usage"]))}

    def new_gateway(self) -> Gateway:
        self.numbers += 1
        writer = f"gateway-{self.numbers}"
        known = KnownSpending(self.entries, self.fleet, self.clock, rented=True)
        return Gateway(Budgets(self.facts, self.clock, known, writer), UsageRecorder(self.facts, self.clock, writer))

    def cost(self) -> Cost:
        return estimate(self.entries(), self.fleet, BEGIN, self.clock.now())

    def caller(self, name: str) -> Caller:
        limits = Limits.parse(dict(pair.split("=") for pair in LINES[name].split()))
        return Caller(name, frozenset({"chat"}), limits=limits)

    async def minute(self, meters: dict[str, Meter]) -> None:
        """Some requests at once on a tier, and its container's look at itself: they share its time."""
        tier = self.dice.choice(["a10g", "a10g", "h100"])
        names = self.dice.choices(list(LINES), k=self.dice.randint(1, 3))
        let_in = []
        for name in names:
            gateway = self.dice.choice(self.gateways)
            at = self.clock.now()
            try:
                reservation = await gateway.budgets.admit(self.caller(name), tier, 100, at)
            except BudgetSpent:
                self.refused[name] += 1
            else:
                let_in.append((name, gateway, at, reservation))
        self.clock.tick(self.dice.uniform(5, 90))
        if let_in:
            meters[tier].note("serving")
        for name, gateway, at, reservation in let_in:
            seconds, part = self.dice.uniform(0.2, 60), self.dice.uniform(0.1, 10)
            used = Use(at, "llama3.2:latest", name, tier, "success", 60, 40, 0.1, seconds)
            is_line = self.dice.random() < self.lines
            gateway.usage.add(used._replace(batch=f"batch_{name}", shared_seconds=part) if is_line else used)
            assert reservation is not None
            reservation.settle(Taken(1, 100, lines={tier: part}) if is_line else Taken(1, 100, {tier: seconds}))
            self.passed[name] += 1

    async def day(self, number: int) -> None:
        prices = {tier: self.fleet.dollars_per_hour(tier) for tier in ("a10g", "h100")}
        meters = {tier: Meter(self.facts, self.clock, tier, f"c{number}", price) for tier, price in prices.items()}
        for meter in meters.values():
            meter.note("cold")
        for _ in range(12):
            await self.minute(meters)
            self.clock.tick(self.dice.choice([0, 0, 1200]))
            for meter in meters.values():
                meter.note("idle")
            for each in self.gateways:
                await each.budgets.look_after()

    async def standing(self, name: str) -> Standing:
        (found,) = [
            each
            for each in await self.gateways[0].budgets.standings(name, self.caller(name).limits)
            if each.budget.period == "month"
        ]
        return found


def played(folder: Path, **charged: Any) -> Played:
    archive, clock = archive_at(folder), HandClock(BEGIN)
    return Played(MemoryDict(), archive, Past(archive, clock), clock, fleet(**charged))


def test_budgets_agree_with_cost(tmp_path: Path) -> None:
    """Each evening of a month of three keys, of their batches, and of two gateways, of which some are killed, with what
    is old gone to the archive: what a key has used of its dollars is what `cost` says of it, to the cent."""
    month = played(tmp_path)

    asyncio.run(_month(month))

    assert month.refused["bob"] > 10
    assert month.refused["ann"] == 0
    # By what was under way, and told later; and by what a second has come to cost since he was refused.
    assert BOBS * 0.9 < dollars_of(month.cost(), "bob") < BOBS * 1.15


async def _month(month: Played) -> None:
    for number in range(DAYS):
        month.gateways += [month.new_gateway(), month.new_gateway()]
        await month.day(number)
        month.clock.tick(61)
        said = month.cost()
        for name in ("ann", "bob"):
            standing = await month.standing(name)
            assert abs(standing.used - dollars_of(said, name)) < 0.005, (number, name)
        for each in month.gateways if number % 10 else month.gateways[1:]:  # each tenth day one is killed
            await each.budgets.close()
        month.gateways.clear()
        tomorrow = BEGIN + timedelta(days=number + 1)
        month.clock.tick((tomorrow - month.clock.now()).total_seconds() - 1)
        archive_facts(month.facts, month.archive, month.clock.now(), lambda: None)


def dollars_of(cost: Cost, key: str) -> float:
    return sum(use.dollars for use in cost.uses if use.key == key)
