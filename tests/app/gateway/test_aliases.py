"""Other names for models at the gateway: answered under the name that was asked, counted under the model's own.

Before the simulator, which answers with the name that it is asked, as Ollama does.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.gateway.inference.answer_name import AnswerName
from app.gateway.protocol.forms import field_of
from jobs.access.keys.proofs import hash_of
from jobs.core.clock import SystemClock
from jobs.models.aliases import FLEET
from jobs.store import keys
from jobs.store.sqlite import SqliteDict
from jobs.testing.models import LIBRARY
from jobs.testing.ollama.server import OllamaDouble
from jobs.testing.registry.server import RegistryDouble
from tests.support.dialects import TALK, Dialect, each_dialect, error_of
from tests.support.gateways import ModelList, RunningGateway, asked, gateway, model
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE

ALIASES = {"gpt-4o": "tiny", "claude-*": "llama3.2", "embedder": "nomic-embed-text", "gone": "deepseek-r1:32b"}
CLOCK = SystemClock()
NAMES = re.compile(r'"model":"([^"]*)"')


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaDouble]:
    folder = tmp_path_factory.mktemp("models")
    with RegistryDouble(LIBRARY) as registry, OllamaDouble(folder, registry=registry.url) as started:
        for name in ("tiny", "llama3.2", "nomic-embed-text"):
            pulled = httpx.post(f"{started.url}/api/pull", json={"model": name, "stream": False}, timeout=PATIENCE)
            assert pulled.json() == {"status": "success"}
        yield started


def here() -> ModelList:
    return ModelList([model("tiny"), model("llama3.2"), model("nomic-embed-text")])


@pytest.fixture
def running(double: OllamaDouble, tmp_path: Path) -> Iterator[RunningGateway]:
    with gateway(tmp_path, {"local": double.url}, source=here(), aliases=ALIASES) as gate:
        yield gate


def get(running: RunningGateway, path: str, key: str = "") -> Any:
    return httpx.get(f"{running.url}{path}", headers={"x-api-key": key} if key else {}, timeout=PATIENCE).json()


def post(running: RunningGateway, path: str, body: Any, key: str = "", method: str = "POST") -> httpx.Response:
    headers = {"x-api-key": key} if key else {}
    return httpx.request(method, f"{running.url}{path}", json=body, headers=headers, timeout=PATIENCE)


# -- answers -----------------------------------------------------------------------------------------------------------


@each_dialect
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ["gpt-4o", "GPT-4O:latest", " gpt-4o "])
def test_an_answer_has_the_name_that_was_asked(
    running: RunningGateway, dialect: Dialect, stream: bool, name: str
) -> None:
    """Streamed or not, each `model` is the caller's own word, the header tells what served, and that is counted."""
    whole = asked(running, dialect, model="tiny", stream=stream)
    response = asked(running, dialect, model=name, stream=stream)

    assert response.status_code == 200
    said = [each for each in NAMES.findall(response.text) if each]
    assert set(said) == {name.strip()}
    assert len(said) == len([each for each in NAMES.findall(whole.text) if each])
    assert (response.headers["x-served-model"], response.headers["x-served-tier"]) == ("tiny:latest", "local")
    (row,) = running.rows(2)
    assert (row.about.model, row.about.ending, row.sums.count) == ("tiny:latest", "success", 2)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/embed", {"input": ["one", "two"]}),
        ("/api/embeddings", {"prompt": "one"}),
        ("/v1/embeddings", {"input": ["one", "two"]}),
        ("/api/generate", {"prompt": "", "stream": False}),
        ("/v1/completions", {"prompt": "Hello"}),
    ],
)
def test_every_route_finds_the_model(running: RunningGateway, path: str, body: dict[str, Any]) -> None:
    """So does each route with one document for an answer, wherever in it the name stands."""
    name = "embedder" if "embed" in path else "gpt-4o"
    response = post(running, path, {"model": name, **body})

    assert response.status_code == 200
    assert response.json().get("model", name) == name
    assert response.headers["x-served-model"] in {"nomic-embed-text:latest", "tiny:latest"}


def test_an_answer_to_a_models_own_name_passes_as_it_came(tmp_path: Path) -> None:
    """Where no alias is asked for, neither the request nor the answer changes by a byte, names in it included."""
    frame = b'{"model":"tiny:latest","response":"gpt-4o","done":true}\n'

    def script(_: HeardRequest, line: Connection) -> None:
        line.head(200, "application/x-ndjson", f"Content-Length: {len(frame)}")
        line.send(frame)

    body = b'{ "model" :"Tiny","prompt":"x", "options": {} }'
    with ScriptedServer(script) as scripted:
        with gateway(tmp_path, {"a10g": scripted.url}, source=here(), aliases=ALIASES) as running:
            response = httpx.post(f"{running.url}/api/generate", content=body, timeout=PATIENCE)
        assert response.content == frame
        assert response.headers["content-length"] == str(len(frame))
        assert scripted.asked[-1].body == body


def test_a_form_is_sent_on_with_the_models_name(tmp_path: Path) -> None:
    """Of a form only the one field changes."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.document({"text": "hello"})

    form = (
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nclaude-3\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nclaude-3\r\n--b--\r\n'
    )
    head = {"content-type": "multipart/form-data; boundary=b"}
    with ScriptedServer(script) as scripted:
        with gateway(tmp_path, {"a10g": scripted.url}, source=here(), aliases=ALIASES) as running:
            url = f"{running.url}/v1/audio/transcriptions"
            response = httpx.post(url, content=form, headers=head, timeout=PATIENCE)
        assert (response.status_code, response.json()) == (200, {"text": "hello"})
        assert scripted.asked[-1].body == form.replace(b"claude-3", b"llama3.2:latest", 1)
    assert field_of(form, [(b"content-type", head["content-type"].encode())], "model")[0] == "claude-3"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 1000])
def test_the_name_is_put_back_however_the_answer_is_cut(size: int) -> None:
    """Once a line, before what a model wrote; what looks like its beginning is kept for no longer than it may be it."""
    lines = [
        b'{"model":"tiny:latest","message":{"content":"\\"model\\":\\"tiny:latest\\""}}\n',
        b'{"model":"tiny:latest","tool":{"model":"tiny:latest"}}\n',
        b'{"other":"x"}\n\n',
        b'data: {"model":"tiny:late","a":1}\n',
        b'{"model":"tiny:latest"}{"model":"ti',
    ]
    given = b"".join(lines)
    name = AnswerName("tiny:latest", 'a "b"')
    passed = b"".join(name.feed(given[at : at + size]) for at in range(0, len(given), size)) + name.rest()

    assert passed == b"".join(line.replace(b'"model":"tiny:latest"', b'"model":"a \\"b\\""', 1) for line in lines)


def test_nothing_else_is_held_back() -> None:
    """A piece that ends in nothing of the name goes on whole, at once."""
    name = AnswerName("tiny:latest", "gpt-4o")

    assert (
        name.feed(b'data: {"model":"tiny:latest","delta":"Hel"}\n\n') == b'data: {"model":"gpt-4o","delta":"Hel"}\n\n'
    )
    assert name.feed(b'data: {"x":1,"mod') == b'data: {"x":1,'
    assert name.feed(b'e":1}') == b'"mode":1}'


# -- lists -------------------------------------------------------------------------------------------------------------


def test_lists_show_the_names_of_what_is_here(running: RunningGateway) -> None:
    """Each model is listed, and behind it its other names: alike, with the model as their parent. Patterns are none."""
    listed = {each["name"]: each for each in get(running, "/api/tags")["models"]}
    ids = [each["id"] for each in get(running, "/v1/models")["data"]]

    names = {"tiny:latest", "llama3.2:latest", "nomic-embed-text:latest", "gpt-4o:latest", "embedder:latest"}
    assert set(listed) == set(ids) == names
    assert ids.index("gpt-4o:latest") == ids.index("tiny:latest") + 1
    alias, real = listed["gpt-4o:latest"], listed["tiny:latest"]
    assert alias["details"].pop("parent_model") == "tiny:latest"
    assert {**alias, "name": "", "model": ""} == {**real, "name": "", "model": ""}
    for id in ("gpt-4o", "claude-3", "gpt-4o:latest"):
        assert get(running, f"/v1/models/{id}")["id"] == id
        assert httpx.head(f"{running.url}/v1/models/{id}", timeout=PATIENCE).status_code == 200


def test_the_ops_api_tells_all_aliases(running: RunningGateway) -> None:
    """Patterns, and those whose model is not here, are told there; models are counted once."""
    told = get(running, "/ops/v1/models")

    assert {each["name"] for each in told["models"]} == {"tiny:latest", "llama3.2:latest", "nomic-embed-text:latest"}
    assert told["aliases"] == [
        {"alias": "embedder", "model": "nomic-embed-text:latest", "by": FLEET, "is_here": True},
        {"alias": "gone", "model": "deepseek-r1:32b", "by": FLEET, "is_here": False},
        {"alias": "gpt-4o", "model": "tiny:latest", "by": FLEET, "is_here": True},
        {"alias": "claude-*", "model": "llama3.2:latest", "by": FLEET, "is_here": True},
    ]
    assert "warning: gone is an alias of deepseek-r1:32b, which is not here" in told["complaints"]
    health = get(running, "/ops/v1/health")
    assert (health["models"]["count"], health["status"]) == (3, "ok")
    assert health["notes"] == [
        "gone is an alias of deepseek-r1:32b, which is not here; `ollama-modal pull deepseek-r1:32b`"
    ]


def test_a_route_tells_what_stands_behind_an_alias(running: RunningGateway) -> None:
    """Both names are told, and who said so."""
    told = get(running, "/ops/v1/route?model=claude-3-opus")

    assert (told["alias"], told["model"]) == ("claude-3-opus:latest", "llama3.2:latest")
    assert told["facts"][0] == "claude-* is an alias of llama3.2:latest, by the fleet"


@each_dialect
def test_an_alias_of_what_is_not_here(running: RunningGateway, dialect: Dialect) -> None:
    """It is a 404 that names the model behind it and how to pull that; nothing else answers in its place."""
    response = asked(running, dialect, model="gone")

    assert response.status_code == 404
    assert error_of(dialect, response) == (
        "model 'gone:latest' not found: gone is an alias of 'deepseek-r1:32b', which is not here;"
        " pull that: `ollama-modal pull deepseek-r1:32b`"
    )
    shown = post(running, "/api/show", {"model": "gone"})
    assert (shown.status_code, "deepseek-r1:32b" in shown.json()["error"]) == (404, True)


def test_a_name_that_nobody_declared_is_no_model(running: RunningGateway) -> None:
    """What is no alias is unknown as before, though it is near one; that one is named."""
    response = post(running, "/api/chat", {"model": "gpt-4", "messages": TALK})

    assert response.status_code == 404
    assert "there is gpt-4o:latest; to pull it" in response.json()["error"]


def test_a_model_is_never_an_alias(double: OllamaDouble, tmp_path: Path) -> None:
    """A model that is here answers to its own name, whatever is declared; that it hides an alias is told."""
    aliases = {"tiny": "llama3.2", "tin*": "llama3.2"}
    with gateway(tmp_path, {"local": double.url}, source=here(), aliases=aliases) as running:
        response = post(running, "/api/chat", {"model": "tiny", "messages": TALK, "stream": False})
        told = get(running, "/ops/v1/models")
        names = [each["name"] for each in get(running, "/api/tags")["models"]]

    assert response.headers["x-served-model"] == "tiny:latest"
    assert told["complaints"][0] == (
        "warning: the alias tiny of llama3.2:latest has no effect: a model of that name is here"
    )
    assert sorted(names) == ["llama3.2:latest", "nomic-embed-text:latest", "tiny:latest"]


# -- keys --------------------------------------------------------------------------------------------------------------

LIMITED = f"limited {hash_of('omk_1')} chat models=tiny*,claude-*\nall {hash_of('omk_2')} admin chat\n"


def test_what_stands_behind_an_alias_decides_who_may_ask(double: OllamaDouble, tmp_path: Path) -> None:
    """A key uses an alias where it may use its model, and is told of it only then; the alias's name allows nothing."""
    with gateway(tmp_path, {"local": double.url}, keys=LIMITED, source=here(), aliases=ALIASES) as running:
        chat = {"messages": TALK, "stream": False}
        allowed = post(running, "/api/chat", {"model": "gpt-4o", **chat}, "omk_1")
        refused = post(running, "/api/chat", {"model": "claude-3", **chat}, "omk_1")
        shown = post(running, "/api/show", {"model": "claude-3"}, "omk_1")
        route = httpx.get(
            f"{running.url}/ops/v1/route?model=claude-3", headers={"x-api-key": "omk_1"}, timeout=PATIENCE
        )
        listed = [each["name"] for each in get(running, "/api/tags", "omk_1")["models"]]
        told = get(running, "/ops/v1/models", "omk_1")["aliases"]
        found = httpx.get(f"{running.url}/v1/models/claude-3", headers={"x-api-key": "omk_1"}, timeout=PATIENCE)

    assert (allowed.status_code, allowed.json()["model"]) == (200, "gpt-4o")
    assert [each.status_code for each in (refused, shown, route, found)] == [403, 403, 403, 404]
    assert not any("llama3.2" in each.text for each in (refused, shown, route, found))
    assert refused.json()["error"].startswith(
        "key 'limited' may not use the model that 'claude-3:latest' stands for; it may use tiny*, claude-*"
    )
    assert listed == ["tiny:latest", "gpt-4o:latest"]
    assert [each["alias"] for each in told] == ["gpt-4o"]


# -- ollama cp and rm --------------------------------------------------------------------------------------------------


def test_a_copy_is_another_name(running: RunningGateway) -> None:
    """`/api/copy` answers as Ollama does, and the new name is in the lists and answers at once."""
    copied = post(running, "/api/copy", {"source": "gpt-4o", "destination": "mine:v2"})
    answer = post(running, "/api/chat", {"model": "mine:v2", "messages": TALK, "stream": False})
    names = {each["name"] for each in get(running, "/api/tags")["models"]}

    assert (copied.status_code, copied.content) == (200, b"")
    assert (answer.json()["model"], answer.headers["x-served-model"]) == ("mine:v2", "tiny:latest")
    assert "mine:v2" in names
    assert running.facts.get(keys.ALIASES)["mine:v2"]["target"] == "tiny:latest"


def test_other_gateways_have_it_after_their_refresh(
    running: RunningGateway, double: OllamaDouble, tmp_path: Path
) -> None:
    """What one gateway made, another one on the same ledger has."""
    with gateway(tmp_path, {"local": double.url}, source=here()) as other:
        post(running, "/api/copy", {"source": "tiny", "destination": "mine"})
        before = post(other, "/api/chat", {"model": "mine", "messages": TALK, "stream": False})
        assert other.known_state.refresh()
        after = post(other, "/api/chat", {"model": "mine", "messages": TALK, "stream": False})

    assert before.status_code in {200, 404}  # a model that is missed is looked for at once, if not just now
    assert (after.status_code, after.headers["x-served-model"]) == (200, "tiny:latest")


def test_a_name_that_was_made_is_removed_without_its_model(running: RunningGateway) -> None:
    """`/api/delete` takes the name away and posts no job; again it finds nothing, and the model answers as before."""
    post(running, "/api/copy", {"source": "tiny", "destination": "Mine"})
    removed = post(running, "/api/delete", {"model": "mine"}, method="DELETE")
    again = post(running, "/api/delete", {"model": "mine"}, method="DELETE")
    answer = post(running, "/api/chat", {"model": "tiny", "messages": TALK, "stream": False})
    posted = get(running, "/ops/v1/jobs")["jobs"]

    assert (removed.status_code, removed.content) == (200, b"")
    assert again.status_code == 404
    assert answer.status_code == 200
    assert (posted, running.facts.get(keys.ALIASES)) == ([], {})


@pytest.mark.parametrize(
    ("source", "destination", "status", "text"),
    [
        ("nope", "mine", 404, 'model "nope" not found'),
        ("a b", "mine", 400, 'source "a b" is invalid'),
        ("tiny", "a b", 400, 'destination "a b" is invalid'),
        ("tiny", "", 400, 'destination "" is invalid'),
        ("tiny", "llama3.2", 400, "'llama3.2:latest' is a model that is here, and no copy is put in its place"),
        ("tiny", "gone", 400, "the fleet declares 'gone:latest' as an alias of 'deepseek-r1:32b'"),
        ("gone", "mine", 404, 'model "gone" not found'),
        (3, "mine", 400, "source and destination are names"),
        (None, None, 400, "source and destination are names"),
    ],
)
def test_what_is_not_copied(running: RunningGateway, source: Any, destination: Any, status: int, text: str) -> None:
    """Unknown models, names that are taken or none, and what the fleet declares are refused in Ollama's shape."""
    response = post(running, "/api/copy", {"source": source, "destination": destination})

    assert response.status_code == status
    assert response.json()["error"].startswith(text)
    assert running.facts.get(keys.ALIASES) is None


def test_a_copy_onto_itself_changes_nothing(running: RunningGateway) -> None:
    """As with Ollama it is no mistake."""
    response = post(running, "/api/copy", {"source": "gpt-4o", "destination": "TINY"})

    assert (response.status_code, running.facts.get(keys.ALIASES)) == (200, None)


def test_what_the_fleet_declares_is_not_deleted_here(running: RunningGateway) -> None:
    """An alias of the fleet file is refused with the table to change; a name that only a pattern fits is not found."""
    declared = post(running, "/api/delete", {"model": "gpt-4o"}, method="DELETE")
    fitting = post(running, "/api/delete", {"model": "claude-3"}, method="DELETE")

    assert (declared.status_code, "[aliases]" in declared.json()["error"]) == (400, True)
    assert (fitting.status_code, running.facts.get(keys.ALIASES)) == (404, None)


def test_only_an_admin_makes_and_removes_names(double: OllamaDouble, tmp_path: Path) -> None:
    """A chat key may not, and an admin of some models only within these, for the name as for the model."""
    some = f"some {hash_of('omk_3')} admin models=tiny*\n"
    with gateway(tmp_path, {"local": double.url}, keys=LIMITED + some, source=here()) as running:
        tries = [
            post(running, "/api/copy", {"source": "tiny", "destination": "x"}, "omk_1"),
            post(running, "/api/copy", {"source": "tiny", "destination": "x"}, "omk_3"),
            post(running, "/api/copy", {"source": "llama3.2", "destination": "tiny-2"}, "omk_3"),
            post(running, "/api/copy", {"source": "tiny", "destination": "tiny-2"}, "omk_3"),
            post(running, "/api/copy", {"source": "llama3.2", "destination": "big"}, "omk_2"),
            post(running, "/api/delete", {"model": "big"}, "omk_3", "DELETE"),
            post(running, "/api/delete", {"model": "tiny-2"}, "omk_1", "DELETE"),
            post(running, "/api/delete", {"model": "tiny-2"}, "omk_3", "DELETE"),
        ]

    assert [each.status_code for each in tries] == [403, 403, 403, 200, 200, 403, 403, 200]
    assert "llama3.2" not in tries[5].text


def test_a_job_about_an_alias_says_which_model_to_name(running: RunningGateway) -> None:
    """Jobs are about models: one about an alias is refused, with the model behind it."""
    response = post(running, "/ops/v1/jobs", {"kind": "warm", "model": "gpt-4o"})

    assert response.status_code == 404
    assert response.json() == {
        "error": "'gpt-4o:latest' is no model, but an alias of 'tiny:latest'",
        "hint": "name the model itself: `ollama-modal warm tiny:latest`",
    }


def test_metrics_and_the_log_know_the_model(running: RunningGateway) -> None:
    """A thousand names that fit a pattern are one model in the meters."""
    for number in range(3):
        post(running, "/api/chat", {"model": f"claude-{number}", "messages": TALK, "stream": False})
    running.rows(3)
    counted = httpx.get(f"{running.url}/metrics", timeout=PATIENCE).text

    assert 'model="llama3.2:latest"' in counted
    assert "claude" not in counted
    assert json.dumps(running.facts.get(keys.ALIASES)) == "null"


def test_a_ledger_that_cannot_be_read_keeps_the_names(tmp_path: Path, double: OllamaDouble) -> None:
    """What was made and is unreadable in the ledger is left alone, and the declared names answer on."""
    with gateway(tmp_path, {"local": double.url}, source=here(), aliases=ALIASES) as running:
        facts = SqliteDict(tmp_path / "gateway.sqlite")
        facts.put(keys.ALIASES, "text of a later version")
        facts.close()
        assert running.known_state.refresh()
        answer = post(running, "/api/chat", {"model": "gpt-4o", "messages": TALK, "stream": False})
        copied = post(running, "/api/copy", {"source": "tiny", "destination": "mine"})
        kept = running.facts.get(keys.ALIASES)

    assert answer.status_code == 200
    assert (copied.status_code, kept) == (400, "text of a later version")


def test_an_entry_that_cannot_be_read_can_be_removed(running: RunningGateway) -> None:
    """It stands in no list, and `ollama rm` takes it away."""
    running.facts.put(keys.ALIASES, {"odd:latest": {"target": 3}})
    assert running.known_state.refresh()
    removed = post(running, "/api/delete", {"model": "odd"}, method="DELETE")

    assert (removed.status_code, running.facts.get(keys.ALIASES)) == (200, {})
