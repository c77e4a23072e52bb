"""Cold starts: who wakes, who waits, what they are told meanwhile, and that nobody's leaving ends a load."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest

from app.gateway.inference.detached import DetachedRequests
from app.gateway.upstream.upstream_client import UpstreamAnswer
from app.model_server.report import Loaded, Report
from jobs.models.placement import TierCapacity
from tests.support.dialects import DIALECTS, OLLAMA, OPENAI, Dialect, whole_answer
from tests.support.gateways import (
    CLOCK,
    QUICK,
    ModelList,
    RunningGateway,
    asked,
    caller_of,
    gateway,
    held_callers,
    model,
    tier_entry,
)
from tests.support.scripted_server import Connection, HeardRequest, HeldServer, Script, ScriptedServer
from tests.support.waiting import PATIENCE, until

GB = 1_000_000_000

TIERS = (TierCapacity("a10g", 24 * GB, gpu_promised=True), TierCapacity("h100", 80 * GB, gpu_promised=True))

NO_REAL_LOADS = replace(QUICK, real_load_seconds=PATIENCE)
"""For servers that load nothing: how busy the machine is makes no real load of theirs."""

SSE = [dialect for dialect in DIALECTS if dialect.name != "ollama"]


@pytest.fixture
def many() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(24) as pool:
        yield pool


# -- waiting together --------------------------------------------------------------------------------------------------


def test_one_wakes_and_the_others_wait(tmp_path: Path, many: ThreadPoolExecutor) -> None:
    """Twenty callers of a sleeping tier wake it once and load the model once; all are answered when it is there."""
    held_server = HeldServer(awake=False)
    with (
        ScriptedServer(whole_answer, opening=held_server) as server,
        gateway(tmp_path, {"a10g": server.url}) as running,
    ):
        answers = [many.submit(asked, running, OLLAMA) for _ in range(20)]
        until(lambda: (held_callers(running), running.composed.metrics.wakes()) == (20, 1))
        assert tier_entry(running)["state"] == "waking"
        assert tier_entry(running)["held"] == 20
        held_server.awake.set()
        assert {answer.result().content for answer in answers} == {b"".join(OLLAMA.pieces)}
        assert running.composed.metrics.wakes() == 1
        assert len(server.loads) == 1
        assert held_callers(running) == 0


def test_who_was_first_is_told_apart(tmp_path: Path) -> None:
    """A tier that answers is not woken, so nothing counts as a wake, whatever was known of it before."""
    with ScriptedServer(whole_answer) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        for _ in range(3):
            assert asked(running, OLLAMA).status_code == 200
        assert running.composed.metrics.wakes() == 0
        assert len(server.loads) == 1
        assert len([heard for heard in server.heard if heard.path == "/api/version"]) == 1


def test_two_models_of_one_tier(tmp_path: Path, many: ThreadPoolExecutor) -> None:
    """Callers of two models wake their tier once, and each model is loaded once."""
    held_server = HeldServer(awake=False)
    source = ModelList([model("llama3.2"), model("qwen3")])
    with (
        ScriptedServer(whole_answer, opening=held_server) as server,
        gateway(tmp_path, {"a10g": server.url}, source=source, pace=NO_REAL_LOADS) as running,
    ):
        answers = [many.submit(asked, running, OLLAMA, model=name) for name in ("llama3.2", "qwen3") * 3]
        until(lambda: (held_callers(running), running.composed.metrics.wakes()) == (6, 1))
        held_server.awake.set()
        assert {answer.result().status_code for answer in answers} == {200}
        assert running.composed.metrics.wakes() == 1
        assert sorted(load.json["model"] for load in server.loads) == ["llama3.2:latest", "qwen3:latest"]


def test_models_side_by_side(tmp_path: Path) -> None:
    """Two models that stay in memory are each asked for once, however often their callers take turns."""
    source = ModelList([model("llama3.2"), model("qwen3")])
    with (
        ScriptedServer(whole_answer) as server,
        gateway(tmp_path, {"a10g": server.url}, source=source, pace=NO_REAL_LOADS) as running,
    ):
        for name in ("llama3.2", "qwen3") * 4:
            assert asked(running, OLLAMA, model=name).status_code == 200
        assert len(server.loads) == 2


def test_a_real_load_may_have_cost_another(tmp_path: Path) -> None:
    """After a load that took its time, what else was in memory is asked for again before it is counted on."""

    def opening(heard: HeardRequest, line: Connection) -> None:
        if heard.path == "/api/version":
            line.document({"version": "1"})
        else:
            CLOCK.wait(0.1)
            line.document({"done": True})

    source, pace = ModelList([model("llama3.2"), model("qwen3")]), replace(QUICK, real_load_seconds=0.05)
    with (
        ScriptedServer(whole_answer, opening=opening) as server,
        gateway(tmp_path, {"a10g": server.url}, source=source, pace=pace) as running,
    ):
        for name in ("llama3.2", "qwen3", "qwen3", "llama3.2"):
            assert asked(running, OLLAMA, model=name).status_code == 200
        assert [load.json["model"].partition(":")[0] for load in server.loads] == ["llama3.2", "qwen3", "llama3.2"]


def test_tiers_wake_by_themselves(tmp_path: Path, many: ThreadPoolExecutor) -> None:
    """While one tier sleeps, the callers of another are answered."""
    asleep = HeldServer(awake=False)
    with ExitStack() as stack:
        slow = stack.enter_context(ScriptedServer(whole_answer, opening=asleep))
        quick = stack.enter_context(ScriptedServer(whole_answer))
        source = ModelList([replace(model("large"), size=50_000_000_000), model("small")])
        running = stack.enter_context(
            gateway(tmp_path, {"h100": slow.url, "a10g": quick.url}, source=source, tiers=TIERS)
        )
        waiting = many.submit(asked, running, OLLAMA, model="large")
        until(lambda: held_callers(running, "h100") == 1)
        answer = asked(running, OLLAMA, model="small")
        assert answer.headers["x-served-tier"] == "a10g"
        assert (tier_entry(running, "h100")["state"], tier_entry(running)["state"]) == ("waking", "ready")
        asleep.awake.set()
        assert waiting.result().headers["x-served-tier"] == "h100"


# -- limits of waiting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_too_many_wait(tmp_path: Path, many: ThreadPoolExecutor, dialect: Dialect) -> None:
    """Beyond the number that may wait, a caller is told at once what is happening and when to come again."""
    held_server = HeldServer(awake=False)
    pace = replace(QUICK, most_held=3)
    with (
        ScriptedServer(whole_answer, opening=held_server) as server,
        gateway(tmp_path, {"a10g": server.url}, pace=pace) as running,
    ):
        answers = [many.submit(asked, running, OLLAMA) for _ in range(3)]
        until(lambda: held_callers(running) == 3)
        until(lambda: running.composed.cold_starts["a10g"].state().state == "waking")
        refused = asked(running, dialect)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert "3 callers wait for tier 'a10g' already: waking a10g, " in refused.text
        held_server.awake.set()
        assert {answer.result().status_code for answer in answers} == {200}
        assert {(row.about.ending, row.sums.count) for row in running.rows(4)} == {("success", 3), ("refused", 1)}


def test_who_waits_too_long_ends_nothing(tmp_path: Path) -> None:
    """A caller whose time is over is told so; the load goes on, and the next caller finds it done."""
    held_server = HeldServer(loaded=False)
    with (
        ScriptedServer(whole_answer, opening=held_server) as server,
        gateway(tmp_path, {"a10g": server.url}, startup=3) as running,
    ):
        late = asked(running, OLLAMA)
        assert late.status_code == 503
        assert "a10g reads llama3.2" in late.json()["error"]
        assert int(late.headers["retry-after"]) > 0
        held_server.loaded.set()
        assert asked(running, OLLAMA).status_code == 200
        assert len(server.loads) == 1
        assert {row.about.ending for row in running.rows(2)} == {"timeout", "success"}


def test_a_load_is_nobodys(tmp_path: Path) -> None:
    """All who waited for a load leave, and it goes on; whoever comes then need not begin again."""
    held_server = HeldServer(loaded=False)
    with (
        ScriptedServer(whole_answer, opening=held_server) as server,
        gateway(tmp_path, {"a10g": server.url}) as running,
    ):
        for _ in range(5):
            with closing(caller_of(running, OPENAI)):
                until(lambda: held_callers(running) == 1 and server.loads, "a load that is waited for")
            until(lambda: held_callers(running) == 0)
        until(lambda: tier_entry(running)["why"] == "loading llama3.2:latest")
        held_server.loaded.set()
        assert asked(running, OPENAI).status_code == 200
        assert len(server.loads) == 1
        rows = {row.about.ending: row.sums.count for row in running.rows(6)}
        assert rows == {"client_gone": 5, "success": 1}


# -- several containers ------------------------------------------------------------------------------------------------


class Another:
    """A container that has the model to load when a caller's own request reaches it; the others have it already."""

    def __init__(self) -> None:
        self.loaded, self.loading, self.aborted = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, heard: HeardRequest, line: Connection) -> None:
        self.loading.set()
        while not self.loaded.wait(0.01):
            if line.is_left():
                self.aborted.set()
                return
        line.begin(OPENAI.kind)
        line.chunk(OPENAI.pieces[0])
        line.await_end()


def containers(running: RunningGateway, *loaded: bool) -> None:
    """Have so many containers report, each with the model in memory or without."""
    for index, is_loaded in enumerate(loaded):
        said = Report("a10g", f"ta-{index}", "serving", CLOCK.now(), loaded=(LOADED,) if is_loaded else ())
        running.facts.put(said.key, said.as_json())
    running.known_state.refresh()


def detached(running: RunningGateway) -> int:
    return len(running.composed.detached)


@pytest.mark.parametrize("reported", [(True, False), ()], ids=["one-has-it", "nothing-is-known"])
def test_a_load_in_another_container(tmp_path: Path, reported: tuple[bool, ...]) -> None:
    """A caller who leaves a request that may be what loads the model ends it at its first byte, and not before."""
    another = Another()
    with ScriptedServer(another) as server, gateway(tmp_path, {"a10g": server.url}, most_containers=2) as running:
        containers(running, *reported)
        with closing(caller_of(running, OPENAI)):
            assert another.loading.wait(PATIENCE)
        assert running.row().about.ending == "client_gone"
        assert detached(running) == 1
        assert "ollama_modal_lingering_requests 1.0" in httpx.get(f"{running.url}/metrics", timeout=PATIENCE).text
        assert not another.aborted.wait(0.05)
        another.loaded.set()
        until(lambda: not detached(running) and not running.open_exchanges())
        assert not another.aborted.is_set()


@pytest.mark.parametrize("reported", [(True, True), (True,)], ids=["all-have-it", "there-is-one"])
def test_where_the_model_is_nothing_goes_on(tmp_path: Path, reported: tuple[bool, ...]) -> None:
    """Where every container that is up has the model in memory, who leaves ends what is done for him at once."""
    another = Another()
    with ScriptedServer(another) as server, gateway(tmp_path, {"a10g": server.url}, most_containers=2) as running:
        containers(running, *reported)
        with closing(caller_of(running, OPENAI)):
            assert another.loading.wait(PATIENCE)
        assert another.aborted.wait(PATIENCE)
        assert detached(running) == 0


def test_nothing_goes_on_for_ever(tmp_path: Path) -> None:
    """What goes on without its caller ends when the tier's time to start is over."""
    another = Another()
    with (
        ScriptedServer(another) as server,
        gateway(tmp_path, {"a10g": server.url}, most_containers=2, startup=3) as running,
    ):
        with closing(caller_of(running, OPENAI)):
            assert another.loading.wait(PATIENCE)
        assert another.aborted.wait(PATIENCE)
        until(lambda: not detached(running))


def test_what_goes_on_ends_with_the_gateway(tmp_path: Path) -> None:
    """A gateway that is stopped leaves nothing behind that went on without its caller."""
    another = Another()
    with ScriptedServer(another) as server:
        with gateway(tmp_path, {"a10g": server.url}, most_containers=2, startup=60) as running:
            with closing(caller_of(running, OPENAI)):
                assert another.loading.wait(PATIENCE)
            until(lambda: detached(running) == 1)
        assert another.aborted.wait(PATIENCE)
        assert detached(running) == 0


def test_only_so_many_go_on() -> None:
    """Beyond the most that may go on without a caller, a request ends with him; each gives its body up as it ends."""

    async def trial() -> list[bool]:
        async def ask() -> UpstreamAnswer:
            await asyncio.Event().wait()
            raise AssertionError

        few = DetachedRequests(most=2)
        dropped: list[int] = []
        asking = [asyncio.create_task(ask()) for _ in range(3)]
        for number, each in enumerate(asking):
            few.keep(each, 60, "a", partial(dropped.append, number))
        await asyncio.wait([asking[2]])
        ended = [each.done() for each in asking]
        await asyncio.sleep(0)
        assert dropped == [2]
        await few.close()
        assert sorted(dropped) == [0, 1, 2]
        return ended

    assert asyncio.run(trial()) == [False, False, True]


# -- what is told meanwhile --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", SSE, ids=lambda dialect: dialect.name)
def test_comments_while_waiting(tmp_path: Path, dialect: Dialect) -> None:
    """Who asked for server-sent events reads comment lines while a tier wakes, then the very bytes of the server."""
    held_server = HeldServer(awake=False)
    with (
        ScriptedServer(whole_answer, opening=held_server) as server,
        gateway(tmp_path, {"a10g": server.url}, comment_seconds=0.05) as running,
        httpx.stream("POST", running.url + dialect.path, json=dialect.body, timeout=PATIENCE) as response,
    ):
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["x-served-tier"] == "a10g"
        pieces = response.iter_raw()
        comments = [next(pieces), next(pieces)]
        assert all(each.startswith(b": waking a10g, ") for each in comments)
        held_server.awake.set()
        rest = b"".join(pieces)
        said = rest[rest.index(dialect.pieces[0]) :]
        assert said == b"".join(dialect.pieces)
        assert set(rest.removesuffix(said).split(b"\n\n")) <= {
            b"", b": loading llama3.2:latest", b": waiting for a10g",
            *(b": waking a10g, %d s" % n for n in range(int(PATIENCE))),
        }  # fmt: skip
        assert running.row().about.ending == "success"


@pytest.mark.parametrize("dialect", SSE, ids=lambda dialect: dialect.name)
def test_a_failure_after_comments(tmp_path: Path, dialect: Dialect) -> None:
    """When comments were sent, a failure comes as the dialect's own event: the status was said long ago."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.document({"error": "the model is too tired"}, 400)

    held_server = HeldServer(awake=False)
    with (
        ScriptedServer(script, opening=held_server) as server,
        gateway(tmp_path, {"a10g": server.url}, comment_seconds=0.05) as running,
        httpx.stream("POST", running.url + dialect.path, json=dialect.body, timeout=PATIENCE) as response,
    ):
        pieces = response.iter_raw()
        first = next(pieces)
        held_server.awake.set()
        said = first + b"".join(pieces)
        assert dialect.error_in(said) == "the model is too tired"
        assert running.row().about.ending == "refused"


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_others_just_wait(tmp_path: Path, many: ThreadPoolExecutor, dialect: Dialect) -> None:
    """Who asked for no event stream gets no byte before the answer, and then only the answer."""
    held_server = HeldServer(awake=False)
    body = {"stream": False} if dialect.name != "ollama" else {}

    def script(_: HeardRequest, line: Connection) -> None:
        line.document({"done": True})

    with (
        ScriptedServer(script, opening=held_server) as server,
        gateway(tmp_path, {"a10g": server.url}, comment_seconds=0.05) as running,
    ):
        answer = many.submit(asked, running, dialect, **body)
        until(lambda: held_callers(running) == 1)
        CLOCK.wait(0.15)  # three comments' time
        held_server.awake.set()
        assert answer.result().json() == {"done": True}


# -- what is here and not there yet ------------------------------------------------------------------------------------


def unseen(times: int) -> Script:
    left = [times]

    def opening(heard: HeardRequest, line: Connection) -> None:
        if heard.path == "/api/version":
            line.document({"version": "1"})
        elif left[0]:
            left[0] -= 1
            line.document({"error": "model 'llama3.2:latest' not found"}, 404)
        else:
            line.document({"done": True, "done_reason": "load"})

    return opening


def test_a_model_that_just_came_is_waited_for(tmp_path: Path) -> None:
    """A server that has not taken in yet what is here is waited for, and nobody is told that it is missing."""
    with ScriptedServer(whole_answer, opening=unseen(5)) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        assert asked(running, OLLAMA).content == b"".join(OLLAMA.pieces)
        assert len(server.loads) == 6


def test_a_model_that_never_comes(tmp_path: Path) -> None:
    """It is waited for only so long; then the caller is told to come again, not that there is no such model."""
    pace = replace(QUICK, unseen_seconds=0.3)
    with (
        ScriptedServer(whole_answer, opening=unseen(10_000)) as server,
        gateway(tmp_path, {"a10g": server.url}, pace=pace) as running,
    ):
        answer = asked(running, OLLAMA)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "is here, but tier 'a10g' does not serve it yet" in answer.json()["error"]


def test_a_404_of_the_request_itself(tmp_path: Path) -> None:
    """A server that lost a model is asked again once it has been loaded; a 404 that stays is passed on."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.document({"error": "model 'llama3.2' not found"}, 404)

    with ScriptedServer(script) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        answer = asked(running, OLLAMA)
        assert (answer.status_code, answer.json()) == (404, {"error": "model 'llama3.2' not found"})
        assert len(server.asked) == 3


def test_a_model_pulled_a_moment_ago(tmp_path: Path) -> None:
    """A name that was not known is looked up once more before anybody is told that it is missing."""
    source = ModelList([])
    with ScriptedServer(whole_answer) as server, gateway(tmp_path, {"a10g": server.url}, source=source) as running:
        source.models = [model("llama3.2")]
        assert asked(running, OLLAMA).status_code == 200
        source.models = []
        assert asked(running, OLLAMA).status_code == 200  # what is known is not looked up at each request


def test_a_model_that_only_embeds(tmp_path: Path) -> None:
    """A model that does not generate is loaded by embedding nothing."""

    def opening(heard: HeardRequest, line: Connection) -> None:
        if heard.path == "/api/version":
            line.document({"version": "1"})
        else:
            line.document({"error": '"emb" does not support generate'}, 400)

    def script(heard: HeardRequest, line: Connection) -> None:
        line.document({"model": "emb", "embeddings": [[1.0]] if heard.json["input"] else [], "prompt_eval_count": 2})

    source = ModelList([model("emb")])
    with (
        ScriptedServer(script, opening=opening) as server,
        gateway(tmp_path, {"a10g": server.url}, source=source) as running,
    ):
        answer = httpx.post(f"{running.url}/api/embed", json={"model": "emb", "input": "hello"}, timeout=PATIENCE)
        assert answer.json()["embeddings"] == [[1.0]]
        assert [heard.json["input"] for heard in server.asked] == [[], "hello"]
        row = running.row()
        assert (row.about.ending, row.sums.prompt_tokens) == ("success", 2)


def test_another_context_is_another_load(tmp_path: Path) -> None:
    """Options that make Ollama load a model anew are part of the load, so that no caller's leaving can end it."""
    with ScriptedServer(whole_answer) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        for options in ({}, {"num_ctx": 2048}, {"num_ctx": 2048, "temperature": 0.5}, {}):
            assert asked(running, OLLAMA, options=options).status_code == 200
        assert [load.json.get("options") for load in server.loads] == [None, {"num_ctx": 2048}, None]


@pytest.mark.parametrize("keep_alive", [0, "0", 5, "30s", "500ms"])
def test_what_does_not_stay_is_not_counted_on(tmp_path: Path, keep_alive: object) -> None:
    """A model that its caller wants out of memory soon is loaded by the gateway again, not by whoever comes next."""
    with ScriptedServer(whole_answer) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        for keep in (keep_alive, "10m", -1, "1h30m"):
            assert asked(running, OLLAMA, keep_alive=keep).status_code == 200
        assert len(server.loads) == 2


def test_to_unload_is_not_to_load(tmp_path: Path) -> None:
    """`ollama stop` loads nothing, and its request passes."""
    body = {"model": "llama3.2", "keep_alive": 0}
    with (
        ScriptedServer(lambda _, line: line.document({"done": True})) as server,
        gateway(tmp_path, {"a10g": server.url}) as running,
    ):
        assert httpx.post(f"{running.url}/api/generate", json=body, timeout=PATIENCE).status_code == 200
        assert (server.loads, [heard.json for heard in server.asked]) == ([], [body])


def test_a_proxy_that_lets_nobody_in(tmp_path: Path) -> None:
    """Where the proxy before a tier refuses the gateway, nobody waits: callers are told at once, as of our trouble."""

    def opening(_: HeardRequest, line: Connection) -> None:
        line.document({"error": "modal-http: invalid proxy token"}, 401)

    with ScriptedServer(whole_answer, opening=opening) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        answer = asked(running, OLLAMA)
        assert answer.status_code == 502
        assert "closed to the gateway: it answers 401" in answer.json()["error"]
        assert "ollama-proxy-token" in answer.json()["error"]
        assert len(server.heard) == 1


def test_a_tier_that_fell_asleep(tmp_path: Path) -> None:
    """A tier that was there a moment ago and is gone is woken again within the same request."""
    with ScriptedServer(whole_answer) as first, gateway(tmp_path, {"a10g": first.url}) as running:
        assert asked(running, OLLAMA).status_code == 200
        first.close()
        with ScriptedServer(whole_answer, first.port, asleep=2) as second:
            assert asked(running, OLLAMA).content == b"".join(OLLAMA.pieces)
            assert running.composed.metrics.wakes() == 1
            assert len(second.loads) == 1


# -- who only looks ----------------------------------------------------------------------------------------------------

READ_PATHS = (
    "/",
    "/api/version",
    "/api/tags",
    "/api/ps",
    "/api/status",
    "/v1/models",
    "/v1/models/llama3.2",
    "/healthz",
    "/readyz",
    "/metrics",
    "/ops/v1/tiers",
    "/ops/v1/models",
    "/ops/v1/health",
    "/ops/v1/usage",
    "/ops/v1/limits",
    "/ops/v1/jobs",
    "/ops/v1/route?model=llama3.2",
)


def test_looking_wakes_nobody(tmp_path: Path) -> None:
    """Ten minutes of a monitoring tool, asking every list, health and metrics route each ten seconds, wake no tier."""
    with ScriptedServer(whole_answer, asleep=10_000) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        with httpx.Client(base_url=running.url, timeout=PATIENCE) as client:
            for _ in range(60):
                for path in READ_PATHS:
                    assert client.get(path).status_code == 200, path
        assert server.heard == []
        assert running.composed.metrics.wakes() == 0
        assert (
            'ollama_modal_wakes_total{cause="request",tier="a10g"} 0.0'
            in httpx.get(f"{running.url}/metrics", timeout=PATIENCE).text
        )
        assert tier_entry(running)["state"] == "asleep"


def test_states_come_from_reports(tmp_path: Path) -> None:
    """A tier is ready since its server started; one that fell silent is lost, one that ended or is long gone asleep."""
    now = CLOCK.now()
    with ScriptedServer(whole_answer) as server, gateway(tmp_path, {"a10g": server.url}) as running:

        def report(state: str, ago: float) -> str:
            began = now - timedelta(hours=1)
            said = Report("a10g", "ta-1", state, now - timedelta(seconds=ago), started_at=began, loaded=(LOADED,))
            running.facts.put(said.key, said.as_json())
            running.known_state.refresh()
            return str(tier_entry(running)["state"])

        assert report("serving", 10) == "ready"
        assert str(tier_entry(running)["since"]) < now.isoformat()
        assert report("serving", 300) == "lost"
        assert report("serving", 3700) == "asleep"
        assert report("ended", 1) == "asleep"
        assert server.heard == []


LOADED = Loaded("llama3.2:latest", 1, 1, 4096)
