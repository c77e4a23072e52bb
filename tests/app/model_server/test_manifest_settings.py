"""What the fleet sets for a model counts for every dialect, by the server's own copy of its manifest."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.gateway.catalog import ollama_lists as lists
from app.gateway.catalog.sources import Directory
from app.model_server.manifest_settings import PARAMS, SYSTEM
from app.model_server.models_view import ModelsView
from jobs.core.model_name import ModelName
from jobs.models.model_settings import ModelSettings
from jobs.testing.models import LIBRARY
from jobs.weights.layout import Layout
from jobs.weights.manifest import Manifest
from tests.support.models_directory import digest_of, lay, put, put_blob, sample, weights_at
from tests.support.ollama_servers import Server, serving, simulator_command
from tests.support.waiting import PATIENCE

SMALL = tuple(model for model in LIBRARY if model.size < 5_000_000)
TINY = ModelName.parse("tiny")
SET = ModelSettings(1024, {"temperature": 0.25, "top_k": 7, "stop": ["<end>"]}, "Answer in one word.")


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module", params=["simulator", "real"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on a view of a volume, with something set for one of its models."""
    binary = os.environ.get("OLLAMA_BIN")
    if request.param == "real" and not binary:
        pytest.skip("no real Ollama: set OLLAMA_BIN to the path of an `ollama` binary")
    home = tmp_path_factory.mktemp("home")
    lay(home / "volume", *SMALL)
    ModelsView(home / "volume", home / "models", {TINY.folded(): SET}).copy()
    command = [str(binary)] if request.param == "real" else simulator_command()
    with serving(command, home, is_real=request.param == "real", OLLAMA_NOPRUNE="1") as running:
        yield running


def shown(answer: dict[str, Any]) -> dict[str, Any]:
    """What a server shows, but for its times and paths, and with the lines in one order: Go has none."""
    told = {key: answer.get(key) for key in ("template", "system", "details", "license", "capabilities", "model_info")}
    return told | {"parameters": sorted(answer.get("parameters", "").splitlines())}


def test_a_server_shows_what_is_set_for_a_model(server: Server) -> None:
    """Parameters, context and system prompt are the model's own to it; the gateway shows the same; others stay."""
    models = {model.name: model for model in Directory(Layout(server.models.parent / "volume")).read()}
    assert len(models) == len(SMALL)
    for name, model in models.items():
        settings = SET if name == TINY else ModelSettings()
        theirs = httpx.post(f"{server.url}/api/show", json={"model": str(name)}, timeout=PATIENCE).json()
        assert shown(lists.show(model, {}, settings)) == shown(theirs), name
    theirs = httpx.post(f"{server.url}/api/show", json={"model": "tiny"}, timeout=PATIENCE).json()
    assert theirs["system"] == SET.system
    assert {"num_ctx 1024", "temperature 0.25", "top_k 7", 'stop "<end>"'} <= {
        " ".join(line.split()) for line in theirs["parameters"].splitlines()
    }


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9}),
        ("/v1/responses", {"input": "Hello"}),
        ("/api/chat", {"messages": [{"role": "user", "content": "Hello"}]}),
    ],
)
def test_every_dialect_gets_the_context(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    """A request that can say no context has the one that is set, and what a request says goes before it."""
    lay(tmp_path / "volume", *SMALL)
    ModelsView(tmp_path / "volume", tmp_path / "models", {TINY.folded(): SET}).copy()
    with serving(simulator_command(), tmp_path, is_real=False) as server:
        answer = httpx.post(server.url + path, json={"model": "tiny", **body}, timeout=PATIENCE)
        (loaded,) = httpx.get(f"{server.url}/api/ps", timeout=PATIENCE).json()["models"]
        assert (answer.status_code, loaded["context_length"]) == (200, 1024)
        httpx.post(f"{server.url}/api/generate", json={"model": "tiny", "options": {"num_ctx": 512}}, timeout=PATIENCE)
        (loaded,) = httpx.get(f"{server.url}/api/ps", timeout=PATIENCE).json()["models"]
        assert loaded["context_length"] == 512


def test_the_volume_is_not_written_and_each_blob_is_linked(tmp_path: Path) -> None:
    """Of the view's blobs only the new layers are files; the rest are links, and go with their model."""
    weights = weights_at(tmp_path)
    one, other = sample("tiny"), sample("llama3.2", b"other weights", b"template")
    put(weights, one)
    put(weights, other)
    before = tree(tmp_path / "models")
    view = ModelsView(tmp_path / "models", tmp_path / "disk", {TINY.folded(): SET})

    changes = view.copy()
    served = Manifest.parse(view.layout.manifest(TINY).read_bytes())
    kinds = {path.name: path.is_symlink() for path in view.layout.blobs.iterdir()}
    new = {layer.filename for layer in served.layers if layer.media_type in {PARAMS, SYSTEM}}

    assert set(changes.brought) == {one.name, other.name}
    assert view.layout.manifest(other.name).read_bytes() == other.manifest.raw
    assert {name for name, is_link in kinds.items() if not is_link} == new
    assert all((view.layout.blobs / name).read_bytes() for name in kinds)
    assert view.blobs("tiny") > {layer.filename for layer in one.manifest.blobs}
    assert view.published_digest(served.digest) == one.manifest.digest
    assert view.published_digest(other.manifest.digest) == other.manifest.digest
    assert view.published_digest("0") == "0"
    assert view.copy().brought == ()
    weights.layout.manifest(one.name).unlink()
    assert view.copy().dropped == (one.name,)
    left = {path.name for path in view.layout.blobs.iterdir()}
    assert left == {layer.filename for layer in other.manifest.blobs}
    (tmp_path / "models" / "manifests").mkdir(exist_ok=True)
    put(weights, one)
    assert tree(tmp_path / "models") == before


def test_what_is_set_goes_before_a_models_own_parameters(tmp_path: Path) -> None:
    """Those that the model has and the fleet does not say stay; a system prompt is left where none is set."""
    own, system = json.dumps({"top_k": 40, "min_p": 0.1}).encode(), b"Its own."
    model = _with_layers(own, system)
    weights = weights_at(tmp_path)
    for content in model.contents.values():
        put_blob(weights, content)
    put(weights, model)
    view = ModelsView(tmp_path / "models", tmp_path / "disk", {TINY.folded(): ModelSettings(2048, {"top_k": 7})})
    view.copy()

    layers = {layer.media_type: layer for layer in Manifest.parse(view.layout.manifest(TINY).read_bytes()).layers}
    said = json.loads(view.layout.blob(layers[PARAMS].digest).read_bytes())
    assert said == {"top_k": 7, "min_p": 0.1, "num_ctx": 2048}
    assert view.layout.blob(layers[SYSTEM].digest).read_bytes() == system


@pytest.mark.parametrize("own", [b"no json", b"[1]", b"[" * 100_000, b"\xff\xfe", b'{"a":NaN}', b'{"a":1e999}'])
def test_a_model_whose_own_parameters_cannot_be_read_is_served_as_it_is(tmp_path: Path, own: bytes) -> None:
    """Nothing that stands in a model's files keeps it, or others, from being served."""
    model = _with_layers(own, b"Its own.")
    weights = weights_at(tmp_path)
    put(weights, model)
    view = ModelsView(tmp_path / "models", tmp_path / "disk", {TINY.folded(): SET})

    assert view.copy().brought == (TINY,)
    assert view.layout.manifest(TINY).read_bytes() == model.manifest.raw


def test_a_blob_that_the_volume_has_as_well_is_no_way_to_write_there(tmp_path: Path) -> None:
    """Where a layer that is set equals a blob of the volume, the volume's is not written through a link."""
    content = json.dumps({"num_ctx": 1024}).encode()
    model = sample("tiny", b"weights", content)
    weights = weights_at(tmp_path)
    put(weights, model)
    on_volume = weights.layout.blob(digest_of(content))
    on_volume.chmod(0o444)
    before = on_volume.stat().st_mtime_ns
    view = ModelsView(tmp_path / "models", tmp_path / "disk", {TINY.folded(): ModelSettings(1024)})
    for _ in range(2):
        view.copy()

    assert on_volume.stat().st_mtime_ns == before
    assert view.layout.blob(digest_of(content)).read_bytes() == content


def _with_layers(params: bytes, system: bytes) -> Any:
    """A model that has parameters and a system prompt of its own."""
    plain = sample("tiny", b"weights", params, system)
    document = json.loads(plain.manifest.raw)
    for layer, kind in zip(document["layers"], (None, PARAMS, SYSTEM), strict=True):
        layer["mediaType"] = kind or layer["mediaType"]
    return type(plain)(plain.name, Manifest.parse(json.dumps(document).encode()), plain.contents)
