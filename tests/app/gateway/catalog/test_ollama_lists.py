"""Promises of app.gateway.catalog.ollama_lists: what the gateway answers is what a server of the same models answers.

Held to the simulator always, and to the real thing where OLLAMA_BIN names it. Nothing here loads a model.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.gateway.catalog import ollama_lists as lists
from app.gateway.catalog.sources import Directory
from app.gateway.catalog.state import KnownState
from app.model_server.report import Loaded, Report
from jobs.core.clock import SystemClock
from jobs.core.errors import BadName, NotFound
from jobs.core.model_name import ModelName
from jobs.models.card import bytes_of, read
from jobs.models.gguf import Tensor
from jobs.testing.gguf import encoded
from jobs.testing.models import LIBRARY, LICENSE, SimLayer, SimModel, find, text
from jobs.weights.layout import Layout
from tests.support.models_directory import lay, publish, sample, weights_at
from tests.support.ollama_servers import Server, serving, simulator_command
from tests.support.stores import NoFacts, Store
from tests.support.waiting import PATIENCE

SMALL = tuple(model for model in LIBRARY if model.size < 5_000_000)

TOOLS = (
    "{{ range .Messages }}{{ if .ToolCalls }}<call>{{ end }}{{ .Content }}{{ end }}{{ if .Tools }}{{ .Tools }}{{ end }}"
)
THINKS = "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}{{ end }}"
THINKS_ELSE = (
    '{{- range $i, $m := .Messages -}}\n{{- if eq .Role "user" }}U{{ else if .Thinking }}<a>{{ .Thinking }}</a>'
    "{{ end -}}\n{{- end }}{{ .Suffix }}"
)
JINJA = "{% for m in messages %}<think>{{ m }}</think>{% endfor %}{{ tools }} tool_calls ipython"


def made(name: str, *layers: SimLayer, values: dict[str, Any] | None = None, **config: Any) -> SimModel:
    """A model with a header of its own, whose config says no more than is asked for."""
    header = {"general.architecture": "llama", "general.name": "Made", "general.file_type": 15, **(values or {})}
    body = encoded(header, [Tensor("token_embd.weight", 0, (4, 2)), Tensor("output.weight", 8, (32,))]) + bytes(96)
    weights = SimLayer("application/vnd.ollama.image.model", len(body), text=body)
    model = SimModel(ModelName.parse(name), "llama", "1B", config.pop("file_type", "Q4_K_M"), (weights, *layers))
    told = {key: value for key, value in json.loads(model.config.read()).items() if not key.endswith("_length")}
    body = json.dumps({**told, "capabilities": [], **config}).encode()
    config_layer = replace(model.config, text=body, size=len(body))
    object.__setattr__(model, "config", config_layer)  # a frozen model's cached property
    return model


PARAMS = {"num_ctx": 8192, "temperature": 0.6, "big": 1048576, "tiny": 0.00001, "stop": ["<a>", 'q"uote'], "flag": True}

MADE = (
    made("plain"),
    made("params", text("params", json.dumps(PARAMS)), text("system", "Speak up.\nLoudly."), LICENSE),
    made("tools", text("template", TOOLS)),
    made("thinks", text("template", THINKS)),
    made("elses", text("template", THINKS_ELSE)),
    made("jinja", values={"tokenizer.chat_template": JINJA}),
    made("both", text("template", "{{ .Prompt }}"), values={"tokenizer.chat_template": JINJA}),
    made("worse", text("template", TOOLS), values={"tokenizer.chat_template": "{{ messages }}"}),
    made(
        "eyes", values={"llama.vision.block_count": 2, "llama.audio.block_count": 1, "llama.rope.freq_base": 500000.0}
    ),
    made("embeds", values={"llama.pooling_type": 1, "llama.eps": 1e-05, "llama.empty": [], "llama.few": [1, 2]}),
    made("parsed", text("template", "{{ .Prompt }}"), parser="qwen3-thinking", renderer="qwen3-thinking"),
    made("oss", text("template", "<|start|>{{ .Prompt }}<|end|>"), model_family="gptoss", model_families=None),
    made("unknown", file_type="unknown", requires="0.1.0"),
    made("talks", text("messages", '[{"role":"user","content":"hi"},{"role":"assistant","content":"two\\nlines"}]')),
    made("licensed", text("license", "one"), text("license", "two ")),
)


@dataclass
class Beside:
    """A server, and what stands in memory of the same directory."""

    server: Server
    known_state: KnownState

    def asked(self, path: str, body: Any = None) -> Any:
        answer = httpx.request("GET" if body is None else "POST", self.server.url + path, json=body, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module", params=["simulator", "real"])
def beside(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    binary = os.environ.get("OLLAMA_BIN")
    if request.param == "real" and not binary:
        pytest.skip("no real Ollama: set OLLAMA_BIN to the path of an `ollama` binary")
    home = tmp_path_factory.mktemp("home")
    is_real = request.param == "real"
    lay(home / "models", *SMALL, *(MADE if is_real else ()))
    command = [str(binary)] if is_real else simulator_command()
    with serving(command, home, is_real=is_real, OLLAMA_NOPRUNE="1") as server:
        yield Beside(server, known_state_of(home / "models"))


def known_state_of(models: Path) -> KnownState:
    known_state = KnownState(NoFacts(), Directory(Layout(models)), SystemClock())
    assert known_state.refresh(), known_state.trouble
    return known_state


def instant(answer: dict[str, Any]) -> dict[str, Any]:
    return answer | {"modified_at": datetime.fromisoformat(answer["modified_at"]).astimezone(UTC)}


def test_tags_are_those_of_a_server(beside: Beside) -> None:
    """Names, sizes, digests, details, capabilities and their order are what the server lists."""
    theirs = [instant(each) for each in beside.asked("/api/tags")["models"]]

    assert [instant(each) for each in lists.tags(beside.known_state)["models"]] == theirs
    assert len(theirs) >= len(SMALL)


def test_openais_list_is_that_of_a_server(beside: Beside) -> None:
    """Ids, times and owners are what the server lists; one model is what it tells of that one."""
    assert lists.openai_models(beside.known_state) == beside.asked("/v1/models")
    assert lists.openai_model(beside.known_state, "tiny") == beside.asked("/v1/models/tiny")


def test_show_is_that_of_a_server(beside: Beside) -> None:
    """Every key that the server shows of a model is shown alike, and no other."""
    for model in beside.known_state.models():
        request = {"model": str(model.name)}
        assert lists.cannot_show(model, request) == ""
        ours, theirs = instant(lists.show(model, request)), instant(beside.asked("/api/show", request))
        for each in (ours, theirs):  # Go lists options in any order
            for key in ("parameters", "modelfile"):
                each[key] = sorted(each.get(key, "").splitlines())
        assert ours == theirs, model.name


def test_show_takes_a_requests_own_words(beside: Beside) -> None:
    """A system prompt in the request stands in the answer, as at the server."""
    model = beside.known_state.find(ModelName.parse("tiny"))
    assert model is not None
    request = {"model": "tiny", "system": "Another."}

    assert lists.show(model, request)["system"] == beside.asked("/api/show", request)["system"] == "Another."


def test_the_version_is_what_a_server_told(store: Store) -> None:
    """Until a server has told its version, it is the one that they would run."""
    known_state = KnownState(store.facts, Directory(Layout(store.path.parent / "none")), store.clock)
    known_state.refresh()
    assert lists.version(known_state, "1.2.3") == {"version": "1.2.3"}

    for name, version, age in (("a", "0.32.1", 60), ("b", "0.32.2", 30), ("c", "", 0)):
        put(store, "a10g", name, version=version, at=store.clock.now() - timedelta(seconds=age))
    known_state.refresh()

    assert lists.version(known_state, "1.2.3") == {"version": "0.32.2"}
    assert lists.RUNNING == "Ollama is running"


def put(store: Store, tier: str, name: str, *loaded: Loaded, **more: Any) -> None:
    fields = {"state": "serving", "at": store.clock.now(), "loaded": loaded, **more}
    report = Report(tier, name, **fields)
    store.facts.put(report.key, report.as_json())


@pytest.fixture
def stand(store: Store, tmp_path: Path) -> KnownState:
    lay(tmp_path / "models", *SMALL)
    return KnownState(store.facts, Directory(Layout(tmp_path / "models")), store.clock)


def test_what_is_loaded_comes_from_the_servers_own_reports(store: Store, stand: KnownState) -> None:
    """Each loaded model is listed once, longest to stay first; what ended or is silent for long has nothing loaded."""
    now = store.clock.now()

    def loaded(name: str, minutes: int) -> Loaded:
        return Loaded(name, 6_000, 5_000, 2048, "f00", now + timedelta(minutes=minutes))

    put(store, "a10g", "one", loaded("tiny:latest", 5), loaded("gone:latest", 1))
    put(store, "h100", "two", loaded("TINY:latest", 9))
    put(store, "h100", "three", loaded("qwen2.5:0.5b", 7), state="ended")
    put(store, "h100", "four", loaded("qwen2.5:0.5b", 7), at=now - timedelta(minutes=10))
    put(store, "h100", "five", loaded("no such name!", 7))
    stand.refresh()

    answer = lists.ps(stand, stand.serving())["models"]

    assert [each["name"] for each in answer] == ["TINY:latest", "gone:latest"]
    assert answer[0] == {
        "name": "TINY:latest",
        "model": "TINY:latest",
        "size": 6_000,
        "digest": "f00",
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "6K",
            "quantization_level": "F16",
        },
        "expires_at": "2026-01-01T00:09:00Z",
        "size_vram": 5_000,
        "context_length": 2048,
    }
    assert lists.ps(stand, stand.serving(), lambda name: name.model == "gone")["models"] == answer[1:]


def test_old_reports_still_open(store: Store, stand: KnownState) -> None:
    """A report that last month's code wrote tells what is loaded, though not until when."""
    old = {"tier": "a10g", "container": "x", "state": "serving", "at": "2026-01-01T00:00:00.000Z"}
    store.facts.put(
        "server/a10g/x", old | {"loaded": [{"name": "tiny:latest", "size": 1, "size_vram": 1, "context": 8}]}
    )
    stand.refresh()

    (entry,) = lists.ps(stand, stand.serving())["models"]

    model = find(ModelName.parse("tiny"))
    assert model is not None
    assert (entry["digest"], entry["expires_at"]) == (model.digest, "0001-01-01T00:00:00Z")


def test_callers_see_what_they_may(stand: KnownState) -> None:
    """A predicate keeps models out of every list, and one that is kept out is not found."""
    stand.refresh()

    def only_tiny(name: ModelName) -> bool:
        return name.model == "tiny"

    assert {each["name"] for each in lists.tags(stand, only_tiny)["models"]} == {"tiny:latest", "tiny:v2"}
    assert {each["id"] for each in lists.openai_models(stand, only_tiny)["data"]} == {"tiny:latest", "tiny:v2"}
    with pytest.raises(NotFound, match=r"'qwen2.5:0.5b' not found"):
        lists.openai_model(stand, "qwen2.5:0.5b", only_tiny)
    with pytest.raises(NotFound, match=r"'absent:latest' not found"):
        lists.openai_model(stand, "absent")
    with pytest.raises(BadName):
        lists.openai_model(stand, "no name")


def test_a_shared_blob_weighs_once(tmp_path: Path) -> None:
    """Models take together what their blobs take on disk, though two of them name the same ones."""
    weights = weights_at(tmp_path)
    for name in ("tiny", "twin"):
        publish(weights, sample(name, b"the same weights" * 100, b"the same template"))
    found = read(weights.layout)
    assert len(found) == 2
    assert bytes_of(found) == sum(path.stat().st_size for path in weights.layout.blobs.iterdir())
    assert bytes_of([replace(model, blobs={}) for model in found]) == bytes_of(found)


def test_an_empty_list_is_a_list(store: Store, tmp_path: Path) -> None:
    """With no model, OpenAI's list has an empty list of data: its clients take no null."""
    known_state = KnownState(store.facts, Directory(Layout(tmp_path / "none")), store.clock)
    known_state.refresh()

    assert lists.openai_models(known_state) == {"object": "list", "data": []}
    assert lists.tags(known_state) == {"models": []}
    assert lists.ps(known_state, known_state.serving()) == {"models": []}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CONFIG_KEYS = ("model_format", "model_family", "model_families", "model_type", "file_type", "renderer", "parser",
               "requires", "capabilities", "context_length", "embedding_length", "remote_host")  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    config=st.dictionaries(st.sampled_from(CONFIG_KEYS), ANYTHING),
    params=ANYTHING,
    messages=ANYTHING,
    value=st.text(max_size=20) | st.floats(width=32) | st.booleans(),
)
def test_no_model_spoils_the_answers_about_others(
    tmp_path: Path, config: dict[str, Any], params: Any, messages: Any, value: Any
) -> None:
    """Whatever a model's files hold, the others are listed, and what is told of it can be written as JSON."""
    shutil.rmtree(tmp_path / "models", ignore_errors=True)
    texts = (text("params", json.dumps(params)), text("messages", json.dumps(messages)))
    odd = made(
        "odd", *texts, values={"x": value, "tokenizer.chat_template": value, "general.file_type": value}, **config
    )
    lay(tmp_path / "models", made("plain"), odd)

    known_state = known_state_of(tmp_path / "models")

    assert {str(model.name) for model in known_state.models()} == {"plain:latest", "odd:latest"}
    told = [lists.show(model, {"system": "s", "options": {"a": params}}) for model in known_state.models()]
    json.dumps([told, lists.tags(known_state), lists.openai_models(known_state)], allow_nan=False)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, -(10**400), 0, -0.0, 1e-300])
def test_any_number_is_an_option(tmp_path: Path, value: float) -> None:
    """A number that Go could not read is shown all the same."""
    lay(tmp_path / "models", made("odd", text("params", json.dumps({"num_ctx": value}))))
    (model,) = known_state_of(tmp_path / "models").models()
    assert "num_ctx" in lists.show(model, {})["parameters"]


def test_what_cannot_be_shown_says_why(tmp_path: Path) -> None:
    """A whole vocabulary, weights that are no GGUF, strange layers and unknown parsers are for a server to show."""
    weights = made("x").layers[0]
    broken = replace(weights, text=b"no header", size=9)
    strange = SimModel(ModelName.parse("strange"), "llama", "1B", "F16", (broken,))
    adapted = made("adapted", text("adapter", "x"))
    parser = made("future", parser="from-the-future")
    remote = made("remote", remote_host="ollama.com")
    lay(tmp_path / "models", made("plain"), strange, adapted, parser, remote)
    known_state = known_state_of(tmp_path / "models")

    def why(name: str, **request: Any) -> str:
        model = known_state.find(ModelName.parse(name))
        assert model is not None
        return lists.cannot_show(model, request)

    assert why("plain") == ""
    assert why("plain", verbose=True) == "all of its vocabulary is asked for"
    assert "header of its weights cannot be read: the file is not GGUF" in why("strange")
    assert why("adapted") == "it has a layer of kind 'adapter'"
    assert why("future") == "nobody here knows its parser 'from-the-future'"
    assert why("remote") == "it runs elsewhere"
