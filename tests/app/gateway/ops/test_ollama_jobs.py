"""`/api/pull` and `/api/delete` as Ollama's own clients use them, over a real ledger, worker and registry."""

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from loguru import logger

from app.gateway.auth.keys import ANYONE
from app.gateway.ops.ledger_pool import LedgerPool
from app.gateway.ops.ollama_jobs import Frames, Pulls
from app.gateway.ops.post_jobs import Poster
from jobs.access.keys.proofs import hash_of
from jobs.core.clock import SystemClock
from jobs.core.errors import Stalled
from jobs.core.progress import Progress, Reading
from jobs.ledger.job import Attempt, Job, JobState
from jobs.ledger.ledger import Ledger
from jobs.ollama.client import OllamaClient
from jobs.registry.client import Registry
from jobs.tasks.context import TaskContext
from jobs.testing.registry.server import RegistryDouble
from tests.support.ops_api import ADMIN_KEY, CHAT_KEY, OpsApi, ops_api, served
from tests.support.pull_setup import MODEL, Scene, working
from tests.support.waiting import PATIENCE, until

LEASE = timedelta(seconds=60)
NAME = str(MODEL.name)
MANIFEST = {"status": "pulling manifest"}
VERIFYING = {"status": "verifying sha256 digest"}
WRITING = {"status": "writing manifest"}
SUCCESS = {"status": "success"}


@dataclass
class Commands:
    """A served gateway for jobs, and the ledger behind it."""

    url: str
    api: OpsApi
    ledger: Ledger
    clients: list[Any] = field(default_factory=list)

    def client(self, key: str = ADMIN_KEY) -> ollama.Client:
        client = ollama.Client(self.url, headers={"authorization": f"Bearer {key}"})
        self.clients.append(client)
        return client

    def ask(self, method: str, path: str, key: str = ADMIN_KEY, **how: Any) -> httpx.Response:
        return httpx.request(method, f"{self.url}{path}", headers={"x-api-key": key}, timeout=PATIENCE, **how)


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    with ops_api(tmp_path) as api, served(api.app()) as url:
        commands = Commands(url, api, api.ledger())
        yield commands
        for client in commands.clients:
            client.close()


@contextmanager
def worked(commands: Commands) -> Iterator[Scene]:
    """A registry with one model, a models directory, and workers that pull from the one to the other."""
    with RegistryDouble([MODEL]) as registry, httpx.Client(timeout=PATIENCE) as client:
        scene = Scene(commands.api.folder, registry.url)
        scene.weights().prepare()
        with working(commands.api.store(), scene.context(client)):
            yield scene


async def stays() -> bool:
    """That the caller has left is not so."""
    return False


# -- pull --------------------------------------------------------------------------------------------------------------


def test_ollamas_python_client_pulls_with_a_bar(commands: Commands) -> None:
    """Its stream begins with the manifest, ends with success, and its bytes add up; the model is there."""
    with worked(commands) as scene:
        frames = list(commands.client().pull(NAME, stream=True))
        assert [frame.status for frame in (frames[0], *frames[-3:])] == [
            "pulling manifest", "verifying sha256 digest", "writing manifest", "success",
        ]  # fmt: skip
        counted = [frame for frame in frames if frame.digest]
        assert counted
        assert counted[-1].completed == counted[-1].total
        assert {frame.digest for frame in counted} == {"sha256:model"}
        assert scene.weights().find(MODEL.name) is not None
    (job,) = commands.ledger.reader.jobs()
    assert (job.state, job.posted_by, job.result and job.result["way"]) == (JobState.SUCCEEDED, "root", "registry")
    assert commands.api.changes == ["changed"]
    assert "weights" in commands.api.sent_lanes


def test_a_pull_without_a_stream_is_one_answer(commands: Commands) -> None:
    """As Ollama's own: the last frame alone, when all is done; once more when the model is here already."""
    with worked(commands):
        assert commands.client().pull(NAME).status == "success"
        again = commands.ask("POST", "/api/pull", json={"name": NAME, "stream": False})
    assert (again.json(), again.headers["content-type"]) == (SUCCESS, "application/json")


def test_our_own_client_of_ollama_pulls_through_it(commands: Commands) -> None:
    """Whoever watches a pull as strictly as we do ourselves finds nothing to complain about."""
    with worked(commands), httpx.Client(headers={"x-api-key": ADMIN_KEY}, timeout=PATIENCE) as client:
        progress = Progress(SystemClock())
        OllamaClient(commands.url, client=client).pull(NAME, progress=progress)
        assert progress.read().completed == progress.read().total > 0


def test_an_unknown_model_fails_in_ollamas_words(commands: Commands) -> None:
    """In the stream as its last frame, without one as 500: what Ollama's clients turn into their own error."""
    with worked(commands):
        frames = [
            json.loads(line) for line in commands.ask("POST", "/api/pull", json={"model": "nope"}).text.splitlines()
        ]
        assert frames[-1] == {"error": "pull model manifest: file does not exist"}
        with pytest.raises(ollama.ResponseError) as refused:
            commands.client().pull("nope")
    assert (refused.value.status_code, refused.value.error) == (500, "pull model manifest: file does not exist")


def test_a_caller_that_leaves_ends_no_pull(commands: Commands) -> None:
    """The job stays; whoever asks again joins it and sees it end."""
    stream: Any = commands.client().pull(NAME, stream=True)
    assert next(stream).status == "pulling manifest"
    stream.close()
    (job,) = commands.ledger.reader.jobs()
    assert (job.state, job.cancel_asked) == (JobState.QUEUED, False)
    again = commands.client().pull(NAME, stream=True)
    next(again)
    with worked(commands):
        assert [frame.status for frame in again][-1] == "success"
    assert [each.id for each in commands.ledger.reader.jobs()] == [job.id]


def test_a_cancelled_pull_says_so(commands: Commands) -> None:
    """Whoever waits for it is told, and by which job."""
    stream = commands.client().pull(NAME, stream=True)
    next(stream)
    (job,) = commands.ledger.reader.jobs()
    commands.ledger.cancel(job.id, by="t")
    with pytest.raises(ollama.ResponseError, match=f"the pull was cancelled, job {job.id}"):
        list(stream)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "missing request body"),
        (b"  ", "missing request body"),
        (b"{", "the body is no JSON"),
        (b"[" * 10_000, "nested too deeply"),
        (b"\xff", "the body is no JSON"),
        (b'{"model": "tiny", "model": null, "name": "other"}', "more than once"),
        (b'"llama3.2"', "not an object"),
        (b"{}", "invalid model name"),
        (b'{"model": ""}', "invalid model name"),
        (b'{"model": 3}', "the model is no text"),
        (b'{"model": "../../../etc/passwd"}', "invalid model name"),
        (b'{"model": "a@sha256:00"}', "invalid model name"),
        (b'{"model": "-rf"}', "invalid model name"),
        (b'{"model": "a\\u0000b"}', "invalid model name"),
        (b'{"model": "\\ud800"}', "invalid model name"),
    ],
)
def test_a_wrong_pull_is_refused_before_it_is_a_job(commands: Commands, body: bytes, said: str) -> None:
    """400 in Ollama's shape, and nothing in the ledger."""
    answer = commands.ask("POST", "/api/pull", content=body)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]
    assert commands.ledger.reader.ids() == []


def test_insecure_only_permits(commands: Commands) -> None:
    """Open WebUI sends it with every pull: over https it changes nothing, and is no reason to refuse one."""
    body = {"model": "hf.co/x/y", "insecure": True, "stream": True}
    with httpx.stream(
        "POST", f"{commands.url}/api/pull", headers={"x-api-key": ADMIN_KEY}, json=body, timeout=PATIENCE
    ) as answer:
        assert json.loads(next(answer.iter_lines())) == MANIFEST
    (job_id,) = commands.ledger.reader.ids()
    assert "insecure" not in commands.ledger.reader.get(job_id).request


def test_a_password_never_reaches_the_ledger(commands: Commands) -> None:
    """Ollama ignores a user's name and password; they are not written down here either. Keys may be in any case."""
    stream = httpx.stream(
        "POST",
        f"{commands.url}/api/pull",
        headers={"x-api-key": ADMIN_KEY},
        json={"Model": NAME, "username": "me", "password": "hunter2"},
        timeout=PATIENCE,
    )
    with stream as answer:
        assert json.loads(next(answer.iter_lines())) == MANIFEST
    (job,) = commands.ledger.reader.jobs()
    assert job.request == {"model": NAME, "way": "auto", "rate_limit": None}


def test_chat_may_neither_pull_nor_delete(commands: Commands) -> None:
    """What Ollama's client raises says which key, and what it lacks."""
    alice = commands.client(CHAT_KEY)
    for work in (alice.pull, alice.delete):
        with pytest.raises(ollama.ResponseError, match="key 'alice' has the scope chat; this needs admin") as refused:
            work(NAME)
        assert refused.value.status_code == 403


# -- delete ------------------------------------------------------------------------------------------------------------


def test_a_delete_is_waited_for(commands: Commands) -> None:
    """200 and nothing else once the model is gone; the second time 404 in Ollama's words."""
    with worked(commands) as scene:
        commands.client().pull(NAME)
        answer = commands.ask("DELETE", "/api/delete", json={"model": NAME})
        assert (answer.status_code, answer.content) == (200, b"")
        assert scene.weights().find(MODEL.name) is None
        assert commands.api.changes == ["changed", "changed"]
        with pytest.raises(ollama.ResponseError) as refused:
            commands.client().delete(NAME)
    assert (refused.value.status_code, refused.value.error) == (404, f"model '{NAME}' not found")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "missing request body"),
        (b"{}", "model is required"),
        (b'{"name": "a/b/c/d/e"}', 'name "a/b/c/d/e" is invalid'),
    ],
)
def test_a_wrong_delete_is_refused(commands: Commands, body: bytes, said: str) -> None:
    """400 in Ollama's words."""
    answer = commands.ask("DELETE", "/api/delete", content=body)
    assert (answer.status_code, answer.json()["error"]) == (400, said)


def test_a_delete_is_not_waited_for_for_ever(commands: Commands) -> None:
    """Behind long pulls its caller is told, in time, that it goes on, and as which job; it does."""
    ops_context = commands.api.ops_context()
    ledger_pool = LedgerPool(ops_context.open_ledger)
    commands.api.ledger_pool.append(ledger_pool)
    work = Pulls(ops_context, ledger_pool, Poster(ops_context, ledger_pool), delete_waits=timedelta(seconds=0.01))
    with pytest.raises(Stalled, match="the delete has waited for") as stalled:
        asyncio.run(work.delete(ANYONE, {"model": NAME}, stays))
    (job,) = commands.ledger.reader.jobs()
    assert (job.kind, job.state) == ("delete", JobState.QUEUED)
    assert f"goes on as job {job.id}" in str(stalled.value)
    assert stalled.value.hint == f"`ollama-modal job {job.id} --follow`"


def test_a_delete_that_fails_says_why(commands: Commands) -> None:
    """500 with the reason of the job's last attempt."""
    with (
        httpx.Client(timeout=PATIENCE) as client,
        working(commands.api.store(), TaskContext(SystemClock(), Registry(client=client))),
    ):
        answer = commands.ask("DELETE", "/api/delete", json={"model": NAME})
    assert answer.status_code == 500
    assert "no Ollama server is part of this stack" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "/api/pull", {"model": NAME, "stream": False}), ("DELETE", "/api/delete", {"model": NAME})],
    ids=["pull", "delete"],
)
def test_whoever_leaves_gives_back_his_place(tmp_path: Path, method: str, path: str, body: dict[str, Any]) -> None:
    """Who gives up on one answer neither fills the followers' places nor his key's own; the job goes on."""
    keys = f"root {hash_of(ADMIN_KEY)} admin concurrent=1"
    with (
        ops_api(tmp_path) as api,
        served(api.app(api.ops_context(keys), followers=1)) as url,
        httpx.Client(timeout=PATIENCE) as client,
    ):
        moments = itertools.accumulate(itertools.repeat(0.5))  # until one is long enough for the machine as it is

        def leaves() -> bool:
            try:
                answer = client.request(
                    method, f"{url}{path}", headers={"x-api-key": ADMIN_KEY}, json=body,
                    timeout=httpx.Timeout(PATIENCE, read=next(moments)),
                )  # fmt: skip
            except httpx.ReadTimeout:  # he was let in, and waited
                return bool(api.ledger().reader.jobs())
            assert answer.status_code == 429
            return False

        until(leaves)
        until(leaves, "room for another")
        (job,) = api.ledger().reader.jobs()
        assert (job.state, job.cancel_asked) == (JobState.QUEUED, False)


def test_who_leaves_before_his_body_was_read_is_no_mistake_of_ours(tmp_path: Path) -> None:
    """Nothing is posted for him, and no error is logged."""
    errors: list[str] = []
    own = threading.get_ident()
    sink = logger.add(
        lambda message: errors.append(str(message)), level="WARNING", filter=lambda record: record["thread"].id == own
    )
    headers = [(b"host", b"127.0.0.1"), (b"x-api-key", ADMIN_KEY.encode()), (b"content-length", b"99")]
    scope = {
        "type": "http", "http_version": "1.1", "method": "DELETE", "path": "/api/delete", "raw_path": b"/api/delete",
        "query_string": b"", "headers": headers, "client": ("127.0.0.1", 9), "server": ("127.0.0.1", 80),
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        pass

    with ops_api(tmp_path) as api:
        asyncio.run(api.app()(scope, receive, send))
        assert not list(api.ledger().reader.jobs())
    logger.remove(sink)
    assert errors == []


# -- frames ------------------------------------------------------------------------------------------------------------

POSTED = datetime(2026, 9, 15, tzinfo=UTC)


def job(state: JobState, reading: Reading | None = None, *, attempts: int = 1, message: str | None = None) -> Job:
    tries = tuple(
        Attempt(n, POSTED, "w", LEASE, POSTED, message=message if n == attempts else "before", hint="mend it")
        for n in range(1, attempts + 1)
    )
    return Job("j-1", "pull", "m:latest", "weights", state, {"model": "m"}, 8, POSTED, "t", tries, reading or Reading())


def seen(*jobs: Job) -> list[Any]:
    frames = Frames()
    return [dict(frame) for each in jobs for frame in frames.see(each)]


def pulling(completed: int, status: str = "pulling") -> Job:
    return job(JobState.RUNNING, Reading(completed, 100, 1.0, status))


def counted(completed: int) -> dict[str, Any]:
    frame = {"status": "pulling model", "digest": "sha256:model", "total": 100}
    return frame | ({"completed": completed} if completed else {})


def test_frames_come_in_ollamas_order() -> None:
    """Manifest (which the stream says itself), bytes, verifying, writing, success; nothing twice in a row."""
    frames = seen(
        job(JobState.QUEUED, attempts=0),
        job(JobState.RUNNING, Reading(status="asking for the manifest")),
        pulling(0),
        pulling(40),
        pulling(40),
        pulling(100, "verifying sha256 digest"),
        pulling(100, "publishing"),
        replace(pulling(100, "publishing"), state=JobState.SUCCEEDED),
    )
    assert frames == [counted(0), counted(40), counted(100), VERIFYING, WRITING, SUCCESS]


def test_a_pull_too_fast_to_be_seen_still_tells_all() -> None:
    """From queued to done in one look: the whole row, with every byte counted."""
    done = replace(pulling(70, "publishing"), state=JobState.SUCCEEDED)
    assert seen(job(JobState.QUEUED, attempts=0), done) == [counted(100), VERIFYING, WRITING, SUCCESS]


def test_a_second_try_starts_the_row_again() -> None:
    """Why the first one failed is a status, so a person sees it; the job goes on."""
    waiting = job(JobState.WAITING, message="the cable")
    again = replace(job(JobState.RUNNING, Reading(90, 100, 1.0, "pulling"), attempts=2))
    done = replace(again, state=JobState.SUCCEEDED)
    assert seen(pulling(90, "publishing"), waiting, again, done) == [
        counted(90), VERIFYING, WRITING, {"status": "waiting to try again: the cable"}, counted(90), counted(100),
        VERIFYING, WRITING, SUCCESS,
    ]  # fmt: skip


def test_a_failure_is_the_last_frame() -> None:
    """With the message and what to do."""
    assert seen(job(JobState.FAILED, message="the disk is full")) == [{"error": "the disk is full (mend it)"}]


def test_other_work_of_a_pull_is_told_as_it_is() -> None:
    """Hashing what is here already, or waiting for another pull: a status without bytes."""
    assert seen(job(JobState.RUNNING, Reading(5, 10, 1.0, "verifying"))) == [{"status": "verifying"}]
