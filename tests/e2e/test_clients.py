"""The gateway as its users meet it: unmodified clients of three vendors, and curl, against a stack that runs.

Two tiers stand behind it, and keys are asked for. llamabot, with LiteLLM underneath, wants an environment of its own:
`scripts/test_gpu_routing.py` is that test, and is run here where one is named.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anthropic
import httpx
import ollama
import openai
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support.checkout import ROOT
from tests.support.local_stack import Shell, up
from tests.support.waiting import PATIENCE

CHAT, BIG, EMBEDDER = "llama3.2", "deepseek-r1:32b", "nomic-embed-text"
SMALL = "tiny"
HELLO = [{"role": "user", "content": "Hello"}]


@dataclass(frozen=True)
class RunningStack:
    """A gateway that runs, and a key for each scope."""

    url: str
    chat: str
    admin: str
    shell: Shell


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    shell = Shell(tmp_path_factory.mktemp("clients"))
    chat, admin = (shell.ask("keys", "new", name, "--line", "--scope", name) for name in ("chat", "admin"))
    home = shell.home / "om"
    home.mkdir(exist_ok=True)
    (home / "keys").write_text(f"{chat['line']}\n{admin['line']}\n")
    with up(
        shell, "--simulate", "--tier", "a10g", "--tier", "h100", "--fleet", str(ROOT / "app/fleet.toml")
    ) as running:
        for model in (CHAT, BIG, EMBEDDER):
            assert shell.run("pull", model).returncode == 0
        yield RunningStack(running.url, chat["key"], admin["key"], shell)


# -- Ollama's own ------------------------------------------------------------------------------------------------------


@contextmanager
def ollama_client(stack: RunningStack, key: str) -> Iterator[ollama.Client]:
    with ollama.Client(host=stack.url, headers={"Authorization": f"Bearer {key}"}) as client:
        yield client


@pytest.fixture
def client(stack: RunningStack) -> Iterator[ollama.Client]:
    with ollama_client(stack, stack.chat) as client:
        yield client


def test_ollama_chats_and_generates(client: ollama.Client) -> None:
    """Ollama's Python client chats and generates, streamed and whole, and its counters come through."""
    whole = client.chat(CHAT, HELLO)
    pieces = list(client.chat(CHAT, HELLO, stream=True))
    said = client.generate(CHAT, "Hello")

    assert whole.message.content
    assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len(pieces) > 2
    assert pieces[-1].eval_count == whole.eval_count
    assert said.done
    assert said.response


def test_ollama_embeds(client: ollama.Client) -> None:
    """Both of Ollama's ways to embed pass."""
    assert len(client.embed(EMBEDDER, ["one", "two"]).embeddings) == 2
    assert len(client.embeddings(EMBEDDER, "one").embedding) > 0


def test_ollama_lists_and_shows(client: ollama.Client) -> None:
    """Ollama's Python client lists, shows, and sees what is loaded."""
    client.generate(CHAT, "Hello")

    listed = {model.model for model in client.list().models}
    shown = client.show(CHAT)

    assert {f"{CHAT}:latest", BIG, f"{EMBEDDER}:latest"} <= listed
    assert shown.details is not None
    assert shown.details.quantization_level == "Q4_K_M"
    assert shown.capabilities
    assert isinstance(client.ps().models, list | tuple)


def test_ollama_pulls_and_deletes_by_jobs(stack: RunningStack) -> None:
    """Ollama's own pull shows its progress to the end and is a job of the ledger; delete is one too."""
    with ollama_client(stack, stack.admin) as client:
        frames = list(client.pull(SMALL, stream=True))
        kinds = {(job["kind"], job["subject"], job["state"]) for job in stack.shell.ask("jobs")}
        client.delete(SMALL)
        left = {str(model.model).partition(":")[0] for model in client.list().models}

    assert frames[0].status == "pulling manifest"
    assert frames[-1].status == "success"
    assert ("pull", "tiny:latest", "succeeded") in kinds
    assert SMALL not in left


def test_ollama_is_told_what_is_missing(client: ollama.Client) -> None:
    """An unknown model is a ResponseError with status 404, names what is near, and nothing is substituted."""
    with pytest.raises(ollama.ResponseError, match=r"llama3\.2") as refused:
        client.chat("llama3.3", HELLO)
    assert refused.value.status_code == 404


def test_ollama_without_the_scope_is_refused(client: ollama.Client) -> None:
    """A chat key cannot pull or delete."""
    with pytest.raises(ollama.ResponseError, match="scope") as pulling:
        client.pull(SMALL)
    with pytest.raises(ollama.ResponseError, match="scope") as deleting:
        client.delete(CHAT)

    assert (pulling.value.status_code, deleting.value.status_code) == (403, 403)


@pytest.mark.skipif(
    not os.environ.get("OLLAMA_BIN"), reason="OLLAMA_BIN names no real ollama; with one this runs its own command"
)
def test_ollamas_own_command_signs(stack: RunningStack, tmp_path: Path) -> None:
    """Ollama's own command, which can send no key, comes in by its signature: it pulls, lists, runs and removes.

    A copy is another name: to remove it leaves the model.
    """
    folder = tmp_path / ".ollama"
    folder.mkdir()
    private = Ed25519PrivateKey.generate()
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    (folder / "id_ed25519").write_bytes(secret)
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    shell = Shell(tmp_path)
    made = shell.ask("keys", "new", "own", "--line", "--scope", "admin", "--public-key", public)
    (tmp_path / "om").mkdir(exist_ok=True)
    (tmp_path / "om" / "keys").write_text(f"{made['line']}\n")

    def ollama_run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "OLLAMA_HOST": running.url, **more}
        binary = os.environ["OLLAMA_BIN"]
        return subprocess.run(
            [binary, *words], env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE
        )

    with up(shell, "--simulate") as running:
        pulled = ollama_run("pull", SMALL, OLLAMA_AUTH="1")
        listed = ollama_run("list", OLLAMA_AUTH="1")
        said = ollama_run("run", SMALL, "Hello", OLLAMA_AUTH="1")
        copied = ollama_run("cp", SMALL, "mine", OLLAMA_AUTH="1")
        with_copy = ollama_run("list", OLLAMA_AUTH="1")
        shown = ollama_run("show", "mine", OLLAMA_AUTH="1")
        said_by_copy = ollama_run("run", "mine", "Hello", OLLAMA_AUTH="1")
        copy_removed = ollama_run("rm", "mine", OLLAMA_AUTH="1")
        without_copy = ollama_run("list", OLLAMA_AUTH="1")
        removed = ollama_run("rm", SMALL, OLLAMA_AUTH="1")
        unsigned = ollama_run("list")

    assert pulled.returncode == 0, pulled.stderr
    assert "success" in pulled.stderr
    assert f"{SMALL}:latest" in listed.stdout
    assert "simulator" in said.stdout
    assert (copied.returncode, copied.stdout + copied.stderr) == (0, f"copied '{SMALL}' to 'mine'\n")
    assert "mine:latest" in with_copy.stdout
    assert shown.returncode == 0, shown.stderr
    assert said_by_copy.stdout == said.stdout
    assert copy_removed.returncode == 0, copy_removed.stderr
    assert "mine" not in without_copy.stdout
    assert f"{SMALL}:latest" in without_copy.stdout
    assert removed.returncode == 0, removed.stderr
    assert unsigned.returncode != 0
    assert "no key was sent" in unsigned.stderr, "it says why, and not to look into the server's log"


# -- OpenAI ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def openai_client(stack: RunningStack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.chat, max_retries=0) as client:
        yield client


def test_openai_chats(openai_client: openai.OpenAI) -> None:
    """OpenAI's client chats whole, and with usage."""
    answer = openai_client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "Hello"}])

    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_openai_streams(openai_client: openai.OpenAI) -> None:
    """OpenAI's client streams to the finish, in more than one piece."""
    stream = openai_client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "Hello"}],
        stream=True,
        stream_options={"include_usage": True},
    )

    chunks = list(stream)

    said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(said) > 1
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None


def test_openai_embeds(openai_client: openai.OpenAI) -> None:
    """OpenAI's client embeds, in its default encoding."""
    answer = openai_client.embeddings.create(model=EMBEDDER, input=["one", "two"])

    assert [each.index for each in answer.data] == [0, 1]
    assert all(isinstance(each, float) for each in answer.data[0].embedding)


def test_openai_lists_models(openai_client: openai.OpenAI) -> None:
    """OpenAI's client lists the models and retrieves one."""
    assert f"{CHAT}:latest" in {model.id for model in openai_client.models.list()}
    assert openai_client.models.retrieve(BIG).id == BIG


def test_openai_legacy_completions_and_responses(openai_client: openai.OpenAI) -> None:
    """The two other ways of OpenAI to ask pass as well."""
    assert openai_client.completions.create(model=CHAT, prompt="Hello").choices[0].text
    assert openai_client.responses.create(model=CHAT, input="Hello").output_text


def test_openai_errors_have_its_shape(stack: RunningStack, openai_client: openai.OpenAI) -> None:
    """Its errors are the classes that its client knows: not found, not allowed in."""
    with pytest.raises(openai.NotFoundError, match="nothing-like-it"):
        openai_client.chat.completions.create(model="nothing-like-it", messages=[{"role": "user", "content": "x"}])
    with (
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key="omk_wrong", max_retries=0) as unknown_key,
        pytest.raises(openai.AuthenticationError, match="key"),
    ):
        unknown_key.models.list()


# -- Anthropic ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def anthropic_client(stack: RunningStack) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=stack.url, api_key=stack.chat, max_retries=0) as client:
        yield client


def test_anthropic_answers_messages(anthropic_client: anthropic.Anthropic) -> None:
    """Anthropic's client, which sends its key as `x-api-key`, gets a message."""
    message = anthropic_client.messages.create(
        model=CHAT, max_tokens=64, messages=[{"role": "user", "content": "Hello"}]
    )

    assert message.content[0].type == "text"
    assert message.content[0].text
    assert message.usage.output_tokens > 0


def test_anthropic_streams(anthropic_client: anthropic.Anthropic) -> None:
    """Anthropic's client streams to its last event."""
    with anthropic_client.messages.stream(
        model=CHAT, max_tokens=64, messages=[{"role": "user", "content": "Hello"}]
    ) as stream:
        said = list(stream.text_stream)
        message = stream.get_final_message()

    assert len(said) > 1
    assert message.stop_reason is not None


def test_anthropic_errors_have_its_shape(anthropic_client: anthropic.Anthropic) -> None:
    """Its errors are the classes that its client knows."""
    with pytest.raises(anthropic.NotFoundError, match="nothing-like-it"):
        anthropic_client.messages.create(
            model="nothing-like-it", max_tokens=8, messages=[{"role": "user", "content": "x"}]
        )


# -- curl, and who answered --------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl is on PATH; with one this runs")
def test_curl_asks_as_the_readme_says(stack: RunningStack) -> None:
    """A stream of lines comes to curl, and the headers say who answered."""
    done = subprocess.run(
        ["curl", "-sS", "-i", "-N", "-H", f"Authorization: Bearer {stack.chat}", f"{stack.url}//api/chat/", "-d",
         json.dumps({"model": CHAT, "messages": HELLO})],
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip

    head, _, body = done.stdout.partition("\n\n")
    assert head.startswith("HTTP/1.1 200")
    assert "x-served-tier: a10g" in head
    assert json.loads(body.splitlines()[-1])["done"] is True


@pytest.mark.parametrize(("model", "tier"), [(CHAT, "a10g"), (BIG, "h100")])
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/api/chat", {"messages": HELLO, "stream": False}),
        ("/v1/chat/completions", {"messages": HELLO}),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 8}),
    ],
)
def test_each_model_is_answered_by_its_tier(
    stack: RunningStack, model: str, tier: str, path: str, asked: dict[str, object]
) -> None:
    """Each dialect reaches the tier that the fleet declares for a model, and the answer names tier and model."""
    answer = httpx.post(
        stack.url + path, json={"model": model, **asked}, headers={"x-api-key": stack.chat}, timeout=PATIENCE
    )

    assert answer.status_code == 200, answer.text
    assert answer.headers["x-served-tier"] == tier
    assert answer.headers["x-served-model"] == (model if ":" in model else f"{model}:latest")


@pytest.mark.skipif(
    not os.environ.get("LLAMABOT_PYTHON"),
    reason="LLAMABOT_PYTHON names no interpreter that has llamabot and httpx; with one this runs",
)
def test_llamabot_reaches_the_right_gpu(stack: RunningStack) -> None:
    """llamabot, over LiteLLM's `ollama_chat/`, is answered by the tier that each model belongs to."""
    done = subprocess.run(
        [os.environ["LLAMABOT_PYTHON"], str(ROOT / "scripts/test_gpu_routing.py"), "--url", stack.url],
        env={"PATH": os.environ["PATH"], "OLLAMA_MODAL_KEY": stack.admin},
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{CHAT} was answered by a10g" in done.stdout
    assert f"{BIG} was answered by h100" in done.stdout


def test_the_routing_script_refuses_a_call_without_an_address() -> None:
    """Without a URL the script says what to give, and exits with 2."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/test_gpu_routing.py")],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )

    assert done.returncode == 2
    assert "OLLAMA_MODAL_URL" in done.stderr
