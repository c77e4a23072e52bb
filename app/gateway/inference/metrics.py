"""What `/metrics` shows, for Prometheus. Counting costs microseconds; what has to be read is read at a scrape.

No label is open to callers: models are those that are here, keys those that are configured, the rest are words of
ours. Whatever else comes is counted as `other`.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from app.gateway.inference.request_log import RequestRecord
from app.gateway.lines.line_gate import LineFigures
from jobs.telemetry.cold_starts import ColdStart

# Else every meter has a second line beside it, which is not used here.
disable_created_metrics()  # type: ignore[no-untyped-call]

OTHER = "other"

CAUSES = ("request", "batch", "warm")
"""What wakes a tier."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

FIRST_BYTE_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 300)
"""From a small model that is loaded to a large one that has to come from the volume."""

LAG_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)
"""From nothing that a timer can tell to what every caller feels."""
COLD_SECONDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 300)
"""Of one phase: from a hand-over to tens of gigabytes."""


@dataclass(frozen=True)
class Readings:
    """What is read at a scrape, in a thread; every call is cheap, and none waits or changes anything.

    Args:
        held: callers that wait for a tier, by tier.
        detached: requests that go on without their caller, because a load may hang on them.
        weights_bytes: what the models take; None when not known.
        usage_dropped: records of usage that were lost.
        log_dropped: log lines that were lost because nothing read them.
        known_state_seconds: how old what we know of models and servers is; None before the first refresh.
        loop_blocks: how often something held the event loop up for longer than it may; None where nobody looks.
        lines: of batches, by tier: how many are in flight, how many wait, and how the others ended.

    """

    held: Callable[[], Mapping[str, int]]
    detached: Callable[[], int]
    weights_bytes: Callable[[], int | None]
    usage_dropped: Callable[[], int]
    log_dropped: Callable[[], int]
    known_state_seconds: Callable[[], float | None]
    loop_blocks: Callable[[], int | None] = lambda: None
    lines: Callable[[], Mapping[str, LineFigures]] = dict


class Metrics:
    """All meters of one gateway. The event loop counts, a thread renders; the meters have locks of their own.

    Args:
        keys: the names of all keys.
        tiers: the names of the tiers.
        is_known: whether a model of this name is here.

    """

    def __init__(
        self, keys: Callable[[], Collection[str]], tiers: Iterable[str], is_known: Callable[[str], bool]
    ) -> None:
        self._keys = keys
        self._tiers = frozenset(tiers)
        self._is_known = is_known
        self._registry = CollectorRegistry()
        self._requests = _RequestMeters()
        self._registry.register(self._requests)
        self._loop_lag = Histogram(
            "ollama_modal_loop_lag_seconds",
            "How late the event loop comes to a timer, looked at a few times a second",
            buckets=LAG_SECONDS,
            registry=self._registry,
        )
        self._cold = Histogram(
            "ollama_modal_cold_seconds",
            "Cold starts and loads that callers waited for, by phase",
            ("tier", "phase"),
            buckets=COLD_SECONDS,
            registry=self._registry,
        )
        self._wakes = Counter(
            "ollama_modal_wakes", "Times a tier was woken from here", ("tier", "cause"), registry=self._registry
        )
        self._store = Gauge(
            "ollama_modal_store_up", "Whether the ledger answered when it was asked", registry=self._registry
        )
        for tier in self._tiers:
            for cause in CAUSES:
                self._wakes.labels(tier, cause)  # a zero that is there can be alerted on

    def add(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        model = record.model if record.model and self._is_known(record.model) else OTHER
        tier = record.tier if record.tier in self._tiers else OTHER
        self._requests.add(record, (model, tier, record.key if record.key in self._keys() else OTHER))

    def woke(self, tier: str, cause: str) -> None:
        """Count that a tier was woken."""
        self._wakes.labels(self._tier(tier), cause if cause in CAUSES else OTHER).inc()

    def loop_lag(self, seconds: float) -> None:
        """How late the event loop came to a timer."""
        self._loop_lag.observe(seconds)

    def cold(self, start: ColdStart) -> None:
        """Count a cold start, or a load, that is over."""
        for phase, seconds in start.seconds.items():
            self._cold.labels(self._tier(start.tier), phase).observe(seconds)

    def store_up(self, is_up: bool) -> None:
        """Whether the ledger has answered just now."""
        self._store.set(int(is_up))

    def wakes(self) -> float:
        """How often any tier was woken."""
        return sum(
            sample.value
            for metric in self._wakes.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        )

    def watch(self, readings: Readings) -> None:
        """From now on show these, too."""
        self._registry.register(_ReadingsCollector(readings))

    def render(self, jobs: Mapping[tuple[str, str], int]) -> bytes:
        """The page; `jobs` is how many there are of each kind and state. It reads, so it belongs in a thread."""
        return generate_latest(_Page(self._registry, jobs))

    def _tier(self, name: str) -> str:
        return name if name in self._tiers else OTHER


_Labels = tuple[str, str, str]
"""Model, tier and key."""


class _Sums:
    """What the requests of one model, tier and key come to."""

    __slots__ = ("endings", "output", "prompt", "truncated")

    def __init__(self) -> None:
        self.endings: dict[str, int] = {}
        self.prompt = self.output = self.truncated = 0


class _FirstBytes:
    """The times to the first byte on one tier."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(FIRST_BYTE_SECONDS) + 1)
        self.seconds = 0.0


class _RequestMeters(Collector):
    """What all requests come to. A lock for each number, as the library's meters have, would cost more than the sum."""

    def __init__(self) -> None:
        #: Counted up by the event loop alone; the thread of a scrape goes through copies, each made in one step.
        self._sums: dict[_Labels, _Sums] = {}
        self._first_bytes: dict[str, _FirstBytes] = {}

    def add(self, record: RequestRecord, about: _Labels) -> None:
        """Count a request; on the event loop."""
        sums, tier = self._sums.get(about), about[1]
        if sums is None:
            sums = self._sums[about] = _Sums()
            self._first_bytes.setdefault(tier, _FirstBytes())
        sums.endings[record.ending] = sums.endings.get(record.ending, 0) + 1
        sums.prompt += record.prompt_tokens or 0
        sums.output += record.output_tokens or 0
        sums.truncated += record.is_prompt_truncated
        if record.first_byte_seconds is not None and not record.batch:
            times = self._first_bytes[tier]
            times.counts[bisect_left(FIRST_BYTE_SECONDS, record.first_byte_seconds)] += 1
            times.seconds += record.first_byte_seconds

    def describe(self) -> Iterable[Metric]:
        """Nothing: there may be no request yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The meters as they are now, those that count nothing left out."""
        about = ("model", "tier", "key")
        requests = CounterMetricFamily(
            "ollama_modal_requests", "Requests that have ended, by how they ended", labels=(*about, "ending")
        )
        tokens = CounterMetricFamily("ollama_modal_tokens", "Tokens as Ollama counted them", labels=(*about, "kind"))
        truncated = CounterMetricFamily(
            "ollama_modal_prompts_truncated",
            "Prompts of which the model was given less than all, as far as that is known",
            labels=about,
        )
        for labels, sums in list(self._sums.items()):
            for ending, count in list(sums.endings.items()):
                requests.add_metric((*labels, ending), count)
            for kind, count in (("prompt", sums.prompt), ("output", sums.output)):
                if count:
                    tokens.add_metric((*labels, kind), count)
            if sums.truncated:
                truncated.add_metric(labels, sums.truncated)
        yield from (requests, tokens, truncated, self._first_byte())

    def _first_byte(self) -> Metric:
        family = HistogramMetricFamily(
            "ollama_modal_first_byte_seconds",
            "From a person's request to the first byte of its answer, time held included",
            labels=("tier",),
        )
        bounds = [floatToGoString(each) for each in (*FIRST_BYTE_SECONDS, math.inf)]  # type: ignore[no-untyped-call]
        for tier, times in list(self._first_bytes.items()):
            buckets = list(zip(bounds, accumulate(times.counts.copy()), strict=True))
            family.add_metric((tier,), buckets, times.seconds)
        return family


class _Page(Collector):
    """All meters, and the jobs as one scrape counted them: two that come at once share nothing."""

    def __init__(self, meters: CollectorRegistry, jobs: Mapping[tuple[str, str], int]) -> None:
        self._meters = meters
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        yield from self._meters.collect()
        counted = GaugeMetricFamily("ollama_modal_jobs", "Jobs in the ledger", labels=["kind", "state"])
        for about, count in self._jobs.items():
            counted.add_metric(about, count)
        yield counted


def _lines(figures: Mapping[str, LineFigures]) -> Iterator[Metric]:
    in_flight = GaugeMetricFamily(
        "ollama_modal_batch_lines_in_flight", "Lines of batches that a tier answers", labels=["tier"]
    )
    waiting = GaugeMetricFamily(
        "ollama_modal_batch_lines_waiting", "Lines of batches that wait for a slot", labels=["tier"]
    )
    ended = CounterMetricFamily(
        "ollama_modal_batch_lines",
        "Lines of batches that have ended, by what became of them",
        labels=["tier", "outcome"],
    )
    for tier, each in figures.items():
        in_flight.add_metric([tier], each.in_flight)
        waiting.add_metric([tier], each.waiting)
        for outcome, count in each.outcomes.items():
            ended.add_metric([tier, outcome], count)
    yield from (in_flight, waiting, ended)


class _ReadingsCollector(Collector):
    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read."""
        return ()

    def collect(self) -> Iterator[Metric]:
        readings = self._readings
        held = GaugeMetricFamily("ollama_modal_held_callers", "Callers that wait for a tier", labels=["tier"])
        for tier, count in readings.held().items():
            held.add_metric([tier], count)
        yield held
        yield from _lines(readings.lines())
        yield GaugeMetricFamily(
            "ollama_modal_lingering_requests", "Requests that go on without their caller", value=readings.detached()
        )
        if (size := readings.weights_bytes()) is not None:
            yield GaugeMetricFamily("ollama_modal_weights_bytes", "Bytes that the models take", value=size)
        yield CounterMetricFamily(
            "ollama_modal_usage_dropped", "Records of usage that were lost", value=readings.usage_dropped()
        )
        yield CounterMetricFamily(
            "ollama_modal_log_lines_dropped", "Log lines that were lost", value=readings.log_dropped()
        )
        if (blocks := readings.loop_blocks()) is not None:
            yield CounterMetricFamily(
                "ollama_modal_loop_blocks", "Times that something held the event loop up for too long", value=blocks
            )
        if (age := readings.known_state_seconds()) is not None:
            yield GaugeMetricFamily(
                "ollama_modal_standing_age_seconds", "How old what is known of models and servers is", value=age
            )
