"""Every fault of a registry and of an Ollama server, met by both ways of pulling, through a real worker.

Each case says which faults are on, how each attempt ends (`ok`, or the class of its failure), and what the story of the
job tells: what happened to which thing, and what to do about it.
"""

import json
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.core.clock import SystemClock
from jobs.core.errors import NotWritable
from jobs.core.retention import RetentionRules
from jobs.core.retry import NEVER
from jobs.core.units import human_bytes
from jobs.ledger.job import Job, JobState
from jobs.ledger.job_text import story
from jobs.models.placement import LOCAL
from jobs.ollama.client import OllamaClient
from jobs.ollama.errors import PARTS_HINT
from jobs.tasks.context import TaskContext
from jobs.tasks.table import perform
from jobs.testing.models import SimModel
from jobs.testing.ollama.faults import OllamaFault as ServerFault
from jobs.testing.ollama.server import OllamaDouble
from jobs.testing.registry.faults import RegistryFault
from jobs.testing.registry.server import RegistryDouble
from jobs.worker.attempt import RunningAttempt
from tests.support.crash_points import READ_ONLY, refusing
from tests.support.ollama_servers import serving, simulator_command
from tests.support.pull_setup import CONNECTIONS, MODEL, RANGE_BYTES, Scene, post, snapshot, worked
from tests.support.stores import Store
from tests.support.waiting import PATIENCE

ALLOWED = 3
STALL = 0.8
BLOB = MODEL.layers[0]
ALWAYS = None


@dataclass(frozen=True)
class Case:
    name: str
    attempts: str
    """How each ends: `ok` or a failure class."""
    faults: tuple[RegistryFault, ...] = ()
    server: tuple[ServerFault, ...] = ()
    says: tuple[str, ...] = ()
    """Phrases of the story."""

    def __str__(self) -> str:
        return self.name

    @property
    def stall(self) -> float:
        """Seconds without a byte that end a pull: few where a case waits for them, else more than a machine is busy."""
        kinds = {*(each.kind for each in self.faults), *(each.kind for each in self.server)}
        if kinds & {"silent", "hang"} and self.attempts == THRICE:
            return STALL
        return 12.0 if kinds & {"hang", "crawl", "slow"} else PATIENCE


@dataclass
class Bench:
    scene: Scene
    store: Store
    registry: RegistryDouble
    server: OllamaDouble
    client: httpx.Client
    ollama: OllamaClient
    stall: float

    def context(self, **more: Any) -> TaskContext:
        servers = {"local": self.ollama}
        usual = {"stall": self.stall, "policy": NEVER, "servers": servers, "tiers": (LOCAL,)}
        return self.scene.context(self.client, **{**usual, **more})

    def pull(self, way: str, **more: Any) -> Job:
        return worked(self.store, self.context(**more), post(self.store, way=way, attempts=ALLOWED))


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def bench(tmp_path: Path, client: httpx.Client, request: pytest.FixtureRequest) -> Iterator[Bench]:
    of_case: Case | None = request.node.callspec.params.get("case") if hasattr(request.node, "callspec") else None
    stall = of_case.stall if of_case else PATIENCE
    with (
        RegistryDouble([MODEL]) as registry,
        OllamaDouble(tmp_path / "server", registry=registry.url, retry_seconds=0.001) as server,
        OllamaClient(
            server.url, policy=NEVER, stall=timedelta(seconds=stall), verify_budget=timedelta(seconds=2 * stall)
        ) as ollama,
    ):
        scene = Scene(tmp_path, registry.url)
        store = scene.store()
        yield Bench(scene, store, registry, server, client, ollama, stall)
        store.close()
        registry.stopping.set()  # or the server would wait for what never comes


AGAIN = "then try exactly the same again: `ollama-modal retry"
REACH = f"reaches the other side; what was fetched is kept, {AGAIN}"
KEPT = "the server keeps what it has; the next attempt goes on from there"
THRICE = "network network network"


def manifest(kind: Any, value: int = 0, *, times: int | None = ALWAYS, **more: Any) -> tuple[RegistryFault, ...]:
    return (RegistryFault("manifest", kind, value, times, **more),)


def cdn(kind: Any, value: int = 0, *, times: int | None = ALWAYS, **more: Any) -> tuple[RegistryFault, ...]:
    return (RegistryFault("cdn", kind, value, times, **more),)


OUR_OWN = (
    Case("an error once", "network ok", manifest("status", 500, times=1), says=("answers 500 for walnut:latest",)),
    Case("an error always", THRICE, manifest("status", 500), says=("answers 500 for walnut:latest", REACH)),
    Case("an error of the CDN", "network ok", cdn("status", 502, times=1), says=("answers 502 for blob sha256:",)),
    Case("a manifest that never comes", THRICE, manifest("silent"), says=("timed out", REACH)),
    Case("bytes that never come", THRICE, cdn("hang", 0), says=("timed out", REACH)),
    Case("a hang in the midst", "ok", cdn("hang", 1000, times=3)),
    Case("a crawl", "ok", cdn("crawl", 150_000)),
    Case("every answer cut", "ok", cdn("cut", 20_000)),
    Case("cut before a byte", THRICE, cdn("cut", 0), says=("peer closed connection", REACH)),
    Case("an address that expires half-way", "ok", cdn("expire", times=1, after=4, digest=BLOB.digest)),
    Case("a wrong digest once", "corrupt ok", cdn("flip", 5, times=1), says=("have digest", "are fetched again")),
    Case(
        "a wrong digest always",
        "corrupt corrupt",
        cdn("flip", 5),
        says=("have digest", "the registry's copy is damaged", "the bytes were wrong twice", AGAIN),
    ),
    Case("answers too short", THRICE, cdn("short", 50, digest=BLOB.digest), says=("ended 50 bytes early", REACH)),
    Case("other bytes than asked for", THRICE, cdn("shift", 50), says=("were asked for", REACH)),
    Case("a Range that is ignored", "ok", cdn("whole")),
    Case("401", "auth", manifest("status", 401), says=("wants a login for 'walnut:latest'", "ollama signin", AGAIN)),
    Case("404", "not_found", manifest("status", 404), says=("has no walnut:latest", "check the spelling")),
    Case("412", "refused", manifest("status", 412), says=("needs a newer Ollama", "upgrade Ollama on the servers")),
    Case("429", "network ok", manifest("status", 429, times=1, retry_after=1), says=("answers 429",)),
)

FRAMES_STOP = ServerFault("/api/pull", "hang", 1, times=ALWAYS)

BY_SERVER = (
    Case("an error once", "network ok", manifest("status", 500, times=1), says=("the registry has trouble",)),
    Case("an error always", THRICE, manifest("status", 500), says=("pull model manifest: 500", REACH)),
    Case("a manifest that never comes", THRICE, manifest("silent"), says=("at 'pulling manifest'", KEPT, REACH)),
    Case("bytes that never come", THRICE, cdn("hang", 1000), says=("nothing moved for", "1.0 kB in", KEPT, REACH)),
    Case("a crawl", "ok", cdn("crawl", 200_000)),
    Case("answers cut", THRICE, cdn("cut", 20_000), says=("max retries exceeded: unexpected EOF", REACH)),
    Case(
        "an address that expires half-way",
        "network ok",
        (*cdn("cut", 20_000, times=1, after=1), *cdn("expire", times=1, after=1)),  # a HEAD comes first
        says=("max retries exceeded: EOF",),
    ),
    Case("a wrong digest always", "corrupt corrupt", cdn("flip", 5), says=("digest mismatch", "wrong twice", AGAIN)),
    Case("answers too short", THRICE, cdn("short", 50), says=("max retries exceeded: EOF", REACH)),
    Case("a Range that is ignored", "ok", cdn("whole")),
    Case("401", "auth", manifest("status", 401), says=("unauthorized: access denied", "ollama signin", AGAIN)),
    Case("404", "not_found", manifest("status", 404), says=("file does not exist", "check the spelling")),
    Case("412", "refused", manifest("status", 412), says=("a newer version of Ollama", "update Ollama on that server")),
    Case("429", "network ok", manifest("status", 429, times=1, retry_after=1), says=("pull model manifest: 429",)),
    Case(
        "an error of its own before the stream",
        "network ok",
        server=(ServerFault("/api/pull", "status", 500, "boom"),),
        says=("boom",),
    ),
    Case(
        "an error of its own inside the stream",
        "network ok",
        server=(ServerFault("/api/pull", "error", 1, "boom"),),
        says=("boom",),
    ),
    Case("a stream that stops", THRICE, server=(FRAMES_STOP,), says=("nothing moved for", KEPT, REACH)),
    Case("a slow stream", "ok", server=(ServerFault("/api/pull", "slow", 0.3),)),
    Case(
        "a cut stream", "network ok", server=(ServerFault("/api/pull", "cut", 60),), says=("pulling 'walnut:latest'",)
    ),
    Case("a digest mismatch", "corrupt ok", server=(ServerFault("/api/pull", "digest"),), says=("Ollama removed",)),
    Case(
        "its disk full",
        "disk ok",
        server=(ServerFault("/api/pull", "full"),),
        says=("no space left on device", "free some space there"),
    ),
)


def told(job: Job) -> str:
    """What `ollama-modal job ID` prints."""
    return "\n".join(story(job, datetime.now(UTC)))


def check(case: Case, job: Job) -> None:
    text = told(job)
    attempts = case.attempts.split()
    assert [each.failure_class or "ok" for each in job.attempts] == attempts, text
    assert job.state is (JobState.SUCCEEDED if attempts[-1] == "ok" else JobState.FAILED)
    assert not [phrase for phrase in case.says if phrase not in text], text


@pytest.mark.parametrize("case", OUR_OWN, ids=str)
def test_a_fault_met_by_our_own_puller(bench: Bench, case: Case) -> None:
    """The job ends as it should, after the right number of attempts, and its story names what happened and what to do;
    a model that came is whole."""
    for fault in case.faults:
        bench.registry.faults.add(fault)
    job = bench.pull("registry")
    check(case, job)
    weights = bench.scene.weights()
    assert [str(model.name) for model in weights.models()] == [str(MODEL.name)] * (job.state is JobState.SUCCEEDED)
    assert weights.verify([layer for model in weights.models() for layer in model.manifest.blobs]) == []


@pytest.mark.parametrize("case", BY_SERVER, ids=str)
def test_a_fault_met_by_a_server(bench: Bench, case: Case) -> None:
    """The same promise where an Ollama server pulls: its words are understood, and passed on."""
    for fault in case.faults:
        bench.registry.faults.add(fault)
    for wrong in case.server:
        bench.server.faults.add(wrong)
    job = bench.pull("server")
    check(case, job)
    listed = [each.name for each in bench.ollama.tags()]
    assert listed == [str(MODEL.name)] * (job.state is JobState.SUCCEEDED)


def test_the_registrys_wish_is_kept(bench: Bench) -> None:
    """With Retry-After the next attempt starts no sooner than that."""
    bench.registry.faults.add(RegistryFault("manifest", "status", 429, retry_after=1))
    first, second = bench.pull("registry").attempts
    assert first.ended_at
    assert (second.started_at - first.ended_at).total_seconds() >= 0.99


class Liar(SimModel):
    """Its manifest tells a wrong size of the first blob."""

    @cached_property
    def manifest(self) -> bytes:
        document = json.loads(MODEL.manifest)
        document["layers"][0]["size"] += 7
        return json.dumps(document).encode()


def test_a_manifest_that_tells_a_wrong_length(bench: Bench) -> None:
    """It is found out at the first answer, tried once more, and told with both sizes."""
    liar = Liar(MODEL.name, MODEL.family, MODEL.parameter_size, MODEL.quantization, MODEL.layers)
    with RegistryDouble([liar]) as registry:
        bench.scene = Scene(bench.scene.folder, registry.url)
        job = bench.pull("registry")
    check(Case("", "corrupt corrupt", says=(f"has {BLOB.size} bytes", f"its manifest says {BLOB.size + 7}")), job)
    assert registry.served[BLOB.digest] <= 2 * CONNECTIONS * RANGE_BYTES  # the other blobs may be through by then


def test_a_pull_that_cannot_fit_its_quota_fetches_nothing(bench: Bench) -> None:
    """It is refused before a byte, at the first attempt, with all three sizes and what could be done."""
    job = bench.pull("registry", retention=RetentionRules(quota_bytes=MODEL.size - 1))
    sizes = f"{human_bytes(MODEL.size)} needed, but the weights use 0 B of a quota of {human_bytes(MODEL.size - 1)}"
    check(Case("", "disk", says=(sizes, "raise the quota", AGAIN)), job)
    assert bench.registry.served == {}
    assert bench.registry.requests["manifest"] == 1


def is_mounted(folder: Path, options: str) -> bool:
    """Whether we could, which takes root and more."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture
def tight(tmp_path: Path) -> Iterator[Callable[[], object]]:
    """The models directory on a disk that is too small; what comes out makes it large enough."""
    folder = tmp_path / "models"
    folder.mkdir()
    if is_mounted(folder, "size=400k"):
        try:
            yield lambda: subprocess.check_call(["mount", "-o", "remount,size=4m", folder])
        finally:
            subprocess.check_call(["umount", folder])
        return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)  # without root: no file may grow beyond this
    resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, limits[1]))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_tried_again_and_a_retry_goes_on(bench: Bench, tight: Callable[[], object]) -> None:
    """The system's own refusal costs an attempt after the other, as somebody may make room meanwhile, and is told with
    what to do; with room made, a retry fetches only what is missing."""
    job = bench.pull("registry")
    check(
        Case(
            "", "disk disk disk", says=("free some space, or delete a model", "what was fetched so far is kept", AGAIN)
        ),
        job,
    )
    tight()
    again = worked(bench.store, bench.context(), bench.store.ledger().retry(job.id, by="test").job.id)
    check(Case("", "ok"), again)
    cut_short = 3 * CONNECTIONS * RANGE_BYTES  # what each attempt that the disk ended had under way
    assert sum(bench.registry.served.values()) <= MODEL.size + cut_short


def test_a_read_only_disk_fails_at_once_and_says_so(bench: Bench) -> None:
    """On a disk that takes nothing a pull fails without fetching a byte, tells what to do, and leaves all as it was."""
    claim = bench.store.ledger().claim(post(bench.store, way="registry"), worker="w", lease=timedelta(minutes=1))
    assert claim is not None
    context = bench.context()
    before = snapshot(bench.scene.folder / "models")
    changes = {event: code for event, code in READ_ONLY.items() if event != "open"}  # the lock lies elsewhere
    with refusing(changes), pytest.raises(NotWritable, match="Read-only file system") as refused:
        perform(RunningAttempt(claim, bench.store.ledger(), SystemClock()), context)
    assert refused.value.hint
    assert sum(bench.registry.served.values()) == 0
    assert snapshot(bench.scene.folder / "models") == before


def test_a_poisoned_part_file_is_named_with_its_remedy(bench: Bench) -> None:
    """A part file that Ollama cannot read fails every pull of that blob until somebody removes it: so it is told."""
    poison = bench.server.settings.models / "blobs" / f"{BLOB.digest.replace(':', '-')}-partial-0"
    poison.parent.mkdir(parents=True, exist_ok=True)
    poison.touch()
    job = bench.pull("server")
    check(Case("", "corrupt corrupt", says=(": EOF", PARTS_HINT, AGAIN)), job)
    poison.unlink()
    again = bench.store.ledger().retry(job.id, by="test").job.id
    check(Case("", "ok"), worked(bench.store, bench.context(), again))


def test_a_server_that_dies_is_told_and_a_retry_uses_the_next(bench: Bench, tmp_path: Path) -> None:
    """The attempt that saw it die is cut short, those after find nobody; with the server back, a retry succeeds."""
    home = tmp_path / "mortal"
    home.mkdir()
    with (
        serving(simulator_command(), home, is_real=False, OLLAMA_SIM_REGISTRY=bench.registry.url) as mortal,
        OllamaClient(mortal.url, policy=NEVER, stall=timedelta(seconds=PATIENCE)) as ollama,
    ):
        bench.ollama = ollama
        httpx.post(f"{mortal.url}/_faults", json={"route": "/api/pull", "kind": "die", "value": 1}, timeout=PATIENCE)
        job = bench.pull("server")
    check(Case("", THRICE, says=(mortal.url, "Connection refused", REACH)), job)
    with OllamaClient(bench.server.url, policy=NEVER, stall=timedelta(seconds=PATIENCE)) as ollama:
        bench.ollama = ollama
        again = bench.store.ledger().retry(job.id, by="test").job.id
        check(Case("", "ok"), worked(bench.store, bench.context(), again))
