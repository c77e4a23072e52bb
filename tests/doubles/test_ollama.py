"""The Ollama simulator where no contract with a real one can be tried: inference, memory, faults, the process."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.core.clock import SystemClock
from jobs.core.model_name import ModelName
from jobs.core.progress import Progress
from jobs.core.retry import NEVER
from jobs.ollama.client import FOREVER, OllamaClient
from jobs.testing.clock import HandClock
from jobs.testing.models import LIBRARY, SimModel
from jobs.testing.ollama.faults import OllamaFault, SimError
from jobs.testing.ollama.go_formats import SAYS
from jobs.testing.ollama.server import OllamaDouble, settings_from
from jobs.testing.registry.server import RegistryDouble
from tests.support.ollama_servers import serving, simulator_command
from tests.support.waiting import PATIENCE, until

TINY = next(model for model in LIBRARY if str(model.name) == "tiny:latest")
HI = [{"role": "user", "content": "hi"}]


def put(models: Path, model: SimModel, name: str | None = None) -> None:
    """Place a model as a pull would have."""
    (models / "blobs").mkdir(parents=True, exist_ok=True)
    for digest, blob in model.blobs.items():
        (models / "blobs" / digest.replace(":", "-")).write_bytes(blob.read())
    path = models.joinpath("manifests", *(ModelName.parse(name) if name else model.name).path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.manifest)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    put(tmp_path, TINY)
    return tmp_path


@pytest.fixture
def double(models: Path) -> Iterator[OllamaDouble]:
    with OllamaDouble(models) as double:
        yield double


def post(double: OllamaDouble, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(double.url + path, json=body, timeout=PATIENCE)


def events(answer: httpx.Response) -> list[Any]:
    """The data of an event stream."""
    data = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/api/generate", {"prompt": "hi"}),
    ("/api/chat", {"messages": HI}),
    ("/v1/chat/completions", {"messages": HI}),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/messages", {"messages": HI, "max_tokens": 100}),
    ("/v1/responses", {"input": "hi"}),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
@pytest.mark.parametrize("stream", [True, False])
def test_every_answer_says_that_it_is_no_inference(
    double: OllamaDouble, path: str, body: dict[str, Any], *, stream: bool
) -> None:
    """Whatever the interface, nobody can mistake the simulator for a model."""
    answer = post(double, path, body | {"model": "tiny", "stream": stream})

    assert answer.status_code == 200
    assert SAYS in answer.text


def test_the_statement_survives_the_shortest_limit(double: OllamaDouble) -> None:
    """It is the first token, so `num_predict: 1` keeps it, and the answer says that it was cut."""
    body = {"model": "tiny", "prompt": "hi", "stream": False, "options": {"num_predict": 1}}

    answer = post(double, "/api/generate", body).json()

    assert (answer["response"], answer["done_reason"], answer["eval_count"]) == (SAYS, "length", 1)


def test_chat_chunks_come_in_openais_order(double: OllamaDouble) -> None:
    """The role once, then content, an empty delta with the reason, usage when asked for, and the end."""
    body = {"model": "tiny", "messages": HI, "stream": True, "stream_options": {"include_usage": True}}

    answer = post(double, "/v1/chat/completions", body)

    assert answer.headers["content-type"] == "text/event-stream"
    *chunks, usage, done = events(answer)
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [delta.get("role") for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert (deltas[-1], chunks[-1]["choices"][0]["finish_reason"]) == ({}, "stop")
    assert (usage["choices"], usage["usage"]["prompt_tokens"]) == ([], 1)
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1


def test_messages_come_as_anthropics_events(double: OllamaDouble) -> None:
    """Start, blocks, delta with the reason, stop."""
    answer = post(double, "/v1/messages", {"model": "tiny", "messages": HI, "max_tokens": 100, "stream": True})

    kinds = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]

    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events(answer)[-2]["delta"] == {"stop_reason": "end_turn"}


def test_responses_events_are_numbered_and_their_keys_in_order(double: OllamaDouble) -> None:
    """From created to completed, without a [DONE]."""
    answer = post(double, "/v1/responses", {"model": "tiny", "input": "hi", "stream": True})

    found = events(answer)

    assert [each["sequence_number"] for each in found] == list(range(len(found)))
    assert (found[0]["type"], found[-1]["type"]) == ("response.created", "response.completed")
    assert all(list(each) == sorted(each) for each in found)
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize(
    ("path", "body", "terminal"),
    [
        ("/v1/chat/completions", {"messages": HI}, '"finish_reason":"stop"'),
        ("/v1/completions", {"prompt": "hi"}, '"finish_reason":"stop"'),
        ("/v1/messages", {"messages": HI, "max_tokens": 9}, "message_stop"),
        ("/v1/responses", {"input": "hi"}, "response.completed"),
    ],
)
def test_an_error_inside_a_v1_stream_is_swallowed(
    double: OllamaDouble, path: str, body: dict[str, Any], terminal: str
) -> None:
    """The stream ends cleanly, only without its terminal event: nothing else tells that it failed."""
    double.faults.add(OllamaFault(path, "error", 2))

    answer = post(double, path, body | {"model": "tiny", "stream": True})

    assert answer.status_code == 200
    assert terminal not in answer.text
    assert "[DONE]" not in answer.text
    assert "unexpected EOF" not in answer.text


def test_an_error_before_the_first_frame_keeps_its_status(double: OllamaDouble) -> None:
    """Only what has begun is bound to 200."""
    double.faults.add(OllamaFault("/api/chat", "error", 0))
    double.faults.add(OllamaFault("/api/chat", "error", 1, after=1))

    first = post(double, "/api/chat", {"model": "tiny", "messages": HI})
    second = post(double, "/api/chat", {"model": "tiny", "messages": HI})

    assert (first.status_code, list(first.json())) == (500, ["error"])
    assert (second.status_code, json.loads(second.text.splitlines()[-1]).keys()) == (200, {"error"})


# -- memory ------------------------------------------------------------------------------------------------------------


def test_a_model_leaves_memory_when_its_time_is_up(models: Path) -> None:
    """Five minutes after the last request, or what the request said; `ps` sorts by what remains."""
    put(models, TINY, "other")
    clock = HandClock(datetime.now(UTC))
    with OllamaDouble(models, clock=clock) as double, OllamaClient(double.url, policy=NEVER) as ollama:
        ollama.load("tiny")
        ollama.load("other", keep_alive=timedelta(hours=1))
        assert [each.name for each in ollama.ps()] == ["other:latest", "tiny:latest"]

        clock.tick(5 * 60)
        assert [each.name for each in ollama.ps()] == ["other:latest"]
        ollama.load("other", keep_alive=FOREVER)
        clock.tick(10**9)
        assert [each.name for each in ollama.ps()] == ["other:latest"]


@pytest.mark.parametrize(("vram", "expected"), [(None, TINY.size), (1000, 1000), (0, 0), (10**9, TINY.size)])
def test_what_does_not_fit_the_gpu_runs_on_the_cpu_without_a_word(
    models: Path, vram: int | None, expected: int
) -> None:
    """`size_vram` below `size` is the only sign."""
    with OllamaDouble(models, vram=vram) as double, OllamaClient(double.url, policy=NEVER) as ollama:
        ollama.load("tiny")

        (running,) = ollama.ps()

    assert (running.size, running.size_vram, running.is_on_gpu) == (TINY.size, expected, expected == TINY.size)


def test_an_idle_model_makes_room_on_the_gpu(models: Path) -> None:
    """Whoever is not answering leaves when another needs the memory."""
    put(models, TINY, "other")
    with OllamaDouble(models, vram=TINY.size + 100) as double, OllamaClient(double.url, policy=NEVER) as ollama:
        ollama.load("tiny")
        ollama.load("other")

        (running,) = ollama.ps()

    assert (running.name, running.is_on_gpu) == ("other:latest", True)


def test_no_more_models_are_in_memory_than_may_be(models: Path) -> None:
    """With OLLAMA_MAX_LOADED_MODELS the idle one that is soonest to go leaves for another; one in use is waited for."""
    put(models, TINY, "other")
    put(models, TINY, "third")
    with OllamaDouble(models, max_loaded_models=2, tokens_per_second=20) as double:
        ollama = OllamaClient(double.url, policy=NEVER)
        ollama.load("tiny", keep_alive=timedelta(hours=1))
        ollama.load("other", keep_alive=timedelta(minutes=1))
        ollama.load("third")
        assert {each.name for each in ollama.ps()} == {"tiny:latest", "third:latest"}
        ollama.unload("third")
        frames = [ollama.generate(name, "hi") for name in ("tiny", "other")]
        for each in frames:
            next(each)
        ollama.load("third")
        assert len(ollama.ps()) == 2
        assert "third:latest" in {each.name for each in ollama.ps()}
        for each in frames:
            list(each)
        ollama.close()


def test_a_fault_puts_one_load_on_the_cpu(double: OllamaDouble) -> None:
    """The GPU fell out, and the server does not say so."""
    double.faults.add(OllamaFault("/api/generate", "cpu"))
    with OllamaClient(double.url, policy=NEVER) as ollama:
        ollama.load("tiny")

        assert ollama.ps()[0].size_vram == 0


def test_a_loading_model_is_not_listed_and_its_load_dies_with_its_caller(models: Path) -> None:
    """Whoever asked leaves, and the load is dropped; the next one starts anew."""
    with OllamaDouble(models, load_bytes_per_second=TINY.size // 20) as double, OllamaClient(double.url) as ollama:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{double.url}/api/generate", json={"model": "tiny"}, timeout=0.3)
        assert ollama.ps() == []
        SystemClock().wait(0.2)
        assert ollama.ps() == []


def test_a_full_queue_is_503_with_two_spaces(models: Path) -> None:
    """Waiting for a load is bounded; programs match on the text, odd as it is."""
    with (
        OllamaDouble(models, load_bytes_per_second=TINY.size // 10, max_queue=1) as double,
        ThreadPoolExecutor(2) as pool,
    ):
        both = [pool.submit(post, double, "/api/generate", {"model": "tiny"}) for _ in range(2)]
        answers = {each.result().status_code: each.result() for each in both}

    text = "server busy, please try again.  maximum pending requests exceeded"
    assert set(answers) == {200, 503}
    assert answers[503].json() == {"error": text}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ends_when_its_caller_leaves(models: Path, stream: bool) -> None:
    """Streamed or not, begun or waiting for a slot: the model is in use no longer."""
    body = {"model": "tiny", "messages": HI, "stream": stream}
    with OllamaDouble(models, tokens_per_second=0.1 / PATIENCE) as double, OllamaClient(double.url) as ollama:
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{double.url}/api/chat", json=body, timeout=httpx.Timeout(PATIENCE, read=0.3))
        ollama.unload("tiny")
        until(lambda: ollama.ps() == [], "the model let go")


# -- the directory -----------------------------------------------------------------------------------------------------


def test_starting_prunes_what_is_old_and_unreferenced_unless_told_not_to(models: Path) -> None:
    """Leftovers younger than an hour stay; a torn manifest anywhere stops the whole prune."""
    blobs = models / "blobs"
    old, young = blobs / f"sha256-{'a' * 64}", blobs / f"sha256-{'b' * 64}-partial"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    torn = models / "manifests/registry.ollama.ai/library/torn/latest"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"")

    _start_and_stop(models)
    assert old.exists()
    torn.unlink()
    _start_and_stop(models, no_prune=True)
    assert old.exists()
    _start_and_stop(models)

    assert (old.exists(), young.exists(), torn.parent.exists()) == (False, True, False)
    assert len(list(blobs.iterdir())) == len(TINY.blobs) + 1


def _start_and_stop(models: Path, **settings: Any) -> None:
    with OllamaDouble(models, **settings):
        pass


def test_pulling_again_removes_the_layers_that_are_no_longer_listed(models: Path) -> None:
    """A newer manifest of the same name leaves no old blob behind, and says so."""
    newer = SimModel(TINY.name, "llama", "7K", "F16", TINY.layers[:1])
    with RegistryDouble([newer]) as registry, OllamaDouble(models, registry=registry.url) as double:
        lines = [json.loads(line)["status"] for line in post(double, "/api/pull", {"model": "tiny"}).text.splitlines()]

    assert lines[-2:] == ["removing unused layers", "success"]
    left = {path.name for path in (models / "blobs").iterdir()}
    assert left == {digest.replace(":", "-") for digest in newer.blobs}


def test_two_pulls_of_one_blob_share_its_download(models: Path) -> None:
    """Both end in success, and the bytes come once."""
    big = next(model for model in LIBRARY if str(model.name) == "qwen2.5:0.5b")
    with (
        RegistryDouble([big], throttle=8_000_000) as registry,
        OllamaDouble(models, registry=registry.url) as double,
        OllamaClient(double.url) as ollama,
    ):
        pulls = [threading.Thread(target=ollama.pull, args=("qwen2.5:0.5b",), kwargs=_meter()) for _ in range(2)]
        for pull in pulls:
            pull.start()
        for pull in pulls:
            pull.join()

        assert "qwen2.5:0.5b" in {each.name for each in ollama.tags()}
        assert registry.served["cdn"] <= sum(blob.size for blob in big.blobs.values())


def _meter() -> dict[str, Progress]:
    return {"progress": Progress(SystemClock())}


# -- the process -------------------------------------------------------------------------------------------------------


def test_the_process_closes_at_once_at_sigterm(tmp_path: Path) -> None:
    """Nothing is drained: a stream in progress is cut, and the process is gone within moments."""
    put(tmp_path / "models", TINY)
    with serving(simulator_command(), tmp_path, is_real=False, OLLAMA_SIM_TOKENS_PER_SECOND="1") as server:
        with httpx.stream(
            "POST", f"{server.url}/api/generate", json={"model": "tiny", "prompt": "a b c"}, timeout=PATIENCE
        ) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
        assert server.process.wait(timeout=PATIENCE) == 0


def test_the_process_dies_in_the_middle_when_told_to(tmp_path: Path) -> None:
    """Faults are set over HTTP; after `die` nothing answers any more."""
    put(tmp_path / "models", TINY)
    with serving(simulator_command(), tmp_path, is_real=False) as server:
        fault = {"route": "/api/generate", "kind": "die", "value": 2}
        assert httpx.post(f"{server.url}/_faults", json=fault, timeout=PATIENCE).status_code == 204

        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{server.url}/api/generate", json={"model": "tiny", "prompt": "hi"}, timeout=PATIENCE)

        assert server.process.wait(timeout=PATIENCE) == 1


def test_faults_are_refused_when_they_make_no_sense(double: OllamaDouble) -> None:
    """A typo in a test must not look like a server without faults."""
    for wrong in ({}, {"route": "/api/chat"}, {"route": "*", "kind": "bad"}, {"route": "*", "kind": "cut", "x": 1}):
        assert httpx.post(f"{double.url}/_faults", json=wrong, timeout=PATIENCE).status_code == 400
    double.faults.add(OllamaFault("*", "status", 500, times=None))
    assert httpx.get(f"{double.url}/api/tags", timeout=PATIENCE).status_code == 500
    assert httpx.delete(f"{double.url}/_faults", timeout=PATIENCE).status_code == 204
    assert httpx.get(f"{double.url}/api/tags", timeout=PATIENCE).status_code == 200


def test_connections_are_accepted_before_anything_is_answered(models: Path) -> None:
    """GPU discovery comes between listening and serving: a TCP probe is no readiness."""
    with OllamaDouble(models, discovery_seconds=2) as double:
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{double.url}/api/version", timeout=0.1)
        assert httpx.get(f"{double.url}/api/version", timeout=PATIENCE).status_code == 200


@pytest.mark.parametrize(
    ("environ", "field", "value"),
    [
        ({"OLLAMA_NOPRUNE": "1"}, "no_prune", True),
        ({"OLLAMA_NOPRUNE": "what"}, "no_prune", True),
        ({"OLLAMA_NOPRUNE": "false"}, "no_prune", False),
        ({"OLLAMA_KEEP_ALIVE": "90"}, "keep_alive", timedelta(seconds=90)),
        ({"OLLAMA_KEEP_ALIVE": "1h30m"}, "keep_alive", timedelta(minutes=90)),
        ({"OLLAMA_KEEP_ALIVE": "-1"}, "keep_alive", timedelta(days=106_751)),
        ({"OLLAMA_CONTEXT_LENGTH": "8192"}, "context_length", 8192),
        ({"OLLAMA_NUM_PARALLEL": "4"}, "parallel", 4),
        ({"OLLAMA_MAX_LOADED_MODELS": "2"}, "max_loaded_models", 2),
        ({}, "max_loaded_models", 0),
        ({"OLLAMA_SIM_VRAM": "cpu"}, "vram", 0),
        ({"OLLAMA_SIM_VRAM": "5000"}, "vram", 5000),
        ({}, "vram", None),
        ({"OLLAMA_SIM_REGISTRY": "http://127.0.0.1:5"}, "registry", "http://127.0.0.1:5"),
        ({"HOME": "/h"}, "models", Path("/h/.ollama/models")),
    ],
)
def test_the_environment_means_what_it_means_to_ollama(environ: dict[str, str], field: str, value: object) -> None:
    """The real variables, and those of the simulator beside them."""
    assert settings_from(environ)[field] == value


def test_a_wrong_variable_is_named() -> None:
    """The message names the variable and the value."""
    with pytest.raises(SimError, match=r"OLLAMA_SIM_TOKENS_PER_SECOND is 'fast'"):
        settings_from({"OLLAMA_SIM_TOKENS_PER_SECOND": "fast"})
