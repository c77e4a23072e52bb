"""The log: each line whole, valid, with what it belongs to, and without anything that is nobody else's to read."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger

from app.logs import as_json, as_text
from jobs.access.keys.proofs import hash_of, new_key
from jobs.core.clock import SystemClock
from jobs.telemetry.webhook import Webhook
from jobs.testing.registry.faults import RegistryFault
from jobs.testing.registry.server import RegistryDouble
from tests.support.checkout import ROOT
from tests.support.dialects import ANTHROPIC, DIALECTS, OLLAMA, Dialect, whole_answer
from tests.support.gateways import gateway
from tests.support.pull_setup import MODEL, Scene, post, worked
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.stores import open_store
from tests.support.waiting import PATIENCE, until

CANARY = "canary-9f3b"
"""Stands in everything that must not be told."""


@contextmanager
def lines() -> Iterator[list[str]]:
    """What containers would write, line by line, down to the last detail."""
    written: list[str] = []
    handler = logger.add(
        lambda line: written.append(str(line)), level=0, format=as_json, diagnose=False, backtrace=False
    )
    try:
        yield written
    finally:
        logger.remove(handler)


def parsed(written: list[str]) -> list[dict[str, Any]]:
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in written)
    return [json.loads(line) for line in written]


def test_a_librarys_line_that_cannot_be_put_together_is_told_as_it_is() -> None:
    """It raises nothing where it was logged."""
    call = "import logging, app.logs; app.logs.in_container(); logging.getLogger('lib').warning('%d of', 'x')"
    done = subprocess.run([sys.executable, "-c", call], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, [each["message"] for each in parsed(done.stderr.splitlines(keepends=True))]) == (
        0,
        ["lib: %d of % ('x',)"],
    )


NAMES = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1).filter(
    lambda name: name not in {"at", "level", "message", "where", "exception"}
)
VALUES = st.none() | st.booleans() | st.integers() | st.text()
ODD = st.floats() | st.dictionaries(st.tuples(st.integers()), st.text(), max_size=2) | st.binary()


@given(message=st.text(), about=st.dictionaries(NAMES, VALUES, max_size=4))
def test_every_line_is_one_object(message: str, about: dict[str, Any]) -> None:
    """Whatever is said about whatever, it is one line of valid JSON that gives it back."""
    with lines() as written:
        logger.bind(**about).info("{}", message)
    (told,) = parsed(written)
    assert {"message": message, "level": "INFO", **about}.items() <= told.items()
    assert told["where"].startswith("tests.app.test_logs:")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3,6}Z", told["at"])


@given(about=st.dictionaries(st.sampled_from(["at", "level", "message", "where", "tier"]), VALUES | ODD, max_size=4))
def test_odd_things_make_no_odd_line(about: dict[str, Any]) -> None:
    """What has no place in JSON is told as text, and nothing takes the place of what every line has."""
    with lines() as written:
        logger.bind(**about).info("plain")
    (told,) = parsed(written)
    assert (told["message"], told["level"]) == ("plain", "INFO")
    assert ("tier" in told) == ("tier" in about)


CONTAINER = f"""
from loguru import logger
from app.logs import in_container
in_container({{"MODAL_TASK_ID": "ta-1"}}, tier="a10g")
def fail(prompt):
    raise RuntimeError("it broke")
logger.debug("not worth a line")
with logger.contextualize(job="j-1", attempt=2):
    try:
        fail("{CANARY}"[::1])
    except RuntimeError:
        logger.exception("two\\nlines \\udcff")
"""


def test_a_container_tells_where_and_not_what_with() -> None:
    """In a container each line has its name and tier; an exception comes with its trace, without variables' values."""
    done = subprocess.run([sys.executable, "-c", CONTAINER], capture_output=True, text=True, cwd=ROOT, check=True)
    (told,) = parsed(done.stderr.splitlines(keepends=True))
    about = {"container": "ta-1", "tier": "a10g", "job": "j-1", "attempt": 2, "level": "ERROR"}
    assert about.items() <= told.items()
    assert told["message"] == "two\nlines \udcff"
    assert told["exception"].endswith("RuntimeError: it broke\n")
    assert "in fail" in told["exception"]
    assert CANARY not in done.stderr + done.stdout


def test_a_container_that_takes_itself_out_has_said_why() -> None:
    """All that was logged until then is written, though nothing else is done at the end of the process."""
    code = """
from loguru import logger
from app.deployment.server_container import end_container
from app.logs import in_container
in_container(tier="a10g")
for number in range(500):
    logger.info("line {}", number)
end_container()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 500


def test_a_terminal_gets_a_readable_line() -> None:
    """A person reads the time, the level, the message, and the job or request that it belongs to."""
    written: list[str] = []
    handler = logger.add(written.append, format=as_text, diagnose=False, backtrace=False)
    try:
        logger.info("plain {}", "words")
        with logger.contextualize(job="j-1", attempt=2, kind="pull", subject="tiny:latest"):
            logger.warning("slow")
        with logger.contextualize(request="r-1"):
            logger.error("cut")
    finally:
        logger.remove(handler)
    assert [str(line)[9:] for line in written] == [
        "INFO    plain words\n",
        "WARNING slow (pull tiny:latest, job j-1.2)\n",
        "ERROR   cut (request r-1)\n",
    ]
    assert all(re.match(r"\d\d:\d\d:\d\d ", str(line)) for line in written)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_request_is_followed_by_its_id(tmp_path: Path, dialect: Dialect) -> None:
    """What the caller is told, what the server is sent, and what the log says of a request have the same id."""
    with ScriptedServer(whole_answer) as server, gateway(tmp_path, {"a10g": server.url}) as running, lines() as written:
        response = httpx.post(running.url + dialect.path, json=dict(dialect.body), timeout=PATIENCE)
        until(lambda: [line for line in written if "success" in line], "the line of the request")
    id = response.headers["x-request-id"]
    assert server.asked[-1].header("x-request-id") == id
    ended = [told for told in parsed(written) if "success 200" in told["message"]]
    assert [(told["request"], told["tier"], told["model"]) for told in ended] == [(id, "a10g", "llama3.2:latest")]


def test_a_job_is_posted_in_a_requests_name(tmp_path: Path) -> None:
    """A job that a request posts is told of with the id that the caller gave his request."""
    with ScriptedServer(whole_answer) as server, gateway(tmp_path, {"a10g": server.url}) as running, lines() as written:
        asked = {"kind": "pull", "model": "tiny"}
        response = httpx.post(
            f"{running.url}/ops/v1/jobs", json=asked, headers={"x-request-id": "mine-1"}, timeout=PATIENCE
        )
    assert (response.status_code, response.headers["x-request-id"]) == (201, "mine-1")
    told = [each for each in parsed(written) if each["message"].startswith(f"job {response.json()['id']} posted")]
    assert [each.get("request") for each in told] == ["mine-1"]


def test_no_secret_and_no_prompt_is_told(tmp_path: Path) -> None:
    """Whatever happens to a request, neither the log nor the ledger has its prompt, its answer, or anybody's keys."""
    key, wrong = new_key(), f"om-{CANARY}"
    prompt = {"model": "llama3.2", "prompt": CANARY, "messages": [{"role": "user", "content": CANARY}], "max_tokens": 9}

    def opening(heard: HeardRequest, line: Connection) -> None:
        if heard.json.get("options") == {"seed": 1}:
            line.head(500, "application/json", "Content-Length: 2")
            line.send(b"{}")
        else:
            line.begin("application/x-ndjson")
            line.chunk(json.dumps({"response": CANARY, "done": False}).encode() + b"\n")
            line.close()

    with (
        ScriptedServer(opening) as server,
        gateway(
            tmp_path, {"a10g": server.url}, keys=f"alice {hash_of(key)}", headers={"Modal-Secret": f"ws-{CANARY}"}
        ) as running,
        lines() as written,
        httpx.Client(base_url=running.url, timeout=PATIENCE) as client,
    ):
        right = {"Authorization": f"Bearer {key}"}
        for path in (OLLAMA.path, ANTHROPIC.path):
            client.post(path, json=prompt, headers=right)
            client.post(path, json=prompt, headers={"x-api-key": wrong})
        client.post(OLLAMA.path, json={**prompt, "options": {"seed": 1}}, headers=right)
        client.post(OLLAMA.path, json={**prompt, "model": "nonesuch"}, headers=right)
        client.post(OLLAMA.path, content=b'{"model": "llama3.2", "prompt": "' + CANARY.encode(), headers=right)
        client.get(f"/nowhere/{CANARY}?key={key}", headers=right)
        client.post("/api/pull", json={"model": "x", "token": CANARY}, headers=right)
        until(lambda: len([line for line in written if "upstream_cut" in line]) >= 2, "the lines of the requests")
        running.rows(len(running_endings(written)))
        kept = json.dumps(dict(running.facts.items()))
    log = "".join(written)
    assert "for alice: upstream_cut" in log
    assert server.asked[0].header("modal-secret") == f"ws-{CANARY}"
    for secret in (CANARY, key, hash_of(key)):
        assert secret not in log
        assert secret not in kept


def running_endings(written: list[str]) -> list[str]:
    """The lines that end a request that was meant for a server."""
    return [told["message"] for told in parsed(written) if "key" in told]


def test_no_signed_address_is_told(tmp_path: Path) -> None:
    """A pull that fails on the store of blobs tells why, in the log and the ledger, without the address's signature."""
    with RegistryDouble([MODEL]) as registry, lines() as written, httpx.Client(timeout=PATIENCE) as client:
        registry.faults.add(RegistryFault("cdn", "status", 503, times=None))
        scene = Scene(tmp_path, registry.url)
        store = open_store(scene.ledger_path, SystemClock())
        job = worked(store, scene.context(client), post(store, attempts=2))
        kept = json.dumps(dict(store.facts.items()))
        store.close()
    assert [attempt.failure_class for attempt in job.attempts] == ["network", "network"]
    ours = [told for told in parsed(written) if told.get("job") == job.id]
    assert {told["attempt"] for told in ours} == {1, 2}
    assert any(told["message"].startswith("attempt met trouble") for told in ours)
    for text in ("".join(written), kept):
        assert "signature" not in text
        assert "expires=" not in text


def test_no_webhook_is_told() -> None:
    """A webhook that cannot be reached is told of without its address, which is all that one needs to write there."""
    with pytest.raises(Exception, match="webhook") as caught:
        Webhook(f"http://127.0.0.1:9/{CANARY}", clock=Impatient()).send("something")
    assert CANARY not in str(caught.value)


class Impatient(SystemClock):
    """Waits for nothing."""

    def wait(self, seconds: float, wake: Any = None) -> bool:
        return False
