"""Models of the sizes that people have, without their bytes: manifests as they are, weights as holes in a file.

A file of holes has its full size for everybody who looks, and takes no room. Only who reads it through would notice:
so nothing here is ever hashed, and its digest is made up. In the trash it counts for what it takes, which is nothing.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from app.deployment import weights_worker as weights_lane
from app.deployment.volume_queries import actual_from
from app.deployment.worker_process import timing
from app.fleet.file import read
from app.fleet.schema import Fleet, parse
from app.scheduler import runs
from app.scheduler.night_plan import Actual, Night, night
from jobs.archive.archived import archive_at
from jobs.core.clock import isoformat
from jobs.core.model_name import ModelName
from jobs.core.retry import NEVER
from jobs.ledger.job import Job
from jobs.ledger.kinds import WEIGHTS_LANE
from jobs.ledger.ledger import Ledger
from jobs.registry.client import Registry
from jobs.store import keys
from jobs.store.sqlite import SqliteDict
from jobs.telemetry.usage import UsageRecorder, Use
from jobs.weights.directory import ModelsDirectory
from jobs.weights.history import Memory, recall
from jobs.weights.manifest import Manifest
from jobs.worker.attempt import RunningAttempt
from jobs.worker.worker import Perform, Worker
from tests.support.models_directory import digest_of
from tests.support.month import ImpatientQueue, MonthClock

GB, TB = 10**9, 10**12


def manifest_of(name: str, *sizes: int, config: bytes = b"{}") -> Manifest:
    """A manifest of layers of these sizes; the same name and size are the same blob."""

    def layer(digest: str, size: int, kind: str) -> dict[str, Any]:
        return {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": size}

    digests = [f"sha256:{hashlib.sha256(f'{name}/{n}/{size}'.encode()).hexdigest()}" for n, size in enumerate(sizes)]
    kinds = ["model", *["adapter"] * len(sizes)]
    layers = [layer(*each) for each in zip(digests, sizes, kinds, strict=False)]
    told = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest_of(config)}
    document = {"schemaVersion": 2, "config": {**told, "size": len(config)}, "layers": layers}
    return Manifest.parse(json.dumps(document).encode())


def lay(weights: ModelsDirectory, name: str, manifest: Manifest, came: datetime, config: bytes = b"{}") -> None:
    """As if it had been pulled then; holes where its weights would be."""
    for blob in manifest.blobs:
        path = weights.layout.blob(blob.digest)
        if not path.exists():
            path.touch()
            os.truncate(path, blob.size)
    weights.layout.blob(manifest.config.digest).write_bytes(config)
    at = weights.layout.manifest(ModelName.parse(name))
    at.parent.mkdir(parents=True, exist_ok=True)
    at.write_bytes(manifest.raw)
    os.utime(at, (came.timestamp(), came.timestamp()))


def sizes(count: int, least: int = GB, most: int = 300 * GB) -> list[int]:
    """From the least to the most, evenly by their logarithms, in a mixed order that is always the same."""
    spread = [round(least * (most / least) ** (n / (count - 1))) for n in range(count)]
    return sorted(spread, key=lambda size: hashlib.sha256(str(size).encode()).digest())


def fleet_of(quota: int, declared: Iterable[str] = (), **retention: int) -> Fleet:
    document = read()
    document["models"] = [{"name": name, "tier": "h100", "pinned": True} for name in declared]
    document["volume"]["quota_gb"] = quota // GB
    document["volume"]["retention"] |= retention
    return parse(document, "the fleet of large models")


class Still:
    """A volume that is a directory."""

    def commit(self) -> None:
        pass

    def reload(self) -> None:
        pass


@dataclass
class Seen:
    """A night: what `plan` said before it, what it posted, and what a second run posted."""

    at: datetime
    planned: Night
    posted: list[Job]
    again: list[Job]


class LargeModels:
    """A volume of large models, with the schedules, the ledger, the weights lane and all of its tasks but the hash.

    Args:
        folder: for the volume and the ledger.
        fleet: what should be.
        begin: the time.

    """

    def __init__(self, folder: Path, fleet: Fleet, begin: datetime) -> None:
        self.fleet, self.clock = fleet, MonthClock(begin)
        self.facts = SqliteDict(folder / "ledger.sqlite")
        self.queue = ImpatientQueue(folder / "ledger.sqlite", clock=self.clock)
        self.ledger = Ledger(self.queue, self.facts, self.clock)
        self.root = folder / "models"
        self.mounted = weights_lane.MountedWeights(Still(), self.root, self.facts, self.clock)
        self.mounted.open()
        self.weights = self.mounted.weights
        self.archive = archive_at(self.root)
        self.manifests: dict[str, Manifest] = {}
        self.upstream: dict[str, Manifest] = {}
        self.registry = Registry(client=httpx.Client(transport=httpx.MockTransport(self._answer)), requests=NEVER)
        self.post = runs.ScheduleContext(self.ledger, self.facts, fleet, self.clock, lambda _: None)
        self.seen: list[Seen] = []
        self.before: dict[str, int] = {}
        """The sizes at the beginning."""

    def close(self) -> None:
        self.queue.close()
        self.facts.close()

    def put(self, name: str, manifest: Manifest) -> None:
        """Here, and upstream."""
        self.upstream[str(ModelName.parse(name))] = self.manifests[str(ModelName.parse(name))] = manifest
        lay(self.weights, name, manifest, self.clock.now())

    def use(self, *names: str, at: datetime) -> None:
        """As if they had been asked for last then."""
        known = self.facts.get(keys.LAST_USED) or {}
        self.facts.put(keys.LAST_USED, known | {str(ModelName.parse(name).folded()): isoformat(at) for name in names})
        usage_recorder = UsageRecorder(self.facts, self.clock, "gateway")  # from now on uses are recorded
        usage_recorder.add(Use(self.clock.now(), "", "alice", "h100", "success"))
        usage_recorder.flush()

    def actual(self, memory: Memory, jobs: Sequence[Job]) -> Actual:
        now = self.clock.now()
        found = self.weights.survey()
        return actual_from(found, jobs, self.facts, fleet=self.fleet, memory=memory, registry=self.registry, now=now)

    def night(self) -> Seen:
        """The night as `plan` tells it, as it is posted, and once more; then its jobs are done."""
        jobs = self.ledger.reader.jobs()
        planned = night(self.fleet, self.actual(recall(self.facts, jobs), jobs), self.clock.now())
        posted = self._posted()
        again = self._posted()
        self.seen.append(Seen(self.clock.now(), planned, posted, again))
        self.work()
        return self.seen[-1]

    def _posted(self) -> list[Job]:
        before = set(self.ledger.reader.ids())
        runs.nightly(self.post, self.actual)
        return [self.ledger.reader.get(id) for id in set(self.ledger.reader.ids()) - before]

    def work(self) -> None:
        """The weights lane, until nothing is left to do."""
        with weights_lane.performing(
            self.ledger, self.facts, self.mounted, registry=self.registry, fleet=self.fleet, clock=self.clock
        ) as perform:
            worker = Worker(
                self.ledger,
                WEIGHTS_LANE,
                lambda run: self._performed(run, perform),
                clock=self.clock,
                concurrency=1,  # a pull that came before the prune would find no room
                timing=timing(timedelta(hours=1)),
            )
            self.queue.goes_home = threading.Event()
            worker.run(self.queue.goes_home)

    def _performed(self, run: RunningAttempt, perform: Perform) -> Any:
        """What reads weights through is told as done; all else is done."""
        name = str(ModelName.parse(run.job.request.get("model") or "none"))
        match run.job.kind:
            case "verify":
                blobs = self.manifests[name].blobs
                assert self.weights.layout.manifest(ModelName.parse(name)).exists()
                told = {"models": [name], "blobs": len(blobs), "bytes": sum(blob.size for blob in blobs)}
                return {**told, "mended": [], "torn": []}
            case "pull":
                manifest = self.upstream[name]
                self.weights.room_for(manifest.size, self.fleet.volume.quota_bytes)
                self.put(name, manifest)
                told = {"model": name, "digest": manifest.digest, "size": manifest.size, "way": "registry"}
                return {**told, "facts": None, "fetched_bytes": manifest.size, "reused_bytes": 0}
        return perform(run)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        _, _, _, name, _, tag = request.url.path.split("/")
        found = self.upstream.get(f"{name}:{tag}")
        return httpx.Response(200 if found else 404, content=iter([found.raw] if found else []))  # not read yet


@contextmanager
def large_models(folder: Path, fleet: Fleet) -> Iterator[LargeModels]:
    large = LargeModels(folder, fleet, datetime(2026, 10, 5, 1, tzinfo=UTC))
    try:
        yield large
    finally:
        large.close()
