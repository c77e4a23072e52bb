"""The command line with a URL: the same words, JSON and exit codes as on the ledger itself, over a real gateway."""

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.cli.remote_status import route_lines, status_lines
from jobs.core.clock import SystemClock
from jobs.core.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    Refused,
    ServerTrouble,
    TooManyRequests,
    Trouble,
    Unauthorized,
    Unreachable,
)
from jobs.core.progress import Reading
from jobs.core.retry import AT_ONCE, NEVER
from jobs.home.gateway_client import GatewayClient
from jobs.ledger.job import Ending, Job
from jobs.ledger.job_text import story
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.telemetry.nightly_report import NightJob, Ran
from jobs.testing.clock import HandClock
from jobs.testing.registry.server import RegistryDouble
from tests.support.local_stack import Shell, both
from tests.support.ops_api import ADMIN_KEY, CHAT_KEY, OpsApi, ops_api, served
from tests.support.processes import free_port
from tests.support.pull_setup import MODEL, Scene, working
from tests.support.stores import LEASE, claimed
from tests.support.waiting import PATIENCE, until

NAME = str(MODEL.name)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def api(home: Path) -> Iterator[OpsApi]:
    """A gateway's ledger, which a command without a URL reads as that of its own home."""
    with ops_api(home / "om") as opened:
        yield opened


@pytest.fixture(scope="module")
def url(api: OpsApi) -> Iterator[str]:
    with served(api.app()) as address:
        yield address


@pytest.fixture(scope="module")
def local(home: Path) -> Shell:
    """A person on the gateway's machine."""
    return Shell(home)


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory, url: str) -> Shell:
    """A person elsewhere, with a key."""
    return Shell(tmp_path_factory.mktemp("elsewhere"), {"OLLAMA_MODAL_URL": url, "OLLAMA_MODAL_KEY": ADMIN_KEY})


@pytest.fixture(scope="module")
def ledger(api: OpsApi) -> Ledger:
    return api.ledger()


def test_a_pull_from_elsewhere_is_followed_to_its_end(api: OpsApi, home: Path, remote: Shell) -> None:
    """Posted, followed and concluded in the words of the local command, with its JSON and exit code."""
    with RegistryDouble([MODEL]) as registry, httpx.Client(timeout=PATIENCE) as client:
        scene = Scene(home / "scene", registry.url)
        scene.weights().prepare()
        with working(api.store(), scene.context(client)):
            done = remote.run("pull", NAME)
            again = remote.ask("pull", NAME)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"pull done: {MODEL.name}, ")
    assert re.search(r"^posted job \w+-1: pull walnut:latest$", done.stderr, re.MULTILINE)
    assert "pull walnut:latest  succeeded" in done.stderr
    assert (again["state"], again["posted_by"], again["result"]["fetched_bytes"]) == ("succeeded", "root", 0)


def test_whatever_is_read_reads_the_same_on_both_sides(
    api: OpsApi, ledger: Ledger, local: Shell, remote: Shell
) -> None:
    """Lists, stories, beginnings of ids, filters and what is not there: stdout, stderr and code are equal."""
    failed = ledger.post("delete", "gone:latest", {"model": "gone"}, by="somebody", attempts=2).job.id
    claim = claimed(ledger, failed)
    ledger.end(claim, Ending("retry", "network", "the cable", "plug it in", not_before=claim.held_until), Reading())
    ran = Ran(
        claim.held_until, claim.held_until, (NightJob(failed, "delete", "gone:latest", "for a test"),), ("a note",)
    )
    api.store().facts.put(keys.NIGHT_RAN, ran.as_json())
    for words in (
        ["jobs", "--since", "1h", "--json"], ["jobs", "--state", "waiting", "--limit", "1"],
        ["jobs", "--state", "lost"], ["job", failed[:6]], ["jobs", "--dead"],
        ["retry", failed, "--no-wait"], ["cancel", "no/pe"], ["night"], ["night", "--json"],
    ):  # fmt: skip
        near, there = both([local.start(*words), remote.start(*words)])
        assert [near[0], *map(timeless, near[1:])] == [there[0], *map(timeless, there[1:])], words


def timeless(text: str) -> str:
    """Without the ages, which differ by what a command takes."""
    return re.sub(r"\d+(\.\d+)? (s|min)( \d+ s)?( ago)?", "a while", text)


def test_whatever_is_changed_changes_there(ledger: Ledger, remote: Shell) -> None:
    """Post without waiting prints the id alone; cancel ends it; retry posts it again, exactly so."""
    done = remote.run("pull", "a-model", "--no-wait", "--way", "registry", "--rate-limit", "5MB", "--attempts", "3")
    id = done.stdout.strip()
    job = ledger.reader.get(id)
    assert (job.request, job.attempts_allowed, job.posted_by) == (
        {"model": "a-model", "way": "registry", "rate_limit": 5_000_000}, 3, "root",
    )  # fmt: skip
    joined = remote.run("pull", "a-model", "--no-wait", "--way", "server")
    assert joined.stdout.strip() == id
    assert "already under way" in joined.stderr
    assert "--way has no effect now" in joined.stderr
    assert remote.run("cancel", id[:8]).stderr == f"job {id} is cancelled\n"
    again = remote.run("retry", id, "--no-wait").stdout.strip()
    assert (ledger.reader.get(again).request, again) == (job.request, f"{id[:-1]}2")


def test_no_retry_deletes_what_was_pulled_since(ledger: Ledger, remote: Shell) -> None:
    """Through a gateway as here: bulk retries leave a delete out, and by its id it is posted only `--anyway`."""
    deleted = ledger.post("delete", "c-model:latest", {"model": "c-model"}, by="t").job.id
    ledger.end(claimed(ledger, deleted), Ending("failed", "network", "cut"), Reading())
    everything = remote.run("retry", "--all")
    assert f"delete c-model:latest; by itself: `ollama-modal retry {deleted}`" in everything.stderr
    pulled = ledger.post("pull", "c-model:latest", {"model": "c-model"}, by="t").job.id
    ledger.end(claimed(ledger, pulled), Ending("succeeded", result={}), Reading())
    refused = remote.run("retry", deleted, "--no-wait")
    assert (refused.returncode, "since then came pull c-model:latest" in refused.stderr) == (2, True)
    assert "c-model" not in remote.run("retry", "--all").stderr
    again = remote.run("retry", deleted, "--anyway", "--no-wait")
    assert ledger.reader.get(again.stdout.strip()).kind == "delete"
    ledger.cancel(again.stdout.strip(), by="t")


def test_every_kind_is_posted_as_on_this_machine(url: str, ledger: Ledger) -> None:
    """The request that reaches the ledger is the one that the command line words here."""
    requests: dict[tuple[str, str], dict[str, Any]] = {
        ("pull", "b-model:latest"): {"model": "b-model", "way": "auto", "rate_limit": None},
        ("verify", "*"): {"model": None},
        ("warm", "b-model:latest"): {"model": "b-model", "tier": "a10g"},
        ("delete", "b-model:latest"): {"model": "b-model"},
    }
    with GatewayClient(url, ADMIN_KEY, clock=SystemClock()) as there:
        for (kind, subject), request in requests.items():
            posted = there.post(kind, subject, request, by="nobody")
            job = ledger.reader.get(posted.job.id)
            assert (posted.attached, job.kind, job.subject, job.request) == (False, kind, subject, request)
            assert there.post(kind, subject, request, by="nobody").attached
            assert there.ids(job.id[:5]) == [job.id]
        assert there.ids("../") == []


def test_ctrl_c_leaves_the_job_and_says_how_to_come_back(ledger: Ledger, remote: Shell, url: str) -> None:
    """130, and the commands that are shown reach the same gateway, though no variable names it."""
    bare = Shell(remote.home)
    process = bare.start("pull", "slow-one", "--url", url, "--key", ADMIN_KEY)
    until(lambda: [job for job in ledger.reader.jobs() if job.subject == "slow-one:latest"])
    (job,) = (job for job in ledger.reader.jobs() if job.subject == "slow-one:latest")
    assert process.stderr is not None
    for _ in ("posted", "queued"):
        process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert f"job {job.id} goes on without you" in said
    assert f"`ollama-modal job --url {url} {job.id} --follow`" in said
    assert not ledger.reader.get(job.id).has_ended


def test_models_route_and_status_are_told_from_there(remote: Shell, url: str) -> None:
    """As tables and lines for people, as JSON for programs."""
    assert remote.run("models").stdout.splitlines()[1].startswith("llama3.2:latest  2.0 GB  a80c4f17acd5")
    assert remote.ask("route", "llama3.2", "--context", "4096")["facts"] == ["asked for a context of 4096"]
    route = remote.run("route", "llama3.2").stdout
    assert route == "llama3.2:latest is answered on tier a10g\n  asked for a context of None\n"
    missing = remote.run("route", "nope")
    assert missing.returncode == 2
    assert missing.stderr == "error: model 'nope' not found\nhint: pull it: `ollama-modal pull nope:latest`\n"
    status = remote.run("status").stdout
    assert f"gateway  {url} answers, ollama-modal " in status
    assert "  a10g  asleep for " in status
    assert "models   1, 2.0 GB" in status


def test_a_wrong_key_or_address_is_told(remote: Shell, url: str, tmp_path: Path) -> None:
    """2 for a call that was wrong, 1 when nobody answers; the key is never repeated."""
    for extra, code, said in (
        ({"OLLAMA_MODAL_URL": url}, 2, "hint: give the key by --key, or better in OLLAMA_MODAL_KEY"),
        ({"OLLAMA_MODAL_URL": url, "OLLAMA_MODAL_KEY": CHAT_KEY}, 2, "has the scope chat; this needs admin"),
        ({"OLLAMA_MODAL_URL": f"http://127.0.0.1:{free_port()}"}, 1, "asking the gateway at http://127.0.0.1:"),
    ):
        done = Shell(tmp_path, extra).run("pull", "tiny", "--no-wait")
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
        assert "omk_" not in done.stderr


def test_a_key_that_was_made_opens_the_gateway(remote: Shell, tmp_path: Path) -> None:
    """`keys new --line` prints a key and its line; with the line in the gateway's keys, the key is let in."""
    made = remote.ask("keys", "new", "bob", "--line", "--scope", "admin", "--models", "llama*", "--expires", "90d")
    assert set(made) == {"name", "key", "line"}
    with ops_api(tmp_path) as other, served(other.app(other.ops_context(keys=made["line"]))) as address:
        shell = Shell(tmp_path, {"OLLAMA_MODAL_URL": address, "OLLAMA_MODAL_KEY": made["key"]})
        assert shell.run("pull", "llama3.2", "--no-wait").returncode == 0
        assert "may not use 'qwen3:latest'" in shell.run("pull", "qwen3", "--no-wait").stderr
    plain = remote.run("keys", "new", "carol", "--line")
    key, line = plain.stdout.splitlines()
    assert line.startswith("carol sha256:")
    assert key not in line + plain.stderr
    wrong = remote.run("keys", "new", "carol", "--line", "--expires", "2020-01-01")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "'2020-01-01' is over already" in wrong.stderr


# -- the client --------------------------------------------------------------------------------------------------------


def talking(
    answers: list[httpx.Response | Exception], *, policy: Any = NEVER
) -> tuple[GatewayClient, list[httpx.Request]]:
    """A client whose gateway gives these answers, one after the other; and what it is asked."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        found = answers[min(len(asked), len(answers)) - 1]
        if isinstance(found, Exception):
            raise found
        return httpx.Response(found.status_code, headers=found.headers, content=found.content)

    client = httpx.Client(transport=httpx.MockTransport(answer))
    return GatewayClient("http://gateway/base/", "omk_k", clock=HandClock(), client=client, policy=policy), asked


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (httpx.Response(400, json={"error": "no", "hint": "do"}), BadRequest, "no"),
        (httpx.Response(401, json={"error": "no"}), Unauthorized, "no"),
        (httpx.Response(403, json={"error": "no"}), Forbidden, "no"),
        (httpx.Response(404, json={"error": "no"}), NotFound, "no"),
        (httpx.Response(422, json={"error": "no"}), BadRequest, "no"),
        (httpx.Response(429, json={"error": "no"}, headers={"retry-after": "7"}), TooManyRequests, "no"),
        (httpx.Response(503, json={"error": "no"}), ServerTrouble, "no"),
        (httpx.Response(502, text="<html>bad"), ServerTrouble, "answers 502"),
        (httpx.Response(404, text="404 page not found"), Refused, "no gateway of ours: 404"),
        (httpx.Response(403, json=["no"]), Refused, "no gateway of ours: 403"),
        (httpx.Response(200, text="Ollama is running"), Refused, "no gateway of ours: 200"),
        (httpx.Response(307, headers={"location": "http://elsewhere/"}), Refused, "no gateway of ours: 307"),
        (httpx.ConnectError("refused"), Unreachable, "asking the gateway at http://gateway/base: refused"),
    ],
)
def test_each_answer_means_one_thing(answer: httpx.Response | Exception, kind: type[Trouble], said: str) -> None:
    """By status, in the gateway's own words; what is no gateway of ours is said to be none."""
    remote, _ = talking([answer])
    with remote, pytest.raises(Trouble, match=re.escape(said)) as raised:
        remote.get("k-1")
    assert type(raised.value) is kind
    if kind is TooManyRequests:
        assert raised.value.retry_after == timedelta(seconds=7)


def test_trouble_that_lasts_seconds_is_survived(ledger: Ledger) -> None:
    """A gateway that restarts meanwhile is asked again; a refusal is not."""
    job = ledger.post("pull", "some:latest", {"model": "some"}, by="t").job
    good = httpx.Response(200, json=job.as_json())
    remote, asked = talking([httpx.ConnectError("refused"), httpx.Response(503, text=""), good], policy=AT_ONCE)
    assert remote.get(job.id) == replace(job)
    assert len(asked) == 3
    assert {request.headers["authorization"] for request in asked} == {"Bearer omk_k"}
    assert str(asked[0].url) == f"http://gateway/base/ops/v1/jobs/{job.id}"
    refusing, asked = talking([httpx.Response(400, json={"error": "no"})], policy=AT_ONCE)
    with pytest.raises(BadRequest):
        refusing.get("k-1")
    assert len(asked) == 1


def test_a_long_list_is_read_page_by_page(ledger: Ledger) -> None:
    """As many as are wanted, or all; each page goes on where the one before says, which may have had no job."""
    jobs = [ledger.post("pull", f"m{n}:latest", {"model": f"m{n}"}, by="t").job.as_json() for n in range(5)]

    def page(*shown: dict[str, Any], next: str | None) -> httpx.Response:  # noqa: A002 - as it is called there
        return httpx.Response(200, json={"jobs": list(shown), "next": next})

    pages: list[httpx.Response | Exception] = [
        page(*jobs[:2], next="1.a"),
        page(next="2.b"),
        page(*jobs[2:4], next="3.c"),
        page(jobs[4], next=None),
    ]
    remote, asked = talking(pages)
    found, total = remote.select(kind="pull")
    assert ([job.id for job in found], total) == ([job["id"] for job in jobs], 5)
    assert [request.url.params.get("cursor") for request in asked] == [None, "1.a", "2.b", "3.c"]
    few, asked = talking([page(jobs[0], next="1.a"), page(jobs[1], next="2.b")])
    some, total = few.select(limit=2)
    assert ([job.id for job in some], total) == ([job["id"] for job in jobs[:2]], None)
    assert [request.url.params["limit"] for request in asked] == ["2", "1"]


WRONG = (
    "", "gateway", "ftp://gateway", "http://", "http://gateway?x=1", "http://gateway#x", "http://gateway:port",
    "http://[gateway", "me:omk_secret@gateway", "ftp://me:omk_secret@gateway", "http://me:omk_secret@",
)  # fmt: skip


@pytest.mark.parametrize("url", WRONG)
def test_what_is_no_address_is_refused(url: str) -> None:
    """Before anything is sent anywhere, and without the key that may be in it."""
    with pytest.raises(BadRequest, match="no gateway's address") as refused:
        GatewayClient(url, None, clock=HandClock())
    assert "omk_secret" not in f"{refused.value}{refused.value.hint}"


@pytest.mark.parametrize(
    ("url", "key", "opens"),
    [
        ("https://me:omk_in%2Fside@gateway:8443/base/", None, "omk_in/side"),
        ("https://omk_alone@gateway:8443/base", None, "omk_alone"),
        ("https://me:omk_inside@gateway:8443/base", "omk_given", "omk_given"),
        ("https://gateway:8443/base", None, None),
    ],
)
def test_an_address_may_hold_the_key(url: str, key: str | None, opens: str | None) -> None:
    """As the password, or alone; one that is given wins; no more of it is sent or shown than the header."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"status": "ok"})

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        gateway = GatewayClient(url, key, clock=HandClock(), client=client)
        gateway.health()
    assert gateway.url == "https://gateway:8443/base"
    assert str(asked[0].url) == "https://gateway:8443/base/ops/v1/health"
    assert asked[0].headers.get("authorization") == (f"Bearer {opens}" if opens else None)


def test_a_key_that_no_header_can_hold_is_refused_without_showing_it() -> None:
    """A line end or a letter beyond ASCII, however it came into the address."""
    for held in ("omk_secret%0a", "omk_secret%C3%A9"):
        with pytest.raises(BadRequest, match="the key for 'gateway' has characters that no key has") as refused:
            GatewayClient(f"https://me:{held}@gateway", None, clock=HandClock())
        assert "omk_secret" not in f"{refused.value}{refused.value.hint}"


def test_every_command_takes_an_address_with_its_key(api: OpsApi, ledger: Ledger, url: str, tmp_path: Path) -> None:
    """Posting, reading, following, completing: it opens the gateway, and no line that is said repeats it."""
    job = ledger.post("pull", "held-by-address", {"model": "held-by-address"}, by="t").job
    with_key = url.replace("http://", f"http://me:{ADMIN_KEY}@")
    person = Shell(tmp_path)
    for words in (
        ["jobs"],
        ["job", job.id],
        ["status"],
        ["models"],
        ["route", "llama3.2"],
        ["night"],
        ["cancel", job.id],
    ):
        done = person.run(*words, "--url", with_key)
        assert done.returncode == 0, done.stderr
        assert ADMIN_KEY not in done.stdout + done.stderr
    wrong = person.run("jobs", "--url", with_key.replace("omk_", "omk_x"))
    assert (wrong.returncode, "omk_" in wrong.stderr) == (2, False)
    won = person.run("jobs", "--url", with_key.replace("omk_", "omk_x"), "--key", ADMIN_KEY)
    assert won.returncode == 0
    nobody = person.run("jobs", "--url", f"http://me:{ADMIN_KEY}@127.0.0.1:{free_port()}")
    assert (nobody.returncode, ADMIN_KEY in nobody.stderr) == (1, False)
    post = person.run("pull", "tiny", "--no-wait", "--url", with_key)
    assert (post.returncode, ADMIN_KEY in post.stdout + post.stderr) == (0, False), post.stderr


def test_a_job_reads_back_from_its_json(ledger: Ledger) -> None:
    """What a gateway tells of a job that goes on makes the same words as the ledger's own."""
    id = ledger.post("pull", "x:latest", {"model": "x"}, by="t").job.id
    ledger.beat(claimed(ledger, id), Reading(5, 10, 1.0, "pulling"))
    job = ledger.reader.get(id)
    read = Job.from_json(json.loads(json.dumps(job.as_json())))
    assert replace(read, attempts=()) == replace(job, attempts=())
    assert [replace(each, lease=LEASE) for each in read.attempts] == list(job.attempts)
    later = job.attempts[0].last_sign + timedelta(seconds=3)
    assert story(read, later) == story(job, later)


def test_words_from_elsewhere_are_made_fit_to_be_shown() -> None:
    """A gateway cannot write to the reader's terminal what it likes."""
    health = {
        "version": "1\x1b[2J", "problems": ["a\nb"], "models": {"count": 0, "bytes": 0}, "jobs": {"queued": 0},
        "tiers": [{"tier": "t\x07", "state": "waking", "since": "2026-01-01T00:00:00Z", "why": "w\r", "held": 2}],
        "night": {"at": None, "summary": "n\x1b"},
    }  # fmt: skip
    lines = list(status_lines(health, "http://gateway", HandClock().now()))
    lines += route_lines({"model": "m\x1b", "tier": "t", "facts": ["f\x9b"], "warning": "tight"})
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", "".join(lines))
    assert "2 callers wait" in "".join(lines)
