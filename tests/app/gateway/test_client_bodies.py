"""What real client libraries send is answered by the gateway as by the server behind it, to the letter."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from jobs.access.keys.proofs import hash_of, new_key
from jobs.testing.models import LIBRARY
from jobs.testing.ollama.server import OllamaDouble
from tests.support.client_bodies import EMBEDDER, MODEL, THINKER, ClientBody, client_bodies
from tests.support.gateways import ModelList, RunningGateway, gateway, model
from tests.support.models_directory import lay
from tests.support.waiting import PATIENCE

CHAT_KEY, ADMIN_KEY = new_key(), new_key()

_CHANCE = frozenset(
    {"id", "created", "created_at", "completed_at", "item_id", "call_id", "total_duration", "load_duration",
     "prompt_eval_duration", "eval_duration"}
)  # fmt: skip
"""What differs from answer to answer."""


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaDouble]:
    folder = tmp_path_factory.mktemp("models")
    for each in LIBRARY:
        if str(each.name).removesuffix(":latest") in (MODEL, THINKER, EMBEDDER):
            lay(folder, each)
    with OllamaDouble(folder) as started:
        yield started


@pytest.fixture(scope="module")
def running(double: OllamaDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    models = ModelList([model(MODEL), model(THINKER), model(EMBEDDER)])
    folder, keys = (
        tmp_path_factory.mktemp("gateway"),
        f"alice {hash_of(CHAT_KEY)} chat\nroot {hash_of(ADMIN_KEY)} chat admin",
    )
    with gateway(folder, {"local": double.url}, source=models, keys=keys) as gate:
        yield gate


def answered(url: str, sent: ClientBody) -> tuple[int, str, list[Any]]:
    """Status, kind, and what was said: a document, lines of them, or events."""
    unloads = sent.body.get("keep_alive") == 0  # which concerns all who use the model
    headers = {"Authorization": f"Bearer {ADMIN_KEY if unloads else CHAT_KEY}"}
    answer = httpx.post(url + sent.path, json=sent.body, headers=headers, timeout=PATIENCE)
    kind = answer.headers["content-type"]
    if kind.startswith("application/json"):
        return answer.status_code, kind, [_without_chance(answer.json())]
    lines = [line for line in answer.text.splitlines() if line and not line.startswith(":")]
    return answer.status_code, kind, [_line(line) for line in lines]


def _line(line: str) -> Any:
    begins, _, rest = line.partition("data: ") if line.startswith("data: ") else ("", "", line)
    return _without_chance(json.loads(rest)) if rest.startswith("{") else begins + rest


def _without_chance(said: Any) -> Any:
    if isinstance(said, dict):
        return {key: "…" if key in _CHANCE else _without_chance(each) for key, each in said.items()}
    return [_without_chance(each) for each in said] if isinstance(said, list) else said


def test_each_interface_is_in_the_table() -> None:
    """Native, OpenAI's two kinds and Anthropic's, from a dozen clients."""
    sent = client_bodies()

    assert {each.path for each in sent} >= {
        "/api/chat", "/api/generate", "/api/embed", "/v1/chat/completions", "/v1/responses", "/v1/messages",
    }  # fmt: skip
    assert len({each.client for each in sent}) >= 12


@pytest.mark.parametrize("sent", client_bodies(), ids=str)
def test_a_clients_request_is_answered_as_by_the_server(
    sent: ClientBody, double: OllamaDouble, running: RunningGateway
) -> None:
    """A key that may chat is enough; status, kind and every field are the same, of a missing model only the status."""
    through, straight = answered(running.url, sent), answered(double.url, sent)

    assert through[0] == straight[0] == (200 if sent.is_for_one_that_is_here else 404)
    if sent.is_for_one_that_is_here:
        assert through == straight
