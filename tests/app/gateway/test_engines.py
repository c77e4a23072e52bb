"""A tier's engine: what it speaks passes unchanged, and what it does not is refused before anybody wakes."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from app.engines.document import table
from app.engines.engine import Engine
from app.engines.llama_server import LLAMA_SERVER
from app.engines.ollama import OLLAMA
from app.engines.table import ENGINES
from app.gateway.protocol.routes import TABLE, speech_of
from tests.support.checkout import ROOT
from tests.support.dialects import TALK
from tests.support.gateways import ModelList, RunningGateway, gateway, model
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE

PATHS = sorted(OLLAMA.routes | LLAMA_SERVER.routes)
NAME = "llama3.2:latest"

BODY = {
    "model": "llama3.2",
    "messages": TALK,
    "prompt": "hi",
    "input": "hi",
    "content": "hi",
    "query": "hi",
    "documents": ["hi"],
    "max_tokens": 3,
    "stream": False,
    "verbose": True,
}
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nllama3.2\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nsound\r\n--b--\r\n'
)
ANSWER: dict[str, Any] = {"done": True, "any": "thing"}

CHAT_STREAM = (
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}]}\n\n',
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"Hel"}}]}\n\n',
    (
        b'data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],"object":"chat.completion.chunk",'
        b'"timings":{"cache_n":20,"prompt_n":5,"predicted_n":3}}\n\n'
    ),
    b"data: [DONE]\n\n",
)
MESSAGES_STREAM = (
    (
        b'event: message_start\ndata: {"type":"message_start","message":{"content":[],"usage":'
        b'{"cache_read_input_tokens":20,"input_tokens":5,"output_tokens":0}}}\n\n'
    ),
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
    b'"text":"' + b"x" * 40_000 + b'"}}\n\n',
    (
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"max_tokens"},'
        b'"usage":{"output_tokens":3}}\n\n'
    ),
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
)
RESPONSES_STREAM = (
    b'event: response.created\ndata: {"type":"response.created","response":{"status":"in_progress"}}\n\n',
    b'event: response.completed\ndata: {"type":"response.completed","response":{"output":[{"text":"' + b"x" * 40_000 +
    b'"}],"usage":{"input_tokens":25,"output_tokens":3,"total_tokens":28,"input_tokens_details":{"cached_tokens":20}}},'
    b'"timings":{"cache_n":20,"prompt_n":5,"predicted_n":3}}\n\n',
)  # fmt: skip
STREAMS = {
    "/v1/chat/completions": CHAT_STREAM,
    "/v1/messages": MESSAGES_STREAM,
    "/v1/responses": RESPONSES_STREAM,
}
"""As llama.cpp b11549 was seen to write them."""


def answering(_: HeardRequest, line: Connection) -> None:
    line.document(ANSWER)


def streaming(heard: HeardRequest, line: Connection) -> None:
    line.begin("text/event-stream")
    for piece in STREAMS[heard.path]:
        line.chunk(piece)
    line.end()


def refusing(status: int, document: Any) -> Callable[[HeardRequest, Connection], None]:
    return lambda _, line: line.document(document, status)


def body_of(path: str) -> tuple[bytes, dict[str, str]]:
    if path == "/v1/audio/transcriptions":
        return FORM, {"content-type": "multipart/form-data; boundary=b"}
    return json.dumps(BODY).encode(), {"content-type": "application/json"}


def post(running: RunningGateway, path: str, **more: Any) -> httpx.Response:
    content, headers = body_of(path)
    if more:
        content = json.dumps({**BODY, **more}).encode()
    return httpx.post(running.url + path, content=content, headers=headers, timeout=PATIENCE)


def words_of(answer: httpx.Response) -> str:
    """The text of an error, after its shape was checked."""
    told, speech = answer.json(), speech_of(answer.url.path)
    if speech == "ollama":
        assert set(told) == {"error"}
        return str(told["error"])
    if speech == "anthropic":
        assert (told["type"], set(told["error"])) == ("error", {"type", "message"})
    else:
        assert set(told["error"]) == {"message", "type", "param", "code"}
    return str(told["error"]["message"])


@pytest.fixture(scope="module", params=[OLLAMA, LLAMA_SERVER], ids=lambda each: each.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.param
    return found


@pytest.fixture(scope="module")
def alone(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningGateway, ScriptedServer]]:
    """One tier, of this engine."""
    folder = tmp_path_factory.mktemp("engine")
    with (
        ScriptedServer(answering) as server,
        gateway(folder, {"t": server.url}, engines={"t": engine}, declared={NAME: "t"}) as running,
    ):
        yield running, server


@pytest.mark.parametrize("path", PATHS)
def test_each_cell_of_the_table(path: str, engine: Engine, alone: tuple[RunningGateway, ScriptedServer]) -> None:
    """A route that an engine speaks passes unchanged, both ways; any other is 501 in the caller's shape, at once, with
    what the table says, and the server hears nothing of it."""
    running, server = alone
    before, wakes = len(server.heard), running.composed.metrics.wakes()

    answer = post(running, path)

    if engine.speaks(path):
        heard = server.asked[-1]
        assert (answer.status_code, answer.json()) == (200, ANSWER)
        assert (heard.path, heard.body) == (path, body_of(path)[0])
        return
    text = words_of(answer)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (501, "false")
    assert f"{engine.title} does not speak {path}" in text
    assert engine.instead.get(path, "") in text
    assert (len(server.heard), running.composed.metrics.wakes()) == (before, wakes)


def test_the_document_shows_the_table() -> None:
    """app/README.md has the table of routes and engines as the engines' values make it, and the table has each route
    that is passed on."""
    text = (ROOT / "app" / "README.md").read_text("utf-8")
    shown = re.findall(r"^\| route \| Ollama \|.*?(?=\n\n)", text, re.MULTILINE | re.DOTALL)

    assert [each.splitlines() for each in shown] == [table()]
    assert set(PATHS) == {each.path for each in TABLE if each.action == "passed"} | {"/api/show"}
    assert {engine.title for engine in ENGINES.values()} == {"Ollama", "llama-server"}


def test_who_could_is_named(tmp_path: Path) -> None:
    """Where another tier speaks the route, the refusal names it; where none does, it says what a tier would need."""
    engines = {"l4": LLAMA_SERVER, "a10g": OLLAMA}
    with ScriptedServer(answering) as server:
        urls = dict.fromkeys(engines, server.url)
        with gateway(tmp_path, urls, engines=engines, declared={NAME: "l4"}) as running:
            text = words_of(post(running, "/api/chat"))
        with gateway(tmp_path, {"a10g": server.url}) as running:
            alone = words_of(post(running, "/v1/rerank"))

        assert not server.heard
    assert text == (
        f"'{NAME}' is declared for tier 'l4', whose engine llama-server does not speak /api/chat; ask"
        " /v1/chat/completions; or tier 'a10g' speaks it: declare the model for that in the fleet file"
    )
    assert alone == (
        'no tier here speaks /v1/rerank: Ollama does not speak /v1/rerank; a tier with engine = "llama-server" in the'
        " fleet file would speak it"
    )  # fmt: skip


def test_a_route_leads_to_the_tier_that_speaks_it(tmp_path: Path) -> None:
    """A model that no tier is declared for goes, for each route, to a tier whose engine speaks that."""
    engines = {"l4": LLAMA_SERVER, "a10g": OLLAMA}
    with (
        ScriptedServer(answering) as llama,
        ScriptedServer(answering) as ollama,
        gateway(tmp_path, {"l4": llama.url, "a10g": ollama.url}, engines=engines) as running,
    ):
        served = {path: post(running, path).headers["x-served-tier"] for path in PATHS}
        told = httpx.get(f"{running.url}/ops/v1/tiers", timeout=PATIENCE).json()["tiers"]

    assert all(engines[tier].speaks(path) for path, tier in served.items())
    assert {served["/api/chat"], served["/v1/rerank"]} == {"a10g", "l4"}
    assert {each["tier"]: each["engine"] for each in told} == {"l4": "llama-server", "a10g": "ollama"}


def test_unknown_models_come_first(tmp_path: Path) -> None:
    """A model that is not here is 404, whatever would speak the route."""
    with ScriptedServer(answering) as server, gateway(tmp_path, {"t": server.url}) as running:
        answer = httpx.post(f"{running.url}/v1/rerank", json={"model": "nobody"}, timeout=PATIENCE)

    assert answer.status_code == 404


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with (
        ScriptedServer(streaming) as server,
        gateway(tmp_path_factory.mktemp("streams"), {"l4": server.url}, engines={"l4": LLAMA_SERVER}) as running,
    ):
        yield running


@pytest.mark.parametrize("path", STREAMS)
def test_streams_of_llama_server(path: str, streams: RunningGateway) -> None:
    """They pass byte for byte, and nothing is put into a request that would change them."""
    answer = post(streams, path, stream=True)

    assert answer.content == b"".join(STREAMS[path])


def test_tokens_of_llama_servers_streams_are_counted(tmp_path: Path) -> None:
    """What was in the cache counts as much as what was read, in each dialect, however long the answer is."""
    with (
        ScriptedServer(streaming) as server,
        gateway(tmp_path, {"l4": server.url}, engines={"l4": LLAMA_SERVER}) as running,
    ):
        for path in STREAMS:
            assert post(running, path, stream=True).status_code == 200
        (row,) = running.rows(len(STREAMS))

    assert row.about.ending == "success"
    assert (row.sums.prompt_tokens, row.sums.output_tokens) == (25 * len(STREAMS), 3 * len(STREAMS))


def test_errors_of_llama_server_are_in_the_callers_shape(tmp_path: Path) -> None:
    """They are in OpenAI's shape on every route: Anthropic's clients get them in their own, OpenAI's as they are."""
    said = {"error": {"code": 400, "message": "the request exceeds the available context size", "type": "exceed"}}
    with (
        ScriptedServer(refusing(400, said)) as server,
        gateway(tmp_path, {"l4": server.url}, engines={"l4": LLAMA_SERVER}) as running,
        anthropic.Anthropic(base_url=running.url, api_key="none", max_retries=0) as ours,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as theirs,
    ):
        with pytest.raises(anthropic.BadRequestError, match="exceeds the available") as refused:
            ours.messages.create(model="llama3.2", max_tokens=3, messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(openai.BadRequestError, match="exceeds the available"):
            theirs.embeddings.create(model="llama3.2", input="hi")
        as_it_is = post(running, "/tokenize")

    assert isinstance(refused.value.body, dict)
    assert refused.value.body["type"] == "error"
    assert as_it_is.json() == said


def test_a_model_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    """A 503 of an engine that loads, in its own words, is waited out before the caller hears of it."""
    answers = iter([503])

    def script(heard: HeardRequest, line: Connection) -> None:
        if next(answers, None):
            line.document({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, 503)
        else:
            answering(heard, line)

    with (
        ScriptedServer(script) as server,
        gateway(tmp_path, {"l4": server.url}, engines={"l4": LLAMA_SERVER}) as running,
    ):
        answer = post(running, "/v1/rerank")

    assert (answer.status_code, answer.json()) == (200, ANSWER)
    assert len(server.asked) == 2


def test_what_only_ollama_refuses_is_left_to_llama_server(tmp_path: Path) -> None:
    """Bodies that Ollama would refuse are no business of another engine's callers."""
    body = {**BODY, "messages": [{"role": "user", "content": 7}]}
    with ScriptedServer(answering) as server:
        statuses = []
        for engine in (OLLAMA, LLAMA_SERVER):
            source = ModelList([model("llama3.2")])
            with gateway(tmp_path, {"t": server.url}, engines={"t": engine}, source=source) as running:
                url = f"{running.url}/v1/chat/completions"
                statuses.append(httpx.post(url, json=body, timeout=PATIENCE).status_code)

    assert statuses == [400, 200]
