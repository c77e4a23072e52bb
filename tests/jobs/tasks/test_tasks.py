"""What each kind of job does, through a real worker, against the registry double and the simulator on one directory."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.core.clock import SystemClock
from jobs.core.errors import NoRoom, ServerTrouble
from jobs.core.model_name import ModelName
from jobs.core.progress import Reading
from jobs.core.retention import RetentionRules
from jobs.core.retry import NEVER
from jobs.core.units import human_bytes
from jobs.ledger.job import Backoff, Ending, Job, JobState, after_trouble
from jobs.ledger.job_text import result_text, story
from jobs.ledger.kinds import KINDS
from jobs.ledger.ledger import Ledger
from jobs.models.gguf import MemoryFacts
from jobs.models.placement import TierCapacity
from jobs.ollama.client import OllamaClient
from jobs.tasks.context import TaskContext
from jobs.tasks.prune import plan_request
from jobs.tasks.table import TASKS, perform
from jobs.testing.clock import HandClock
from jobs.testing.models import LICENSE, SimModel, find, weights
from jobs.testing.ollama.server import OllamaDouble
from jobs.testing.registry.faults import RegistryFault
from jobs.testing.registry.server import RegistryDouble
from jobs.weights.history import recall
from jobs.weights.prune_plan import WeightsUse
from jobs.weights.removal import remove
from jobs.weights.staging import staging_subject
from jobs.weights.trash_moves import throw_models
from jobs.worker.attempt import RunningAttempt
from tests.support.pull_setup import CONNECTIONS, MODEL, RANGE_BYTES, Scene, nothing, post, snapshot, worked, working
from tests.support.stores import Store
from tests.support.tiers import A10G
from tests.support.waiting import PATIENCE, until

BLOB = MODEL.layers[0]
ONE, TWO = (
    SimModel(ModelName.parse(name), "llama", "1B", "F16", (weights(name, 20_000), LICENSE)) for name in ("one", "two")
)
ROOMY = TierCapacity("roomy", None, gpu_promised=False)


@dataclass
class Bench:
    scene: Scene
    store: Store
    registry: RegistryDouble
    client: httpx.Client

    def context(self, **more: Any) -> TaskContext:
        return self.scene.context(self.client, **more)

    def do(self, kind: str, context: TaskContext | None = None, **request: Any) -> Job:
        return worked(self.store, context or self.context(), post(self.store, kind, **request))

    def blob(self, digest: str) -> Path:
        return self.scene.weights().layout.blob(digest)

    @property
    def staging(self) -> list[Path]:
        return list((self.scene.folder / "models" / "staging").iterdir())


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def bench(tmp_path: Path, client: httpx.Client) -> Iterator[Bench]:
    with RegistryDouble([MODEL, ONE, TWO]) as registry, ExitStack() as closing:
        scene = Scene(tmp_path, registry.url)
        store = scene.store()
        closing.callback(store.close)
        yield Bench(scene, store, registry, client)


@contextmanager
def warmed_by(bench: Bench, tier: TierCapacity, **settings: Any) -> Iterator[TaskContext]:
    """A server of this tier on the bench's models directory."""
    with (
        OllamaDouble(bench.scene.folder / "models", **settings) as double,
        OllamaClient(double.url, policy=NEVER) as ollama,
    ):
        yield bench.context(servers={tier.name: ollama}, tiers=(tier,))


def test_each_kind_has_a_task() -> None:
    """Whatever can be posted, somebody can do."""
    assert set(TASKS) == set(KINDS)


LLAMA = find(ModelName.parse("llama3.2:1b"))


def test_a_model_is_placed_by_what_its_header_tells(bench: Bench) -> None:
    """The pull's result tells what the header does, and a server is chosen by the memory that contexts take as well."""
    assert LLAMA is not None
    with RegistryDouble([LLAMA]) as registry:
        scene = Scene(bench.scene.folder, registry.url)
        context = scene.context(bench.client)
        pulled = worked(bench.store, context, post(bench.store, "pull", model="llama3.2:1b"))
        assert pulled.result, told(pulled)
        facts = MemoryFacts.from_json(pulled.result["facts"])
        assert facts is not None
        assert (facts.layers, facts.kv_heads, facts.context) == (16, (8,), 131_072)

        small = TierCapacity("small", 2 * LLAMA.size, gpu_promised=False, context=8192, runner_bytes=0)
        large = TierCapacity("large", 90 * LLAMA.size, gpu_promised=False, context=8192, runner_bytes=0)
        tiers = (small, large, replace(large, name="asked"))
        with ExitStack() as closing:
            servers = {tier.name: closing.enter_context(OllamaClient("http://127.0.0.1:9")) for tier in tiers}
            context = scene.context(bench.client, servers=servers, tiers=tiers)
            assert context.server_for_model(LLAMA.name, None)[0] == small
            assert context.server_for_model(LLAMA.name, "asked")[0].name == "asked"
            many = replace(context, tiers=[replace(tier, parallel=64) for tier in tiers])
            assert many.server_for_model(LLAMA.name, None)[0].name in ("large", "asked")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def told(job: Job) -> str:
    return "\n".join(story(job, datetime.now(UTC)))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(("damage", "kind"), [(flipped, "flipped"), (cut_short, "short"), (Path.unlink, "missing")])
def test_a_verify_mends_the_damaged_blob_alone(bench: Bench, damage: Callable[[Path], None], kind: str) -> None:
    """Only the bytes of the damaged blob are fetched again, and the directory is as it was."""
    assert bench.do("pull").state is JobState.SUCCEEDED
    before = snapshot(bench.scene.folder / "models")
    damage(bench.blob(BLOB.digest))
    bench.registry.reset()

    job = bench.do("verify")

    assert job.state is JobState.SUCCEEDED, told(job)
    assert bench.registry.served == {BLOB.digest: BLOB.size}
    assert snapshot(bench.scene.folder / "models") == before
    assert job.result
    assert job.result["mended"] == [{"digest": BLOB.digest, "damage": kind}]
    assert "1 damaged blob fetched again, and sound now" in told(job)


def test_a_verify_of_all_names_torn_manifests(bench: Bench) -> None:
    """Nobody knows which blobs a torn manifest meant: its model is named, the others are verified all the same."""
    bench.do("pull", model="one")
    bench.do("pull", model="two")
    layout = bench.scene.weights().layout
    cut_short(layout.manifest(ONE.name))
    flipped(bench.blob(TWO.layers[0].digest))

    job = worked(
        bench.store, bench.context(), bench.store.ledger().post("verify", "*", {"model": None}, by="test").job.id
    )

    assert job.result
    assert job.result["torn"] == ["one:latest"]
    assert [each["digest"] for each in job.result["mended"]] == [TWO.layers[0].digest]
    assert "the manifest of one:latest is torn: pull it again" in told(job)
    alone = bench.do("verify", model="one")
    assert [each.failure_class for each in alone.attempts] == ["corrupt", "corrupt"]
    assert "ollama-modal pull one" in told(alone)


def test_a_pull_over_a_damaged_blob_mends_it(bench: Bench) -> None:
    """What is here is hashed before it is trusted: a pull of a model that is here fetches its damaged blob only."""
    bench.do("pull")
    before = snapshot(bench.scene.folder / "models")
    flipped(bench.blob(BLOB.digest))
    bench.registry.reset()

    job = bench.do("pull")

    assert job.result
    assert (job.result["fetched_bytes"], job.result["reused_bytes"]) == (BLOB.size, MODEL.size - BLOB.size)
    assert bench.registry.served == {BLOB.digest: BLOB.size}
    assert snapshot(bench.scene.folder / "models") == before


def test_a_damaged_blob_that_the_registry_forgot_is_told(bench: Bench) -> None:
    """What cannot be mended is corrupt, and the story says how to get the newest; nothing here was removed."""
    bench.do("pull")
    flipped(bench.blob(BLOB.digest))
    bench.registry.faults.add(RegistryFault("blob", "status", 404, times=None))

    job = bench.do("verify")

    assert [each.failure_class for each in job.attempts] == ["corrupt", "corrupt"]
    assert "the registry no longer has it" in told(job)
    assert f"ollama-modal pull {MODEL.name}" in told(job)
    assert bench.blob(BLOB.digest).exists()


def test_a_warm_up_tells_how_long_it_took(bench: Bench) -> None:
    """Load time, tokens per second and where it runs are the job's result."""
    bench.do("pull")
    with warmed_by(bench, A10G, load_bytes_per_second=MODEL.size * 2, tokens_per_second=40.0) as context:
        job = bench.do("warm", context)
    assert job.state is JobState.SUCCEEDED, told(job)
    assert job.result
    assert job.result["load_seconds"] > 0.4
    assert job.result["tokens_per_second"] > 0
    assert (job.result["tier"], job.result["on_gpu"]) == ("a10g", True)
    assert "is loaded on tier a10g, on the GPU, after" in told(job)


@pytest.mark.parametrize(
    ("declared", "minutes"),
    [(None, 30), (timedelta(minutes=5), 30), (timedelta(hours=2), 120), (timedelta(seconds=-1), None)],
)
def test_a_warm_up_stays_as_long_as_its_tier_keeps_models(
    bench: Bench, declared: timedelta | None, minutes: int | None
) -> None:
    """A warmed model stays half an hour, or for as long as its tier keeps idle ones where that is longer."""
    bench.do("pull")
    with warmed_by(bench, replace(ROOMY, keep_alive=declared)) as context:
        bench.do("warm", context)
        [running] = context.servers[ROOMY.name].ps()
    left = running.expires_at - SystemClock().now()
    wanted = timedelta(days=36_500) if minutes is None else timedelta(minutes=minutes)
    assert left > wanted - timedelta(minutes=2)
    assert minutes is None or left < wanted + timedelta(minutes=2)


def test_a_warm_up_that_lands_on_the_cpu_is_refused(bench: Bench) -> None:
    """Where a GPU was promised, running on the CPU is a failure that trying again would not change."""
    bench.do("pull")
    with warmed_by(bench, A10G, vram=0) as context:
        job = bench.do("warm", context)
    assert [each.failure_class for each in job.attempts] == ["refused"]
    assert f"tier 'a10g' promises a GPU, but 0 B of {'600 kB'}" in told(job)
    with warmed_by(bench, ROOMY, vram=0) as context:
        fine = bench.do("warm", context)
    assert fine.result
    assert fine.result["on_gpu"] is False


def test_a_delete_leaves_what_others_share(bench: Bench) -> None:
    """The model and its own blobs go; a blob that another model lists stays, and that one is whole."""
    bench.do("pull", model="one")
    bench.do("pull", model="two")

    job = bench.do("delete", model="one")

    assert job.result
    assert job.result["freed_bytes"] == ONE.size - LICENSE.size
    models = bench.scene.weights()
    assert [str(model.name) for model in models.models()] == ["two:latest"]
    assert models.verify(models.models()[0].manifest.blobs) == []
    assert not bench.blob(ONE.layers[0].digest).exists()


def test_a_delete_that_was_killed_counts_as_done(bench: Bench) -> None:
    """The next attempt finds nothing, which is what was asked for; a first attempt that finds nothing is not_found."""
    bench.do("pull", model="one")
    id = post(bench.store, "delete", model="one")
    assert bench.store.ledger().claim(id, worker="killed", lease=timedelta(seconds=PATIENCE))
    remove(bench.scene.weights(), ONE.name, still_ours=nothing)
    assert bench.store.ledger().sweep(no_worker_lives=True).lost == (id,)

    job = worked(bench.store, bench.context(), id)
    assert [each.outcome for each in job.attempts] == ["lost", "succeeded"]
    assert "an earlier attempt had removed it" in told(job)

    again = bench.do("delete", model="one")
    assert [each.failure_class for each in again.attempts] == ["not_found"]


def test_a_delete_that_could_not_be_told_is_told_by_the_next_attempt(bench: Bench) -> None:
    """A commit that fails after the manifest went is made up for before the job counts as done."""
    bench.do("pull", model="one")
    context, told_of = bench.context(), list[str]()
    troubles = [ServerTrouble("the volume cannot be committed for now")]

    def persist() -> None:
        if troubles:
            raise troubles.pop()
        told_of.append("what is there now")

    assert context.weights
    context.weights.persist = persist
    job = bench.do("delete", context, model="one")
    assert [each.outcome for each in job.attempts] == ["retry", "succeeded"]
    assert told_of


def test_a_cancelled_pull_leaves_nothing(bench: Bench) -> None:
    """A running pull that is cancelled stops within beats and discards what it staged."""
    bench.registry.throttle.bytes_per_second = MODEL.size // 4
    id = post(bench.store)
    ledger = bench.store.ledger()
    with working(bench.store, bench.context()):
        until(lambda: ledger.reader.get(id).progress.completed > RANGE_BYTES)
        assert bench.staging
        ledger.cancel(id, by="test")
        until(lambda: ledger.reader.get(id).has_ended)
    assert ledger.reader.get(id).state is JobState.CANCELLED
    assert bench.staging == []
    assert bench.scene.weights().models() == []


def test_a_retry_goes_on_from_what_a_failed_job_staged(bench: Bench) -> None:
    """A job that failed for good leaves its bytes; the same job posted again fetches the rest."""
    bench.registry.faults.add(RegistryFault("cdn", "status", 500, times=None, after=2 * CONNECTIONS))
    failed = worked(bench.store, bench.context(), post(bench.store, attempts=1))
    assert failed.state is JobState.FAILED
    held = sum(bench.registry.served.values())
    assert held >= CONNECTIONS * RANGE_BYTES
    bench.registry.faults.clear()

    again = bench.store.ledger().retry(failed.id, by="test").job
    assert staging_subject(replace(again, id="x")) == staging_subject(failed)
    job = worked(bench.store, bench.context(), again.id)

    assert job.state is JobState.SUCCEEDED
    assert sum(bench.registry.served.values()) <= MODEL.size + CONNECTIONS * RANGE_BYTES
    assert bench.staging == []


def test_a_resumed_pull_tells_of_what_it_fetched(bench: Bench) -> None:
    """Its bytes and its speed are those of this attempt; what an attempt before had fetched is told apart."""
    bench.registry.faults.add(RegistryFault("cdn", "status", 500, times=None, after=2 * CONNECTIONS))
    failed = worked(bench.store, bench.context(), post(bench.store, attempts=1))
    bench.registry.faults.clear()
    bench.registry.reset()

    job = worked(bench.store, bench.context(), bench.store.ledger().retry(failed.id, by="test").job.id)

    assert job.result
    fetched, resumed, seconds = (job.result[key] for key in ("fetched_bytes", "resumed_bytes", "fetch_seconds"))
    assert fetched == sum(bench.registry.served.values())
    assert fetched + resumed == MODEL.size
    assert resumed >= CONNECTIONS * RANGE_BYTES
    at = f"{human_bytes(fetched)} straight from the registry at {human_bytes(fetched / seconds)}/s"
    assert result_text(job).endswith(f"{at}, {human_bytes(resumed)} had come in an attempt before")


def test_a_pull_takes_back_what_lies_in_the_trash(bench: Bench) -> None:
    """A model that was thrown away comes back without a byte from the registry, hashed before it is trusted."""
    bench.do("pull")
    throw_models(bench.scene.weights(), [MODEL.name], still_ours=nothing)
    bench.registry.reset()

    job = bench.do("pull")

    assert job.state is JobState.SUCCEEDED, told(job)
    assert job.result
    assert (job.result["fetched_bytes"], job.result["reused_bytes"]) == (0, MODEL.size)
    assert bench.registry.served == {}


def test_a_prune_follows_its_plan_and_has_nothing_left_to_do(bench: Bench) -> None:
    """The job carries out what `plan_request` says, tells it as its result, and a second one does nothing."""
    bench.do("pull", model="one")
    bench.do("pull", model="two")
    day = datetime(2026, 1, 1, tzinfo=UTC)
    for file in bench.scene.weights().layout.manifest_files():
        os.utime(file.path, (day.timestamp(), day.timestamp()))  # a model counts from when it came
    use = WeightsUse(used={TWO.name: day}, used_since=day)
    context = bench.context(retention=RetentionRules(kept={ONE.name: "the fleet pins it"}), weights_use=lambda: use)
    request = {"unused_days": 30, "empty_trash": None}
    plan = plan_request(bench.scene.weights().survey(), use, context.retention, datetime.now(UTC), request)
    assert [each.name for each in plan.throw] == ["two:latest"]

    job = bench.do("prune", context, **request)

    assert job.state is JobState.SUCCEEDED, told(job)
    assert job.result == plan.as_json()
    assert "moved to the trash, with two:latest" in told(job)
    assert [str(model.name) for model in bench.scene.weights().models()] == ["one:latest"]
    before = snapshot(bench.scene.folder / "models")
    again = bench.do("prune", context, **request)
    assert again.result
    assert (again.result["throw"], again.result["delete"]) == ([], [])
    assert snapshot(bench.scene.folder / "models") == before
    emptied = bench.do("prune", context, unused_days=None, empty_trash=True)
    assert emptied.result
    assert emptied.result["freed_bytes"] > 0
    assert not bench.scene.weights().survey().trash


def test_a_prune_of_something_else_is_refused(bench: Bench) -> None:
    """Where the models directory has lost its manifests, every blob would look like an orphan: nothing is touched."""
    bench.do("pull")
    (bench.scene.folder / "models" / "manifests").rename(bench.scene.folder / "models" / "manifests.bak")
    before = snapshot(bench.scene.folder / "models")
    job = bench.do("prune", unused_days=None, empty_trash=None)
    assert [each.failure_class for each in job.attempts] == ["refused"]
    assert "does not look like a models directory: it has no folder manifests" in told(job)
    assert snapshot(bench.scene.folder / "models") == before


def test_a_rollback_hashes_before_it_publishes(bench: Bench) -> None:
    """An earlier version whose bytes were damaged in the trash is refused, and the newer one stays."""
    bench.do("pull", model="one")
    older = bench.scene.weights().models()[0].digest
    newer = SimModel(ONE.name, "llama", "1B", "F16", (weights("one again", 20_000), LICENSE))
    with RegistryDouble([newer]) as registry:
        scene = replace(bench.scene, registry=registry.url)
        assert (
            worked(bench.store, scene.context(bench.client), post(bench.store, model="one")).state is JobState.SUCCEEDED
        )
    here = bench.scene.weights()
    [folder] = here.survey().trash
    path = folder.layout.blob(ONE.layers[0].digest)
    flipped(path)

    damaged = bench.do("rollback", model="one")
    assert {each.failure_class for each in damaged.attempts} == {"corrupt"}
    assert "the earlier 'one:latest' cannot come back: " in told(damaged)
    assert "is flipped" in told(damaged)
    assert here.models()[0].digest == newer.digest
    flipped(path)
    job = bench.do("rollback", model="one")
    assert job.result
    assert (job.result["digest"], job.result["left"]) == (older, newer.digest)
    assert f"one:latest is digest {older[:12]} again in place of {newer.digest[:12]}" in told(job)
    assert here.models()[0].digest == older


def test_a_pull_beside_a_prune_waits_for_the_room_that_it_makes(bench: Bench) -> None:
    """What finds no room while a prune is to be done is tried again a minute later; after it, too large is refused."""
    clock, ledger = HandClock(), Ledger(bench.store.queue, bench.store.facts, HandClock())
    prune = ledger.post("prune", "*", {}, by="nightly").job
    pull = ledger.post("pull", str(MODEL.name), {"model": str(MODEL.name)}, by="nightly").job

    def weights_use() -> WeightsUse:
        return recall(bench.store.facts, ledger.reader.jobs()).weights_use(ledger.reader.jobs())

    def met() -> Ending:
        claim = ledger.claim(pull.id, worker="w", lease=timedelta(minutes=1))
        assert claim is not None
        context = bench.context(retention=RetentionRules(quota_bytes=10), weights_use=weights_use)
        with pytest.raises(NoRoom) as trouble:
            perform(RunningAttempt(claim, ledger, clock), context)
        ending = after_trouble(claim.job, trouble.value, now=clock.now(), backoff=Backoff(), spread=0)
        ledger.end(claim, replace(ending, not_before=None), Reading())
        return ending

    first = met()
    assert (first.outcome, first.not_before) == ("retry", clock.now() + timedelta(minutes=1))
    assert "a prune is at work, which may make some" in str(first.message)
    ledger.cancel(prune.id, by="test")
    assert (met().outcome, ledger.reader.get(pull.id).state) == ("failed", JobState.FAILED)
