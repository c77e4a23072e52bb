"""`up` where no Ollama is: llama.cpp answers for real, with toy weights from the registry double."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from app.fleet.file import FLEET_FILE
from app.gateway.upstream.holding import HoldTiming
from jobs.testing.registry.server import RegistryDouble
from jobs.testing.toy_models import all_toys, toy
from jobs.testing.toy_weights import PHRASE, speaker
from tests.support.llama_hosts import engines_below, needs_engine, said_in
from tests.support.local_stack import Shell, Up, family, simulator_as_ollama, up
from tests.support.processes import is_running
from tests.support.waiting import PATIENCE, least, until

pytestmark = needs_engine

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
DOCUMENTS = ["tea", "the garden of the panda", "a panda eats bamboo, and a panda sleeps"]


@dataclass(frozen=True)
class Stack:
    """A running `up`, its shell and its registry."""

    shell: Shell
    up: Up
    registry: RegistryDouble

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(self.up.url + path, json=body, timeout=PATIENCE)

    def chat(self, model: str, **more: Any) -> httpx.Response:
        return self.post("/v1/chat/completions", {"model": model, "messages": HELLO, **more})

    @property
    def host(self) -> int:
        """The pid of the host process."""
        [pid] = [each for each in family(self.up.process.pid) if command_of(each)[-1:] == ["app.llama_host"]]
        return pid

    def loaded(self) -> list[str]:
        return [model["name"] for model in httpx.get(f"{self.up.url}/api/ps", timeout=PATIENCE).json()["models"]]


def command_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All toys, pulled through the queue."""
    home = tmp_path_factory.mktemp("home")
    with RegistryDouble(all_toys()) as registry:
        shell = Shell(home, {"PATH": "/usr/bin:/bin", "OLLAMA_MODAL_REGISTRY": registry.url})
        with up(shell, "--models", str(home / "models")) as running:
            names = [str(model.name) for model in all_toys()]
            assert shell.run("pull", *names).returncode == 0
            yield Stack(shell, running, registry)


def test_the_main_job_is_done_for_real(stack: Stack) -> None:
    """Pulled, verified, warmed with tokens a second, listed as loaded; `status` names the engine."""
    assert shutil.which("ollama", path="/usr/bin:/bin") is None, "an Ollama is there, which up prefers"
    assert stack.shell.run("verify", "toy").returncode == 0
    warmed = stack.shell.ask("warm", "toy")["result"]
    assert (warmed["proved_by"], warmed["on_gpu"]) == ("tokens", False)
    assert warmed["tokens_per_second"] > 0
    assert stack.shell.ask("warm", "toy-embed")["result"]["proved_by"] == "an embedding"
    assert stack.shell.ask("warm", "toy-rerank")["result"]["proved_by"] == "a score"
    until(lambda: "toy:latest" in stack.loaded())
    assert "answers, llama-server b" in stack.shell.run("status").stdout


def test_clients_of_openai_work_unmodified(stack: Stack) -> None:
    """Chats, streams with their usage, tools, completions, embeddings and responses, by OpenAI's own client."""
    client = openai.OpenAI(base_url=f"{stack.up.url}/v1", api_key="none", timeout=PATIENCE)
    chatted = client.chat.completions.create(model="toy", messages=HELLO)
    assert (chatted.choices[0].message.content, chatted.model) == (PHRASE, "toy:latest")
    assert chatted.usage is not None
    assert chatted.usage.completion_tokens == 9
    stream = client.chat.completions.create(
        model="toy", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(each.choices[0].delta.content or "" for each in chunks if each.choices) == PHRASE
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 9
    called = client.chat.completions.create(model="toy:tools", messages=HELLO, tools=[WEATHER]).choices[0].message
    assert called.tool_calls is not None
    assert called.tool_calls[0].function.arguments == '{"city": "Paris"}'  # type: ignore[union-attr]
    assert client.completions.create(model="toy", prompt="hello").choices[0].text.strip() == PHRASE
    assert len(client.embeddings.create(model="toy-embed", input="hello").data[0].embedding) == 64
    assert client.responses.create(model="toy", input="hello").output_text == PHRASE
    with pytest.raises(openai.NotFoundError, match="nope"):
        client.chat.completions.create(model="nope", messages=HELLO)


def test_clients_of_anthropic_work_unmodified(stack: Stack) -> None:
    """Messages, whole and streamed, and their count of tokens, by Anthropic's own client."""
    client = anthropic.Anthropic(base_url=stack.up.url, api_key="none", timeout=PATIENCE)
    said = client.messages.create(model="toy", max_tokens=50, messages=HELLO)
    assert said.content[0].text == PHRASE  # type: ignore[union-attr]
    assert said.usage.output_tokens == 9
    with client.messages.stream(model="toy", max_tokens=50, messages=HELLO) as stream:
        assert "".join(stream.text_stream) == PHRASE
    assert client.messages.count_tokens(model="toy", messages=HELLO).input_tokens > 5


def test_batches_of_openais_client_are_answered_for_real(stack: Stack) -> None:
    """Three hundred lines, by OpenAI's own client: each is answered once, in the order of the file, with its tokens."""
    client = openai.OpenAI(base_url=f"{stack.up.url}/v1", api_key="none", timeout=PATIENCE)
    lines = [batch_line(str(n), {"model": "toy", "messages": HELLO, "max_tokens": 30}) for n in range(300)]
    file = client.files.create(file=("lines.jsonl", b"".join(lines)), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", extra_body={"start": "now"}
    )
    until(lambda: client.batches.retrieve(batch.id).status not in {"validating", "in_progress", "finalizing"})
    batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.errors) == ("completed", None)
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (300, 300, 0)
    assert batch.output_file_id is not None
    assert batch.error_file_id is None
    answers = [json.loads(each) for each in client.files.content(batch.output_file_id).text.splitlines()]
    assert [each["custom_id"] for each in answers] == [str(n) for n in range(300)]
    bodies = [each["response"]["body"] for each in answers]
    assert {each["choices"][0]["message"]["content"] for each in bodies} == {PHRASE}
    assert {each["usage"]["completion_tokens"] for each in bodies} == {9}


def test_batches_of_anthropics_client_are_answered_for_real(stack: Stack) -> None:
    """Messages of a batch, by Anthropic's own client, and its results as that reads them."""
    client = anthropic.Anthropic(base_url=stack.up.url, api_key="none", timeout=PATIENCE)
    params: Any = {"model": "toy", "max_tokens": 50, "messages": HELLO}
    batch = client.messages.batches.create(requests=[{"custom_id": str(n), "params": params} for n in range(20)])
    until(lambda: client.messages.batches.retrieve(batch.id).processing_status == "ended")
    results = list(client.messages.batches.results(batch.id))
    assert [each.custom_id for each in results] == [str(n) for n in range(20)]
    assert {each.result.type for each in results} == {"succeeded"}
    assert {each.result.message.content[0].text for each in results} == {PHRASE}  # type: ignore[union-attr]


def batch_line(custom_id: str, body: Any) -> bytes:
    """A line of a batch of chats."""
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line).encode() + b"\n"


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl is on PATH; with one this runs")
def test_documents_are_ranked_with_curl(stack: Stack) -> None:
    """`/v1/rerank`, which Ollama has not: the documents that share the query's words come first."""
    body = json.dumps({"model": "toy-rerank", "query": "panda bamboo", "documents": DOCUMENTS})
    done = subprocess.run(
        ["curl", "-sS", f"{stack.up.url}/v1/rerank", "-d", body], capture_output=True, text=True, check=True
    )
    results = json.loads(done.stdout)["results"]
    assert [each["index"] for each in sorted(results, key=lambda each: -each["relevance_score"])] == [2, 1, 0]


def test_routes_of_ollama_are_refused_before_a_load(stack: Stack) -> None:
    """What this engine does not speak is refused with what to ask instead, and nothing is loaded for it."""
    before = set(engines_below(stack.host))
    answer = stack.post("/api/chat", {"model": "toy:system", "messages": HELLO})
    assert answer.status_code == 501
    assert "/v1/chat/completions" in answer.json()["error"]
    assert set(engines_below(stack.host)) == before


def test_the_commands_ask_as_the_engine_is_asked(stack: Stack) -> None:
    """`run` answers, and tells what it cost, `show` and `ps` say what the model is and where."""
    done = stack.shell.run("run", "toy", "hello")
    assert (done.returncode, done.stdout.strip()) == (0, PHRASE), done.stderr
    told = stack.shell.ask("run", "toy", "hello")
    assert (told["response"], told["output_tokens"], told["done_reason"]) == (PHRASE, 9, "stop")
    assert told["prompt_tokens"] > 5
    assert re.search(r"(?m)^    architecture +llama$", stack.shell.run("show", "toy").stdout)
    until(lambda: re.search(r"(?m)^toy:latest .*100% CPU", stack.shell.run("ps").stdout))


def test_what_was_asked_is_counted(stack: Stack) -> None:
    """Tokens of streams and of whole answers stand in the usage of the model."""

    def tokens() -> int:
        rows = httpx.get(f"{stack.up.url}/ops/v1/usage", timeout=PATIENCE).json()["usage"]
        return sum(row["output_tokens"] for row in rows if row["model"] == "toy:latest")

    before = tokens()
    stack.chat("toy")
    said = stack.chat("toy", stream=True).text
    assert said_in(said) == PHRASE
    until(lambda: tokens() - before >= 18)


def test_a_killed_engine_costs_its_answers_alone(stack: Stack) -> None:
    """A stream whose engine is killed does not end as a whole one does; the next request gets a new engine."""
    endless = {"model": "toy:endless", "messages": HELLO, "stream": True}
    with httpx.stream("POST", f"{stack.up.url}/v1/chat/completions", json=endless, timeout=PATIENCE) as answer:
        lines = answer.iter_lines()
        next(lines)
        killed = engines_below(stack.host)["toy:endless"]
        os.kill(killed, signal.SIGKILL)
        try:
            rest = "\n".join(lines)
        except httpx.RemoteProtocolError:
            rest = ""
    assert "[DONE]" not in rest
    assert stack.chat("toy:endless", max_tokens=2).status_code == 200
    assert engines_below(stack.host)["toy:endless"] != killed


def test_a_killed_host_is_started_again(stack: Stack) -> None:
    """Its engines end with it; `up` starts another and tells of it; models are loaded again as they are asked for."""
    assert stack.chat("toy").status_code == 200
    host, engines = stack.host, list(engines_below(stack.host).values())
    os.kill(host, signal.SIGKILL)
    until(lambda: not any(map(is_running, engines)))
    until(lambda: stack.chat("toy").status_code == 200)
    assert stack.host != host
    assert any(f"(pid {host}) ended by SIGKILL" in problem for problem in stack.shell.ask("status")["problems"])


def test_new_weights_are_answered_with(stack: Stack) -> None:
    """After a pull of a newer version, the next request is answered by its weights; a rollback brings the old ones."""
    stack.registry.put(toy("toy:moving", speaker("the first version"), "completion"))
    assert stack.shell.run("pull", "toy:moving").returncode == 0
    assert stack.chat("toy:moving").json()["choices"][0]["message"]["content"] == "the first version"
    stack.registry.put(toy("toy:moving", speaker("the second one"), "completion"))
    assert stack.shell.run("pull", "toy:moving").returncode == 0
    assert stack.chat("toy:moving").json()["choices"][0]["message"]["content"] == "the second one"
    assert stack.shell.run("rollback", "toy:moving").returncode == 0
    assert stack.chat("toy:moving").json()["choices"][0]["message"]["content"] == "the first version"


def test_a_load_is_told_by_its_phases(stack: Stack) -> None:
    """The load that a request waited for stands in the list of cold starts, with phases that add up."""
    stack.registry.put(toy("toy:cold", speaker("cold"), "completion"))
    assert stack.shell.run("pull", "toy:cold").returncode == 0
    with ThreadPoolExecutor(1) as pool:
        os.kill(stack.host, signal.SIGSTOP)  # toys are loaded in less than what counts as a load
        try:
            asking = pool.submit(stack.chat, "toy:cold")
            time.sleep(2 * HoldTiming().real_load_seconds)
        finally:
            os.kill(stack.host, signal.SIGCONT)
        assert asking.result().status_code == 200

    def found() -> list[Any]:
        return [each for each in stack.shell.ask("cold") if each["model"] == "toy:cold"]

    [record] = until(found)
    assert record["kind"] == "load"
    assert sum(record["seconds"].values()) == pytest.approx(record["total_seconds"], abs=0.01)


def resident(pid: int) -> int:
    """Bytes of memory that are its own and those of all below it."""
    pages = [Path(f"/proc/{each}/statm").read_text().split() for each in family(pid)]
    return sum(int(each[1]) - int(each[2]) for each in pages) * os.sysconf("SC_PAGESIZE")


def test_memory_stays_flat_over_a_thousand_requests(stack: Stack) -> None:
    """Gateway, host and engine together grow by no more than a few megabytes while they answer a thousand."""

    def asks(count: int) -> None:
        body = {"model": "toy", "messages": HELLO, "max_tokens": 2}
        with httpx.Client(timeout=PATIENCE) as client:
            for _ in range(count):
                client.post(f"{stack.up.url}/v1/chat/completions", json=body).raise_for_status()

    def growth() -> float:
        before = resident(stack.up.process.pid)
        list(pool.map(asks, [250] * 4))
        return resident(stack.up.process.pid) - before

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(asks, [50] * 4))
        # What is done once, as late as a busy machine comes to it, is no growth by requests: that is there each time.
        assert least(growth, 12_000_000) < 12_000_000


def test_a_tier_may_have_it_beside_an_ollama(tmp_path: Path) -> None:
    """`engine = "llama-server"` of a fleet file starts the built-in engine for that tier, the Ollama for the others."""
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(FLEET_FILE.read_text().replace("[tiers.h100]\n", '[tiers.h100]\nengine = "llama-server"\n'))
    with RegistryDouble(all_toys()) as registry:
        programs = simulator_as_ollama(tmp_path / "bin", registry.url)
        path = f"{programs}:/usr/bin:/bin"
        shell = Shell(tmp_path, {"PATH": path, "OLLAMA_MODAL_REGISTRY": registry.url})
        with up(shell, "--models", str(tmp_path / "models"), "--fleet", str(fleet)) as running:
            tiers = httpx.get(f"{running.url}/ops/v1/tiers", timeout=PATIENCE).json()["tiers"]
            assert {tier["tier"]: tier["engine"] for tier in tiers} == {"a10g": "ollama", "h100": "llama-server"}
            assert shell.run("pull", "toy-rerank").returncode == 0
            body = {"model": "toy-rerank", "query": "panda", "documents": DOCUMENTS}
            answer = httpx.post(f"{running.url}/v1/rerank", json=body, timeout=PATIENCE)
            assert (answer.status_code, answer.headers["x-served-tier"]) == (200, "h100")
