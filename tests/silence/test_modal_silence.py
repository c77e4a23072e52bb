"""A deployment whose platform fails at each call once, or falls silent: pulls end once, and commands say it."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import modal
import pytest
from grpclib import GRPCError, Status
from modal.client import Client

from app.platform.limits import VARIABLE, limits_of
from app.platform.store import LimitedDict, LimitedQueue
from jobs.core.clock import SystemClock, isoformat
from jobs.ledger.job import Job, JobState
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.testing.models import arbitrary
from jobs.testing.registry.server import RegistryDouble
from jobs.worker.presence import is_at_work
from tests.modal.platform.isolation import unshare
from tests.modal.platform.plane import Platform
from tests.support.deployments import APP, control_plane, deploy, deployed_facts, has_whole, modal_command, with_secrets
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.skipif(not unshare(), reason="this kernel lets nobody mount, so no volume can be at /models")

FAILURES: dict[str, Callable[[], Any]] = {
    "unavailable": lambda: GRPCError(Status.UNAVAILABLE, "away"),
    "failed-precondition": lambda: GRPCError(Status.FAILED_PRECONDITION, "not now"),
    "never": lambda: "never",
}
MODELS = {name: arbitrary(name, 2_000_000, layers=3) for name in FAILURES}
SHORT = {VARIABLE: "3"}

RUNTIMES_OWN = {
    "ContainerHello": "the container's entrypoint begins with it, before there is any code of ours",
    "ContainerHeartbeat": "the entrypoint's own, in a loop of its own",
    "FunctionGetInputs": "the entrypoint asks for work with it",
    "FunctionPutOutputs": "the entrypoint answers with it",
    "AppGetLogs": "a stream that is open for as long as the client listens",
}
"""What Modal's own part of a container calls, and why it is left alone here: what becomes of it is not ours to say."""


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryDouble]:
    with RegistryDouble(tuple(MODELS.values())) as registry:
        yield registry


@pytest.fixture(scope="module")
def deployed(registry: RegistryDouble) -> Iterator[Platform]:
    with control_plane(registry) as platform:
        with_secrets(platform)
        platform.settings.environ |= SHORT
        deploy(platform)
        yield platform


@pytest.fixture(scope="module")
def client(deployed: Platform) -> Iterator[Client]:
    with deployed.client() as client:
        yield client


@pytest.fixture(autouse=True)
def undisturbed(deployed: Platform) -> Iterator[None]:
    yield
    deployed.wire.meddler = lambda *_: None


class OnceEach:
    """In each container the first call of each name goes wrong."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer
        self.seen: Counter[str] = Counter()
        self.met: set[tuple[str, str]] = set()

    def __call__(self, name: str, container: str) -> Any:
        if not container or name in RUNTIMES_OWN:
            return None
        self.seen[name] += 1
        if (name, container) in self.met:
            return None
        self.met.add((name, container))
        return self.answer()


def ledger_of(client: Client) -> Ledger:
    limits = limits_of({VARIABLE: "20"})
    queue = modal.Queue.from_name("ollama-jobs", client=client, create_if_missing=True)
    facts = modal.Dict.from_name("ollama-ledger", client=client, create_if_missing=True)
    return Ledger(LimitedQueue(queue, limits), LimitedDict(facts, limits), SystemClock())


def ended(ledger: Ledger, id: str) -> Job:
    until(lambda: ledger.reader.get(id).has_ended, patience=PATIENCE)
    return ledger.reader.get(id)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_pull_outlives_the_failure_of_each_of_its_calls(deployed: Platform, client: Client, failure: str) -> None:
    """Whatever its container calls fails once, or is never answered: the job ends once, in its first attempt, and the
    model is on the volume in whole. Which calls there are is counted, so that a new one is among them."""
    for worker in deployed.containers("weights_worker"):
        deployed.kill(worker)
    deployed.wire.meddler = meddler = OnceEach(FAILURES[failure])
    id = ledger_of(client).post("pull", failure, {"model": failure}, by="test").job.id
    modal.Function.from_name(APP, "weights_worker", client=client).spawn()
    job = ended(ledger_of(client), id)

    assert job.state is JobState.SUCCEEDED
    assert [attempt.outcome for attempt in job.attempts] == ["succeeded"]
    assert has_whole(deployed, f"{failure}/latest")
    calls = {"DictGet", "DictUpdate", "DictContents", "QueueGet", "VolumeCommit", "VolumeReload"}
    assert calls <= set(meddler.seen) == {name for name, _ in meddler.met}


def test_a_job_is_posted_though_the_queue_is_away(deployed: Platform) -> None:
    """`pull --no-wait` prints the job's id and ends well, with the queue away and nobody to be sent."""
    away = {"QueuePut", "QueueGetOrCreate", "FunctionMap"}
    with deployed.client() as client, pytest.MonkeyPatch.context() as environment:
        environment.setenv(VARIABLE, "1.5")
        facts = deployed_facts(client)
        for number in range(5):  # nobody is sent for while a worker is at work, for the tests before or for a schedule
            deployed.wire.meddler = lambda *_: None
            until(lambda: not is_at_work(facts, "weights", SystemClock().now()), patience=PATIENCE)
            deployed.wire.meddler = lambda name, _: (
                GRPCError(Status.FAILED_PRECONDITION, "not now") if name in away else None
            )
            model = f"never-{number}"
            done = modal_command(deployed, "run", "-q", "-m", "app.jobs::pull", "--model", model, "--no-wait")
            if not is_at_work(facts, "weights", SystemClock().now()):
                break
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"[a-z0-9]{10}-\d+\n", done.stdout)
    assert "could not be put into the queue" in done.stderr
    assert "is posted, but no worker could be sent" in done.stderr
    assert "Traceback" not in done.stderr


def test_nobody_is_sent_for_while_a_worker_is_at_work(deployed: Platform) -> None:
    """Posts while the lane's worker is at work call no other one; the first after it has left does."""
    deployed.wire.meddler = lambda *_: None
    seen: list[str] = []
    with deployed.client() as client:
        facts = deployed_facts(client)
        until(lambda: not is_at_work(facts, "weights", SystemClock().now()), patience=PATIENCE)
        stays = isoformat(SystemClock().now() + timedelta(hours=1))
        facts.put(keys.worker("weights"), {"v": 1, "until": stays})
        deployed.wire.meddler = lambda name, _: seen.append(name)
        for model in ("at-work-1", "at-work-2"):
            assert modal_command(deployed, "run", "-q", "-m", "app.jobs::pull", "--model", model, "--no-wait").stdout
        assert seen.count("QueuePut") == 2
        assert "FunctionMap" not in seen
        facts.put(keys.worker("weights"), {"v": 1, "until": isoformat(SystemClock().now())})
        assert modal_command(deployed, "run", "-q", "-m", "app.jobs::pull", "--model", "left", "--no-wait").stdout
        assert "FunctionMap" in seen


def test_a_command_says_in_a_line_that_the_ledger_is_away(deployed: Platform) -> None:
    """One line, one hint and exit code 1, whether the platform refuses for now or does not answer."""
    deployed.wire.meddler = lambda name, _: "never" if name == "DictContents" else None
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(VARIABLE, "1")
        done = modal_command(deployed, "run", "-q", "-m", "app.jobs::jobs")
    assert done.returncode == 1
    assert done.stdout == ""
    told = [line for line in done.stderr.splitlines() if not line.startswith(("note:", "warning:"))]
    assert told[-2] == "error: reading all of the ledger: Modal did not answer within 1 s"
    assert told[-1].startswith("hint: try again in a moment")
    assert "Traceback" not in done.stderr
