"""Four weeks that a deployment might have had, written down as its parts write them, for whoever looks at them.

`python -m tests.support.sample_history PICTURE` opens the status page over them and takes its picture. All of the
numbers are made up.
"""

import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from app.fleet.file import read
from app.fleet.schema import Fleet, parse
from app.model_server.gpu import Gpu
from app.model_server.health import Health, HealthState, Turn
from app.model_server.report import Loaded, Report
from jobs.core.clock import SystemClock
from jobs.core.model_name import ModelName
from jobs.core.progress import Reading
from jobs.ledger.attempts import Claim
from jobs.ledger.job import Ending
from jobs.ledger.ledger import Ledger
from jobs.models.card import KnownModel
from jobs.store import keys
from jobs.store.sqlite import SqliteDict, SqliteQueue
from jobs.telemetry.container_time import Metered, TimeShare
from jobs.telemetry.nightly_report import NightJob, Ran
from jobs.telemetry.usage import UsageRecorder, Use
from jobs.testing.clock import HandClock
from tests.support.browser import Browser, browser
from tests.support.gateways import ModelList, RunningGateway, gateway
from tests.support.processes import free_port

WEEKS = timedelta(days=28)
GB = 10**9

FLEET: Fleet = parse(
    {**read(), "windows": [{"tier": "a10g", "start": "0 8 * * 1-5", "hours": 10, "models": ["llama3.2"]}]}, "fleet.toml"
)

SAMPLES = (
    ("llama3.2:latest", 2_019_393_189, "llama", "3.2B", "Q4_K_M"),
    ("deepseek-r1:32b", 19_851_337_640, "qwen2", "32.8B", "Q4_K_M"),
    ("nomic-embed-text:latest", 274_302_450, "nomic-bert", "137M", "F16"),
    ("hf.co/bartowski/Llama-3.1-8B-GGUF:Q6_K", 6_596_006_560, "llama", "8.0B", "Q6_K"),
)


@dataclass
class Lived:
    """Writes weeks down that end now."""

    facts: SqliteDict
    queue: SqliteQueue
    now: datetime

    def all(self) -> None:
        dice = random.Random(11)
        begin = (self.now - WEEKS).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        for number in range((self.now - begin).days + 1):
            self._day(begin + timedelta(days=number), number, dice)
        self._health(begin)
        self._servers()
        self._jobs()

    def _day(self, day: datetime, number: int, dice: random.Random) -> None:
        """Requests in office hours, and the containers that answered them."""
        scale = 0.2 if day.weekday() >= 5 else dice.uniform(0.6, 1.2)
        usage_recorder = UsageRecorder(self.facts, HandClock(day), f"gateway-{number}")
        last = self.now - timedelta(minutes=3)
        for ending, usual in (("success", 260), ("client_gone", 16), ("refused", 6), ("upstream_cut", 4)):
            for _ in range(round(usual * scale * dice.uniform(0.7, 1.1))):
                model, tier = ("deepseek-r1:32b", "h100") if dice.random() < 0.15 else ("llama3.2:latest", "a10g")
                at = min(day + timedelta(hours=dice.uniform(7, 19)), last)
                usage_recorder.add(Use(at, model, "alice", tier, ending, 300, 420, 0.4, 9.0))
        if last.date() == day.date():  # somebody works late, whatever the hour
            usage_recorder.add(Use(last, "llama3.2:latest", "alice", "a10g", "success", 300, 420, 0.4, 9.0))
        usage_recorder.flush()
        for tier, hours in (("a10g", 5.2 * scale), ("h100", 0.9 * scale)):
            began = day + timedelta(hours=8)
            if began < self.now:
                end = min(began + timedelta(hours=hours), self.now)
                seconds = (end - began).total_seconds()
                shares: dict[TimeShare, float] = {"cold": 90.0, "serving": seconds * 0.6, "idle": seconds * 0.4 - 90.0}
                told = Metered(tier, f"c{number}", began, end, shares)
                self.facts.put(told.key, told.as_json())

    def _health(self, begin: datetime) -> None:
        history: dict[str, list[tuple[float, HealthState]]] = {
            "a10g": [(0.3, "ready"), (16.4, "degraded"), (16.5, "ready"), (27.2, "ready")],
            "h100": [(3.4, "ready"), (3.6, "asleep"), (9.4, "ready"), (9.5, "lost"), (9.6, "asleep")],
        }
        for tier, turns in history.items():
            for n, (days, state) in enumerate(turns, 1):
                turn = Turn(n, begin + timedelta(days=days), Health(tier, state))
                self.facts.put(f"health/{tier}/{n}", turn.as_json())

    def _servers(self) -> None:
        loaded = (
            Loaded("llama3.2:latest", 4_100_000_000, 4_100_000_000, 8192),
            Loaded("nomic-embed-text:latest", 620_000_000, 620_000_000, 2048),
        )
        began = self.now - timedelta(minutes=42)
        report = Report(
            "a10g", "ta-01", "serving", self.now, started_at=began, version="0.32.15", gpu=Gpu("A10G", 24 * GB, 1),
            loaded=loaded, in_flight=1, dollars_per_hour=FLEET.dollars_per_hour("a10g"),
        )  # fmt: skip
        self.facts.put(report.key, report.as_json())
        slept = self.now - timedelta(hours=3)
        ended = Report("h100", "ta-02", "ended", slept, started_at=slept - timedelta(minutes=20))
        self.facts.put(ended.key, ended.as_json())

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def _jobs(self) -> None:
        self._verified()
        self._did_not_fit()
        self._pulled()
        self._waits()
        self._runs()

    def _at(self, **ago: float) -> tuple[Ledger, HandClock]:
        clock = HandClock(self.now - timedelta(**ago))
        return Ledger(self.queue, self.facts, clock), clock

    def _claimed(self, ledger: Ledger, kind: str, model: str, by: str) -> Claim:
        subject = model if model == "*" else str(ModelName.parse(model).folded())
        job = ledger.post(kind, subject, {"model": None if model == "*" else model}, by=by).job
        claim = ledger.claim(job.id, worker="weights-7f2c:31", lease=timedelta(hours=1))
        assert claim is not None
        return claim

    def _verified(self) -> None:
        ledger, clock = self._at(hours=7)
        claim = self._claimed(ledger, "verify", "*", "nightly")
        night = NightJob(claim.job.id, "verify", "*", "never read in full", 28_700_000_000)
        self.facts.put(keys.NIGHT_RAN, Ran(clock.now(), clock.now(), (night,)).as_json())
        clock.tick(96)
        result = {"models": 4, "blobs": 17, "bytes": 28_700_000_000}
        ledger.end(claim, Ending("succeeded", result=result), Reading(28_700_000_000, 28_700_000_000))

    def _did_not_fit(self) -> None:
        ledger, clock = self._at(hours=2)
        model = "hf.co/bartowski/Qwen2.5-Coder-32B-Instruct-GGUF:Q4_K_M"
        claim = self._claimed(ledger, "pull", model, "bob")
        clock.tick(40)
        why = "registry hf.co closed the connection after 3.1 GB"
        ledger.end(claim, Ending("retry", "network", why, not_before=clock.now()), Reading(3_100_000_000, 19 * GB))
        again = ledger.claim(claim.job.id, worker="weights-7f2c:31", lease=timedelta(hours=1))
        assert again is not None
        clock.tick(3)
        why = "19.9 GB do not fit: 986 GB of a quota of 1.0 TB are used"
        ledger.end(again, Ending("failed", "disk", why), Reading(3_100_000_000, 19 * GB))

    def _pulled(self) -> None:
        ledger, clock = self._at(hours=1)
        claim = self._claimed(ledger, "pull", "nomic-embed-text", "alice")
        clock.tick(6)
        ledger.end(claim, Ending("succeeded", result={"size": 274_302_450}), Reading(274_302_450, 274_302_450))

    def _waits(self) -> None:
        ledger, clock = self._at(minutes=6)
        claim = self._claimed(ledger, "warm", "deepseek-r1:32b", "alice")
        clock.tick(60)
        why = "tier 'h100' answered 503 for 60 s: no GPU of this kind is free"
        until = self.now + timedelta(minutes=4)
        ledger.end(claim, Ending("retry", "network", why, not_before=until), Reading())

    def _runs(self) -> None:
        ledger, clock = self._at(seconds=62)
        claim = self._claimed(ledger, "pull", "qwen3:30b", "alice")
        clock.tick(61)
        ledger.beat(claim, Reading(11_780_000_000, 18_556_688_736, 204_000_000.0, "pulling"))


@contextmanager
def lived(folder: Path, keys: str = "") -> Iterator[RunningGateway]:
    """A gateway that has these weeks behind it. Behind it are no servers: whoever asks one of them finds nobody."""
    path = folder / "gateway.sqlite"
    now = SystemClock().now().astimezone(UTC)
    facts, queue = SqliteDict(path), SqliteQueue(path, clock=SystemClock())
    Lived(facts, queue, now).all()
    queue.close()
    facts.close()
    models = [
        KnownModel(
            ModelName.parse(name),
            f"{number:064x}",
            size,
            now - timedelta(days=9 + number),
            {"family": family, "parameter_size": parameters, "quantization_level": quantisation},
        )
        for number, (name, size, family, parameters, quantisation) in enumerate(SAMPLES)
    ]
    nowhere = {tier: f"http://127.0.0.1:{free_port()}" for tier in FLEET.tiers}
    tiers = FLEET.catalog_tiers()
    aliases = {"gpt-4o": "llama3.2", "claude-*": "llama3.2"}
    with gateway(
        folder, nowhere, keys=keys, source=ModelList(models), tiers=tiers, fleet=FLEET, aliases=aliases
    ) as running:
        yield running


def photograph(window: Browser, url: str, path: Path, *, scheme: str = "light") -> None:
    """The page from its top to its end."""
    window.prefer(color_scheme=scheme)
    window.open(f"{url}/ui")
    window.until(lambda: window.is_shown("#footer") and window.is_shown("#job-list progress"))
    window.picture(path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch, lived(Path(scratch)) as running, browser(1120, 900) as window:
        photograph(window, running.url, Path(sys.argv[1]))
