"""A fleet that runs batches, played on a clock moved by hand: what is told of each before, and what `cost` says later.

The containers are `tests.support.month_servers`, which start, count and end as a platform's do. A server works on the
lines that are in flight on it, each slower the more there are. What is measured, learnt, told and counted is the real
thing: `LineMeter`, `BatchPrices`, `UsageRecorder`, `cost`.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from app.accounting.batch_prices import BatchPrices
from app.accounting.spending import estimate as estimated_cost
from app.fleet.file import read
from app.fleet.schema import Fleet, parse
from app.model_server.settings import PROBE_EVERY
from jobs.batches.measuring import LineMeter, SentLine
from jobs.batches.records import BatchUse, Estimate
from jobs.batches.speed import learn
from jobs.store import keys
from jobs.telemetry.cost import Cost, UseCost
from jobs.telemetry.usage import UsageRecorder, Use
from jobs.testing.clock import HandClock
from tests.support.failing_stores import MemoryDict
from tests.support.month_servers import Servers

BEGIN = datetime(2026, 10, 5, tzinfo=UTC)
LOOK = PROBE_EVERY.total_seconds()
FLUSH_SECONDS = 10.0
"""Between two times that a gateway writes its usage down."""


@dataclass(frozen=True)
class Model:
    """Seconds that a line takes by itself, for each token that is read, and for each that is made, alone on its server;
    beside others each of them is so much slower for every other one."""

    name: str
    tier: str
    line: float
    read: float
    made: float
    slower: float = 0.15
    answer: float = 180.0
    """Tokens of an answer that nothing limits, in the mean."""

    def work(self, read: int, made: int) -> float:
        return self.line + self.read * read + self.made * made


SMALL = Model("llama3.2:latest", "a10g", 0.05, 0.0006, 0.011)
OTHER = Model("qwen3:latest", "a10g", 0.08, 0.0011, 0.021, answer=300.0)
LARGE = Model("deepseek-r1:32b", "h100", 0.1, 0.0008, 0.024, answer=500.0)
EMBEDDING = Model("bge-m3:latest", "a10g", 0.02, 0.0003, 0.0)


@dataclass(frozen=True)
class Line:
    model: Model
    prompt_bytes: int
    answer: int
    """Tokens that it would have, if nothing limited it."""
    max_tokens: int | None = None

    @property
    def read(self) -> int:
        return 22 + round(self.prompt_bytes / 4.1)

    @property
    def made(self) -> int:
        if not self.model.made:
            return 0
        return self.answer if self.max_tokens is None else min(self.answer, self.max_tokens)


def lines_of(dice: random.Random, model: Model, count: int, prompt_bytes: int, max_tokens: int | None) -> list[Line]:
    """Lines about so long; answers end where they end."""
    return [
        Line(
            model,
            max(1, round(dice.gauss(prompt_bytes, prompt_bytes / 4))),
            1 + round(dice.gammavariate(4, model.answer / 4)),
            max_tokens,
        )
        for _ in range(count)
    ]


@dataclass
class Counted:
    """What the read-through counts of one model."""

    model: str
    lines: int = 0
    prompt_bytes: int = 0
    max_tokens: int = 0
    unlimited: int = 0


def counted(lines: Iterable[Line]) -> list[Counted]:
    found: dict[str, Counted] = {}
    for line in lines:
        sums = found.setdefault(line.model.name, Counted(line.model.name))
        sums.lines += 1
        sums.prompt_bytes += line.prompt_bytes
        sums.max_tokens += line.max_tokens or 0
        sums.unlimited += line.max_tokens is None
    return list(found.values())


@dataclass(eq=False)
class _InFlight:
    line: Line
    sent: SentLine
    entered: AbstractContextManager[SentLine]
    began: float
    left: float
    shared: float = 0.0


@dataclass(frozen=True)
class Ran:
    """A batch that has ended: what was told before, what its summary says, and what `cost` says of it afterwards."""

    batch: str
    began_at: datetime
    told: Estimate
    summary: BatchUse
    lasted: float
    """Seconds, from asking for the first line's server to the last answer."""
    spent: float
    """All that the containers cost from its beginning until its tiers slept again."""
    uses: Sequence[UseCost]

    @property
    def dollars(self) -> float:
        """Of its lines, as `cost` shares them."""
        return sum(use.dollars for use in self.uses)


@dataclass
class BatchFleet:
    """The scene. `facts` is the ledger's dict."""

    facts: MemoryDict = field(default_factory=MemoryDict)
    clock: HandClock = field(default_factory=lambda: HandClock(BEGIN))
    models: Mapping[str, Model] = field(
        default_factory=lambda: {model.name: model for model in (SMALL, OTHER, LARGE, EMBEDDING)}
    )

    def __post_init__(self) -> None:
        self.fleet: Fleet = parse(read(), "the fleet of batches")
        self.servers = Servers(self.facts, self.fleet, self.clock)
        self.usage = UsageRecorder(self.facts, self.clock, "gateway")
        self.prices = BatchPrices(self.entries, self.fleet, self.clock, rented=True)
        self._batches = 0
        self._looked_at = self._flushed_at = self.clock.monotonic()

    def entries(self) -> dict[str, object]:
        return dict(self.facts.items(*keys.SORTS["usage"], keys.BATCH_SPEED))

    def where(self, name: str) -> tuple[str, str]:
        return name, self.models[name].tier

    def cost(self, since: datetime, until: datetime) -> Cost:
        self.usage.flush()
        return estimated_cost(self.entries(), self.fleet, since, until)

    # -- time ----------------------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float, busy: Iterable[str] = ()) -> None:
        """Let time pass, and do what is due: containers look at themselves, and the gateway writes down."""
        end = self.clock.monotonic() + seconds
        while (now := self.clock.monotonic()) < end:
            due = (end, self._looked_at + LOOK, self._flushed_at + FLUSH_SECONDS, now + (self.servers.next_in or LOOK))
            self.clock.tick(max(1e-6, min(due) - now))
            now = self.clock.monotonic()
            for tier in busy:
                self.servers.call(tier)
            self.servers.settle()
            if now >= self._looked_at + LOOK:
                self._looked_at = now
                self.servers.report()
            if now >= self._flushed_at + FLUSH_SECONDS:
                self._flushed_at = now
                self.usage.flush()

    def wait_until(self, hour: float) -> None:
        """The next time that it is so late in UTC."""
        now = self.clock.now()
        at = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(hours=hour)
        self.pass_time(((at if at > now else at + timedelta(days=1)) - now).total_seconds())

    # -- people --------------------------------------------------------------------------------------------------------

    def people_ask(self, dice: random.Random, model: Model, count: int) -> None:
        """People, one after the other, with pauses between them; the first waits for the start."""
        for _ in range(count):
            [line] = lines_of(dice, model, 1, 400, None)
            at, began = self.clock.now(), self.clock.monotonic()
            while self.servers.call(model.tier) is None:
                self.pass_time(1.0)
            self.pass_time(model.work(line.read, line.made), [model.tier])
            took = self.clock.monotonic() - began
            self.usage.add(Use(at, model.name, "ann", model.tier, "success", line.read, line.made, 0.3, took))
            self.pass_time(dice.uniform(5, 120))

    # -- batches -------------------------------------------------------------------------------------------------------

    def tell(self, lines: Sequence[Line]) -> Estimate:
        """What a batch of these would take, if it began now."""
        self.usage.flush()
        endpoint = "/v1/embeddings" if all(line.model is EMBEDDING for line in lines) else "/v1/chat/completions"
        return self.prices.estimate(counted(lines), self.where, endpoint, wakes=self.is_asleep)[0]

    def is_asleep(self, tier: str) -> bool:
        return not self.servers.is_up(tier)

    def run(self, lines: Sequence[Line]) -> Ran:
        """Tell what they will take, have them answered, and let the tiers that were woken for it sleep again."""
        told = self.tell(lines)
        self._batches += 1
        batch, began_at, began = f"batch_{self._batches}", self.clock.now(), self.clock.monotonic()
        woken = [tier for tier in {line.model.tier for line in lines} if self.is_asleep(tier)]
        meter = LineMeter(self.clock, self.prices.dollars_per_second())
        _Run(self, batch, meter, lines).play()
        lasted = self.clock.monotonic() - began
        meter.look(lambda since: self.prices.shared_times(batch, since), is_due=True)
        learn(self.facts, meter.speeds(), self.clock.now())
        summary = meter.use()
        self.pass_time(LOOK / 2 + 15)
        for tier in woken:
            self.servers.leave(tier)
        self.usage.flush()
        now = self.clock.now()
        spent = self.cost(began_at, now).dollars
        midnight = began_at.replace(hour=0, minute=0, second=0, microsecond=0)
        uses = [use for use in self.cost(midnight, now).uses if use.batch == batch]
        return Ran(batch, began_at, told, summary, lasted, spent, uses)


class _Run:
    """The lines of one batch, as many at once on each tier as it takes beside its people."""

    def __init__(self, scene: BatchFleet, batch: str, meter: LineMeter, lines: Sequence[Line]) -> None:
        self._scene = scene
        self._batch = batch
        self._meter = meter
        self._coming = {tier: [line for line in lines if line.model.tier == tier] for tier in ("a10g", "h100")}
        self._flying: dict[str, list[_InFlight]] = {"a10g": [], "h100": []}

    def play(self) -> None:
        clock = self._scene.clock
        while any(self._coming.values()) or any(self._flying.values()):
            for tier in self._coming:
                self._send(tier)
            working = {tier: flying for tier, flying in self._flying.items() if self._serves(tier) and flying}
            soonest = min((each.left / self._pace(tier) for tier in working for each in working[tier]), default=1.0)
            before = clock.monotonic()
            self._scene.pass_time(min(soonest, 1.0), [tier for tier, flying in self._flying.items() if flying])
            passed = clock.monotonic() - before
            for tier, flying in working.items():
                pace = self._pace(tier)
                for each in flying:
                    each.left -= passed * pace
                    each.shared += passed / len(flying)
                for each in [each for each in flying if each.left <= 1e-6]:
                    self._answered(tier, each)

    def _serves(self, tier: str) -> bool:
        return self._scene.servers.is_ready(tier)

    def _pace(self, tier: str) -> float:
        flying = self._flying[tier]
        return 1 / (1 + flying[0].line.model.slower * (len(flying) - 1))

    def _send(self, tier: str) -> None:
        room = min(4, self._scene.fleet.tiers[tier].target_concurrency) - 1  # one slot stays free for a person
        coming, flying = self._coming[tier], self._flying[tier]
        while coming and len(flying) < room:
            line = coming.pop(0)
            entered = self._meter.line(tier, line.model.name)
            sent = entered.__enter__()
            work = line.model.work(line.read, line.made)
            flying.append(_InFlight(line, sent, entered, self._scene.clock.monotonic(), work))

    def _answered(self, tier: str, each: _InFlight) -> None:
        line, clock = each.line, self._scene.clock
        self._flying[tier].remove(each)
        each.sent.answered(
            clock.monotonic(),
            prompt_bytes=line.prompt_bytes,
            prompt_tokens=line.read,
            output_tokens=line.made,
            max_tokens=line.max_tokens,
        )
        each.entered.__exit__(None, None, None)
        took = clock.monotonic() - each.began
        used = Use(clock.now(), line.model.name, "ann", tier, "success", line.read, line.made, 0.2, took)
        self._scene.usage.add(used._replace(batch=self._batch, shared_seconds=each.shared))
