"""The client of a llama-server, against the real engine: what a model can do, tokens, a vector, a score."""

from collections.abc import Iterator

import pytest

from jobs.core.errors import BadRequest, NotFound, Unsupported
from jobs.core.retry import NEVER
from jobs.ollama.llama_server import LlamaServerClient
from jobs.testing.toy_models import all_toys
from jobs.testing.toy_weights import PHRASE
from tests.support.llama_hosts import needs_engine, toy_host

pytestmark = needs_engine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServerClient]:
    with (
        toy_host(tmp_path_factory.mktemp("host"), *all_toys(), OLLAMA_MAX_LOADED_MODELS="3") as host,
        LlamaServerClient(host.url, policy=NEVER) as client,
    ):
        yield client


def test_a_model_is_loaded_told_of_and_unloaded(server: LlamaServerClient) -> None:
    """What is in memory is asked of the host as of an Ollama."""
    server.load("toy")
    running = server.running("toy")
    server.unload("toy")

    assert running is not None
    assert running.size > 0
    assert server.running("toy") is None
    assert server.version().startswith("b")
    with pytest.raises(NotFound, match="nobody"):
        server.load("nobody")


@pytest.mark.parametrize(
    ("name", "ability"), [("toy", "completion"), ("toy-embed", "embedding"), ("toy-rerank", "rerank")]
)
def test_what_a_model_can_do_is_found_out(server: LlamaServerClient, name: str, ability: str) -> None:
    """An engine does what its model is for, and says of anything else that it does not."""
    assert server.capabilities(name) == (ability,)


def test_tokens_come_one_by_one_and_are_counted(server: LlamaServerClient) -> None:
    """A prompt is continued for as many tokens as were asked for, and the last frame says how many and how fast."""
    frames = list(server.generate("toy", "hello", options={"num_predict": 4}))
    whole = "".join(frame.text for frame in server.generate("toy", "hello"))

    assert [frame.done for frame in frames].count(True) == 1
    assert frames[-1].usage.tokens == 4
    assert frames[-1].usage.tokens_per_second > 0
    assert whole.strip() == PHRASE


def test_a_chat_comes_in_pieces(server: LlamaServerClient) -> None:
    """Its last frame says why it ended and what it cost; a format is asked for in the engine's own words."""
    talk = [{"role": "user", "content": "hello"}]
    frames = list(server.chat("toy", talk, more={"think": False}))
    shaped = "".join(frame.text for frame in server.chat("toy", talk, more={"format": {"enum": ["yes"]}}))

    assert "".join(frame.text for frame in frames) == PHRASE
    assert (frames[-1].done, frames[-1].done_reason, frames[-1].usage.tokens) == (True, "stop", 9)
    assert frames[-1].usage.prompt_tokens > 0
    assert shaped == '"yes"'


def test_vectors_and_scores(server: LlamaServerClient) -> None:
    """What embeds gives a vector, what ranks a score; what does neither says so."""
    assert server.embed("toy-embed", "hello") == 64
    assert isinstance(server.rank("toy-rerank", "hello", "hello"), float)
    with pytest.raises(Unsupported, match="does not support"):
        server.embed("toy", "hello")


def test_a_prompt_that_does_not_fit_is_refused(server: LlamaServerClient) -> None:
    """It is an error with llama.cpp's own words, and no prompt that was cut."""
    with pytest.raises(BadRequest, match="exceeds the available context"):
        list(server.generate("toy", "hello " * 20_000))
