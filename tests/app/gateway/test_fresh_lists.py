"""What is loaded is told as it is at this moment, by `/api/ps` and the page, over real sockets."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.gateway.catalog.sources import Directory
from app.model_server.report import Report
from jobs.testing.models import LIBRARY
from jobs.testing.ollama.server import OllamaDouble
from jobs.weights.layout import Layout
from tests.support.dialects import OLLAMA, OPENAI, Dialect, each_dialect, whole_answer
from tests.support.gateways import A10G_TIER, CLOCK, RunningGateway, asked, gateway
from tests.support.models_directory import lay
from tests.support.scripted_server import Connection, HeardRequest, HeldServer, ScriptedServer
from tests.support.waiting import PATIENCE

MODELS = [each for each in LIBRARY if each.name.model in {"tiny", "llama3.2", "nomic-embed-text"}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    lay(folder, *MODELS)
    return folder


@pytest.fixture
def double(models: Path) -> Iterator[OllamaDouble]:
    with OllamaDouble(models) as started:
        yield started


@pytest.fixture
def here(double: OllamaDouble, models: Path, tmp_path: Path) -> Iterator[RunningGateway]:
    """On one machine; nobody reports, and nothing is read again by itself."""
    with gateway(tmp_path, {"local": double.url}, source=Directory(Layout(models)), rented=False) as running:
        yield running


def ps(url: str) -> list[dict[str, Any]]:
    return list(httpx.get(f"{url}/api/ps", timeout=PATIENCE).json()["models"])


def on_the_page(running: RunningGateway, tier: str) -> list[str]:
    tiers = httpx.get(f"{running.url}/ops/v1/board", timeout=PATIENCE).json()["tiers"]
    return [each["name"] for container in tiers.get(tier, {}).get("containers", ()) for each in container["loaded"]]


def post(running: RunningGateway, path: str, **body: Any) -> httpx.Response:
    answer = httpx.post(running.url + path, json={"stream": False, **body}, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    return answer


def same(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """All fields but that times may be written in another zone."""
    at = [datetime.fromisoformat(each["expires_at"]) for each in (mine, theirs)]
    return {**mine, "expires_at": 0} == {**theirs, "expires_at": 0} and abs(at[0] - at[1]) < timedelta(seconds=1)


@each_dialect
def test_on_one_machine_a_load_is_told_at_once(here: RunningGateway, double: OllamaDouble, dialect: Dialect) -> None:
    """After an answer in any dialect the next list says what the server itself says, in every field."""
    assert asked(here, dialect, model="tiny").status_code == 200
    (mine,), (theirs,) = ps(here.url), ps(double.url)
    assert same(mine, theirs)
    assert on_the_page(here, "local") == ["tiny:latest"]


def test_on_one_machine_an_embedding_is_a_load(here: RunningGateway, double: OllamaDouble) -> None:
    """By any of the three routes."""
    for path, field in (("/api/embed", "input"), ("/api/embeddings", "prompt"), ("/v1/embeddings", "input")):
        post(here, path, model="nomic-embed-text", **{field: "hello"})
        assert [same(*pair) for pair in zip(ps(here.url), ps(double.url), strict=True)] == [True]


@pytest.mark.parametrize(
    "body",
    [{"keep_alive": 0}, {"prompt": "one word", "keep_alive": 0}, {"prompt": "", "keep_alive": "0s"}],
    ids=["stop", "last", "seconds"],
)
def test_on_one_machine_an_unload_is_told_at_once(here: RunningGateway, body: dict[str, Any]) -> None:
    """As `ollama stop` does it, and with the last words of an answer; what else is loaded stays."""
    for name in ("tiny", "llama3.2"):
        post(here, "/api/generate", model=name, prompt="hello")
    assert len(ps(here.url)) == 2
    post(here, "/api/generate", model="tiny", **body)
    assert [each["name"] for each in ps(here.url)] == ["llama3.2:latest"]
    assert on_the_page(here, "local") == ["llama3.2:latest"]


def test_on_one_machine_a_change_past_the_gateway_is_told(here: RunningGateway, double: OllamaDouble) -> None:
    """What others ask of the server itself is in the next list that is not asked for in the same moment."""
    httpx.post(f"{double.url}/api/generate", json={"model": "tiny", "prompt": "x", "stream": False}, timeout=PATIENCE)
    assert [each["name"] for each in ps(here.url)] == ["tiny:latest"]


# -- on rented servers -------------------------------------------------------------------------------------------------


@each_dialect
def test_on_a_platform_a_load_is_told_without_asking(tmp_path: Path, dialect: Dialect) -> None:
    """The gateway knows what it has just loaded; the list and the page cost the server nothing, and wake nothing."""
    fields: dict[str, Any] = {"options": {"num_ctx": 1024}, "keep_alive": "9m"} if dialect is OLLAMA else {}
    with (
        ScriptedServer(whole_answer) as server,
        gateway(tmp_path, {"a10g": server.url}, tiers=[A10G_TIER]) as running,
    ):
        assert (ps(running.url), server.heard) == ([], [])  # asleep, and left so
        assert asked(running, dialect, **fields).status_code == 200
        heard = len(server.heard)
        (entry,) = ps(running.url)
        assert (entry["name"], entry["size"], entry["size_vram"]) == ("llama3.2:latest", 1_000_000, 1_000_000)
        assert entry["context_length"] == (1024 if fields else 8192)
        left = datetime.fromisoformat(entry["expires_at"]) - datetime.now(UTC)
        assert timedelta(minutes=8 if fields else 4) < left <= timedelta(minutes=9 if fields else 5)
        assert on_the_page(running, "a10g") == ["llama3.2:latest"]
        assert len(server.heard) == heard


def _unloads(heard: HeardRequest, line: Connection) -> None:
    if heard.path == "/api/generate":
        line.document({"done": True, "done_reason": "unload"})
    else:
        whole_answer(heard, line)


def test_on_a_platform_an_unload_is_told(tmp_path: Path) -> None:
    """By `ollama stop`, with one server up."""
    with ScriptedServer(_unloads) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        report = Report("a10g", "c1", "serving", CLOCK.now())
        running.facts.put(report.key, report.as_json())
        assert running.known_state.refresh()
        asked(running, OPENAI)
        assert [each["name"] for each in ps(running.url)] == ["llama3.2:latest"]
        httpx.post(f"{running.url}/api/generate", json={"model": "llama3.2", "keep_alive": 0}, timeout=PATIENCE)
        assert ps(running.url) == []


def test_a_refused_request_loads_nothing(tmp_path: Path) -> None:
    """What a server refuses is in no list, also where it was to be unloaded."""

    def refuses(_: HeardRequest, line: Connection) -> None:
        line.document({"error": "no"}, 400)

    with (
        ScriptedServer(refuses, opening=refuses) as server,
        gateway(tmp_path, {"a10g": server.url}, startup=3) as running,
    ):
        for body in ({"keep_alive": 0}, {"prompt": "x", "keep_alive": 0}, {"prompt": "x"}):
            httpx.post(f"{running.url}/api/generate", json={"model": "llama3.2", **body}, timeout=PATIENCE)
            assert ps(running.url) == []


def test_a_tier_that_went_to_sleep_has_nothing_loaded(tmp_path: Path) -> None:
    """It is found asleep by the next request, while its last report still says what it had."""
    held_server = HeldServer(awake=True)
    with (
        ScriptedServer(whole_answer, opening=held_server) as server,
        gateway(tmp_path, {"a10g": server.url}, startup=3) as running,
    ):
        asked(running, OLLAMA)
        assert len(ps(running.url)) == 1
        held_server.awake.clear()
        server.close()
        assert asked(running, OLLAMA).status_code == 503
        assert ps(running.url) == []
