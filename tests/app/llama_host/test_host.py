"""The host of the real engine, over real sockets: what it answers, which models it has, and what it survives."""

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.testing.toy_models import SYSTEM, all_toys, toy
from jobs.testing.toy_weights import PHRASE, speaker
from tests.support.llama_hosts import Host, engines_below, events, needs_engine, said_in, toy_host
from tests.support.models_directory import lay
from tests.support.processes import free_port, is_running
from tests.support.waiting import PATIENCE, until

pytestmark = needs_engine

HELLO = [{"role": "user", "content": "hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One with all toys, which keeps two of them in memory."""
    with toy_host(tmp_path_factory.mktemp("host"), *all_toys(), OLLAMA_MAX_LOADED_MODELS="2") as running:
        yield running


def chat(host: Host, model: str, **more: Any) -> httpx.Response:
    return host.post("/v1/chat/completions", {"model": model, "messages": HELLO, **more})


# -- what it answers ---------------------------------------------------------------------------------------------------


def test_a_model_answers_in_each_dialect(host: Host) -> None:
    """Chat, completions, messages and responses are llama.cpp's own answers, with the tokens that they cost."""
    chatted = chat(host, "toy").json()
    completed = host.post("/v1/completions", {"model": "toy", "prompt": "hello"}).json()
    messages = host.post("/v1/messages", {"model": "toy", "max_tokens": 50, "messages": HELLO}).json()
    responses = host.post("/v1/responses", {"model": "toy", "input": "hello"}).json()

    assert chatted["choices"][0]["message"] == {"role": "assistant", "content": PHRASE}
    assert (chatted["model"], chatted["usage"]["completion_tokens"]) == ("toy:latest", 9)
    assert completed["choices"][0]["text"].strip() == PHRASE
    assert messages["content"] == [{"type": "text", "text": PHRASE}]
    assert messages["usage"]["output_tokens"] == 9
    assert responses["output"][-1]["content"][0]["text"] == PHRASE


def test_a_stream_passes_as_it_comes(host: Host) -> None:
    """Each token is an event of its own, and the terminator stands at the end."""
    answer = chat(host, "TOY", stream=True, stream_options={"include_usage": True})

    chunks = events(answer.text)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert said_in(answer.text) == PHRASE
    assert chunks[-1] == "[DONE]"
    assert chunks[-2]["usage"]["completion_tokens"] == 9
    assert len(chunks) > 9


def test_texts_are_embedded_and_ranked(host: Host) -> None:
    """An embedder makes a vector of each text; a ranker puts the documents that share the query's words first."""
    texts = ["the gpu sleeps", "the gpu sleeps", "coffee in paris"]
    vectors = [
        each["embedding"] for each in host.post("/v1/embeddings", {"model": "toy-embed", "input": texts}).json()["data"]
    ]
    documents = ["tea", "the garden of the panda", "a panda eats bamboo, and a panda sleeps"]
    ranked = host.post("/v1/rerank", {"model": "toy-rerank", "query": "panda bamboo", "documents": documents}).json()

    assert vectors[0] == pytest.approx(vectors[1])
    assert sum(x * y for x, y in zip(vectors[0], vectors[2], strict=True)) < 0.9
    assert [each["index"] for each in sorted(ranked["results"], key=lambda each: -each["relevance_score"])] == [2, 1, 0]


def test_a_tool_is_called(host: Host) -> None:
    """What the weights say in the form of their template comes as a call."""
    message = chat(host, "toy:tools", tools=[WEATHER]).json()["choices"][0]["message"]

    assert message["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}


def test_a_system_prompt_of_the_model_goes_first(host: Host) -> None:
    """A conversation without one gets the model's own, which counts; one that brings its own keeps that."""
    plain = chat(host, "toy").json()["usage"]["prompt_tokens"]
    own = chat(host, "toy:system").json()["usage"]["prompt_tokens"]
    brought = host.post(
        "/v1/chat/completions", {"model": "toy:system", "messages": [{"role": "system", "content": "X"}, *HELLO]}
    ).json()["usage"]["prompt_tokens"]

    assert own == plain + len(f"system: {SYSTEM}\n")
    assert brought == plain + len("system: X\n")


def test_tokens_are_counted_by_the_model(host: Host) -> None:
    """A text is cut as the weights cut it: here a letter is a token."""
    assert len(host.post("/tokenize", {"model": "toy", "content": "hello"}).json()["tokens"]) == 5


def test_probes_start_no_engine(tmp_path: Path) -> None:
    """Version, lists and health are the host's: nothing is loaded for them."""
    with toy_host(tmp_path, *all_toys()) as host:
        assert host.get("/health") == {"status": "ok"}
        assert host.get("/api/version")["version"].startswith("b")
        names = {model["name"] for model in host.get("/api/tags")["models"]}
        assert names == {str(model.name) for model in all_toys()}
        assert {model["id"] for model in host.get("/v1/models")["data"]} == names
        assert host.loaded() == []
        assert host.engines() == {}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/chat/completions", {"model": "nope", "messages": HELLO}, 404, "model 'nope:latest' not found"),
        ("/v1/chat/completions", {"messages": HELLO}, 400, "model is required"),
        ("/v1/chat/completions", {"model": "../../etc", "messages": HELLO}, 400, "a name looks like"),
        ("/v1/chat/completions", [1], 400, "no JSON object"),
        ("/v1/embeddings", {"model": "toy", "input": "x"}, 501, "does not support embeddings"),
        ("/v1/nothing", {"model": "toy"}, 404, "this engine has no POST /v1/nothing"),
    ],
)
def test_what_cannot_be_answered_is_told(host: Host, path: str, body: Any, status: int, words: str) -> None:
    """In llama.cpp's own shape, the engine's errors and the host's alike."""
    answer = host.post(path, body)

    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == status


def test_routes_of_ollama_are_not_translated(host: Host) -> None:
    """A chat in Ollama's dialect, or a prompt to generate from, is refused in its shape; no engine is asked."""
    chatted = host.post("/api/chat", {"model": "toy", "messages": HELLO})
    generated = host.post("/api/generate", {"model": "toy", "prompt": "x"})

    assert (chatted.status_code, generated.status_code) == (404, 404)
    assert "no POST /api/chat" in chatted.json()["error"]
    assert "ask /v1/completions" in generated.json()["error"]


def test_a_page_is_refused(host: Host) -> None:
    """Whatever a browser shows cannot use the models of this machine past the gateway."""
    answer = httpx.post(
        f"{host.url}/v1/chat/completions",
        json={"model": "toy"},
        headers={"origin": "http://evil.example"},
        timeout=PATIENCE,
    )
    assert answer.status_code == 403


# -- which models it has -----------------------------------------------------------------------------------------------


def test_models_are_loaded_and_unloaded_as_ollama_is_asked_to(host: Host) -> None:
    """Nothing to generate from loads a model, a `keep_alive` of 0 has it out of memory, and the list says so."""
    done = host.post("/api/generate", {"model": "toy", "keep_alive": "10m"}).json()
    [shown] = [each for each in host.get("/api/ps")["models"] if each["name"] == "toy:latest"]
    gone = host.post("/api/generate", {"model": "toy", "keep_alive": 0}).json()

    assert (done["done"], done["done_reason"], gone["done_reason"]) == (True, "load", "unload")
    assert (shown["context_length"], shown["size_vram"]) == (2048, 0)
    assert shown["size"] >= sum(layer.size for layer in all_toys()[0].layers)
    until(lambda: "toy:latest" not in host.loaded())
    until(lambda: "toy:latest" not in host.engines())


def test_the_one_unused_for_longest_makes_room(host: Host) -> None:
    """Two are in memory at most; a third one takes the place of the one that was used longest ago."""
    for model in ("toy", "toy-embed", "toy", "toy-rerank"):
        assert host.post("/api/generate", {"model": model}).status_code == 200

    assert host.loaded() == ["toy-rerank:latest", "toy:latest"]
    until(lambda: set(host.engines()) == {"toy-rerank:latest", "toy:latest"})


def test_a_busy_model_is_not_unloaded_for_another(tmp_path: Path) -> None:
    """While it answers, others wait for its room; the answer is not cut, and then they get it."""
    with (
        toy_host(tmp_path, *all_toys(), OLLAMA_MAX_LOADED_MODELS="1") as host,
        httpx.Client(base_url=host.url, timeout=PATIENCE) as client,
    ):
        endless = {"model": "toy:endless", "messages": HELLO, "stream": True, "max_tokens": 5000}
        with client.stream("POST", "/v1/chat/completions", json=endless) as answer:
            lines = answer.iter_lines()
            next(lines)
            os.kill(host.engines()["toy:endless"], signal.SIGSTOP)  # it is not done before we are
            with pytest.raises(httpx.TimeoutException):
                httpx.post(f"{host.url}/api/generate", json={"model": "toy"}, timeout=0.3)
            assert host.loaded() == ["toy:endless"]
            os.kill(host.engines()["toy:endless"], signal.SIGCONT)
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert host.post("/api/generate", {"model": "toy"}).status_code == 200
        assert host.loaded() == ["toy:latest"]


def test_an_idle_model_leaves_when_its_time_is_over(tmp_path: Path) -> None:
    """By OLLAMA_KEEP_ALIVE, from the end of its last request; 0 keeps it no longer than that."""
    with toy_host(tmp_path, *all_toys(), OLLAMA_KEEP_ALIVE="0") as host:
        assert chat(host, "toy").status_code == 200
        until(lambda: not host.loaded() and not host.engines())
        host.post("/api/generate", {"model": "toy", "keep_alive": -1})
        assert chat(host, "toy").status_code == 200
        [shown] = host.get("/api/ps")["models"]
        assert shown["expires_at"].startswith("9999-")


def test_new_weights_are_loaded_anew(tmp_path: Path) -> None:
    """The first request after they were replaced is answered by the new ones; an answer under way ends by the old."""
    with (
        toy_host(tmp_path, *all_toys()) as host,
        httpx.Client(base_url=host.url, timeout=PATIENCE) as client,
    ):
        endless = {"model": "toy:endless", "messages": HELLO, "stream": True, "max_tokens": 5000}
        with client.stream("POST", "/v1/chat/completions", json=endless) as answer:
            lines = answer.iter_lines()
            next(lines)
            old = host.engines()["toy:endless"]
            os.kill(old, signal.SIGSTOP)
            lay(host.models, toy("toy:endless", speaker("other words"), "completion"))
            assert chat(host, "toy:endless").json()["choices"][0]["message"]["content"] == "other words"
            os.kill(old, signal.SIGCONT)
            assert said_in("\n".join(lines)).count("sleeps") > 100
        until(lambda: len(host.engines()) == 1)
        assert host.loaded() == ["toy:endless"]


# -- what it survives --------------------------------------------------------------------------------------------------


def test_a_killed_engine_is_told_of_and_started_again(tmp_path: Path) -> None:
    """A stream whose engine is killed ends without its terminator; the next request gets a new engine."""
    with (
        toy_host(tmp_path, *all_toys()) as host,
        httpx.Client(base_url=host.url, timeout=PATIENCE) as client,
    ):
        endless = {"model": "toy:endless", "messages": HELLO, "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=endless) as answer:
            lines = answer.iter_lines()
            next(lines)
            first = host.engines()["toy:endless"]
            os.kill(first, signal.SIGKILL)
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
        until(lambda: not host.loaded())
        assert chat(host, "toy:endless", max_tokens=3).status_code == 200
        assert host.engines()["toy:endless"] != first
        assert "the engine of 'toy:endless' ended by SIGKILL; the next request starts it again" in host.said()


def test_whoever_leaves_ends_what_the_engine_does(tmp_path: Path) -> None:
    """An answer that nobody reads any more is not made: the engine is idle, and takes the next request."""
    with toy_host(tmp_path, *all_toys(), OLLAMA_NUM_PARALLEL="1") as host:
        with httpx.stream(
            "POST",
            f"{host.url}/v1/chat/completions",
            json={"model": "toy:endless", "messages": HELLO, "stream": True},
            timeout=PATIENCE,
        ) as answer:
            next(answer.iter_lines())
        assert chat(host, "toy:endless", max_tokens=2).status_code == 200


def test_weights_that_cannot_be_loaded_are_told(tmp_path: Path) -> None:
    """The engine's own reason comes with the error, and nothing is left in memory of it."""
    broken = toy("broken", speaker()[:-4000], "completion")
    with toy_host(tmp_path, broken) as host:
        answer = chat(host, "broken")
        assert answer.status_code == 500
        assert (
            "the engine of 'broken:latest' ended with exit code 1 while it loaded" in answer.json()["error"]["message"]
        )
        assert "tensor" in answer.json()["error"]["message"]
        assert (host.loaded(), host.engines()) == ([], {})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_engine_outlives_its_host(tmp_path: Path, number: signal.Signals) -> None:
    """However the host ends, its engines end with it."""
    with toy_host(tmp_path, *all_toys()) as host:
        assert host.post("/api/generate", {"model": "toy"}).status_code == 200
        [engine] = engines_below(host.process.pid).values()
        host.process.send_signal(number)
        assert host.process.wait(PATIENCE) == (0 if number == signal.SIGTERM else -number)
        until(lambda: not is_running(engine))


def test_log_lines_tell_of_loads_and_answers_and_no_prompt(tmp_path: Path) -> None:
    """What the server's watcher goes by: loads with their blob, ends of loads, answers; what was said stays out."""
    with toy_host(tmp_path, *all_toys()) as host:
        secret = [{"role": "user", "content": "an unspeakable word"}]
        assert host.post("/v1/chat/completions", {"model": "toy", "messages": secret}).status_code == 200
        until(lambda: "llama-host: answered 200 POST /v1/chat/completions" in host.said())
    weights = all_toys()[0].layers[0].digest.replace(":", "-")
    assert f"--model {host.models}/blobs/{weights}" in host.said()
    assert "llama-host: loaded toy:latest in " in host.said()
    assert "unspeakable" not in host.said()
    assert "sleeps" not in host.said()


def test_what_keeps_the_host_from_serving_is_told(tmp_path: Path) -> None:
    """A port that is taken, and an engine that does not run, end it with words in the log and a status of their own."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environ = {"OLLAMA_HOST": f"127.0.0.1:{taken.getsockname()[1]}", "OLLAMA_MODELS": str(tmp_path)}
        done = run_host(environ)
    assert (done.returncode, "cannot be used: Address already in use" in done.stderr) == (1, True)
    broken = tmp_path / "llama-server"
    broken.write_text("#!/bin/sh\necho no such instruction >&2; exit 132\n")
    broken.chmod(0o755)
    done = run_host({"OLLAMA_HOST": f"127.0.0.1:{free_port()}", "OLLAMA_MODELS": str(tmp_path)}, broken)
    assert done.returncode == 3
    assert f"the engine {broken} does not run here: no such instruction" in done.stderr


def run_host(environ: dict[str, str], *binary: Path) -> "subprocess.CompletedProcess[str]":
    words = [
        sys.executable,
        "-m",
        "app.llama_host",
        *(word for each in binary for word in ("--llama-server", str(each))),
    ]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OLLAMA_", "LLAMA_"))}
    return subprocess.run(words, env={**kept, **environ}, capture_output=True, text=True, timeout=PATIENCE, check=False)


CLOSES = """
import asyncio, sys

async def serve(reader, writer):
    for number in range(2):
        head = await reader.readuntil(b"\\r\\n\\r\\n")
        length = [line for line in head.lower().split(b"\\r\\n") if line.startswith(b"content-length:")]
        await reader.readexactly(int(length[0].split(b":")[1]) if length else 0)
        if number == 0:
            writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: 2\\r\\n\\r\\n{}")
    writer.close()

async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])) as server:
        await server.serve_forever()

print("version: 1 (test)") if "--version" in sys.argv else asyncio.run(main())
"""


def test_a_connection_that_the_engine_ends_is_no_failure(tmp_path: Path) -> None:
    """llama.cpp ends a connection when it likes, and with it a request that has just come: that is asked again."""
    (tmp_path / "closes.py").write_text(CLOSES)
    binary = tmp_path / "llama-server"
    script = shlex.quote(str(tmp_path / "closes.py"))
    binary.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {script} "$@"\n')
    binary.chmod(0o755)
    with toy_host(tmp_path, *all_toys(), binary=binary) as host:
        assert [chat(host, "toy").status_code for _ in range(3)] == [200, 200, 200]


def test_a_program_stands_in_for_the_wheel(tmp_path: Path) -> None:
    """`--llama-server PATH` starts that program, with the same arguments, and the libraries beside it."""
    binary = tmp_path / "llama-server"
    said, python = shlex.quote(str(tmp_path / "path")), shlex.quote(sys.executable)
    binary.write_text(f'#!/bin/sh\necho "$LD_LIBRARY_PATH" >{said}\nexec {python} -m {ENGINE} "$@"\n')
    binary.chmod(0o755)
    with toy_host(tmp_path, *all_toys(), binary=binary) as host:
        assert chat(host, "toy").json()["choices"][0]["message"]["content"] == PHRASE
        assert (tmp_path / "path").read_text().startswith(str(tmp_path))


ENGINE = "app.llama_host.llama_server"
