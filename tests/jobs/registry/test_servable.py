"""What no server could load is refused before its weights come, as what it is; what Ollama serves is not."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.core.errors import Corrupt, Unsupported
from jobs.core.model_name import ModelName
from jobs.ledger.job import JobState
from jobs.registry.servable import manifest_in, need_small_files, small_files
from jobs.testing.models import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE, SimLayer, SimModel, text, weights
from jobs.testing.registry.server import RegistryDouble
from jobs.weights.manifest import Layer
from tests.support.pull_setup import MODEL, Scene, post, worked
from tests.support.waiting import PATIENCE

OCI = "application/vnd.oci.image."
CONFIG = b'{"model_format":"gguf","model_family":"llama"}'


def entry(kind: str, content: bytes = b"x", **more: Any) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": kind, "digest": digest, "size": len(content), **more}


def document(*kinds: str, config: str = CONFIG_TYPE, **more: Any) -> dict[str, Any]:
    layers = [entry(kind, kind.encode()) for kind in kinds]
    return {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": entry(config, CONFIG), "layers": layers, **more}


def image(*kinds: str, **more: Any) -> dict[str, Any]:
    return document(*(LAYER_TYPE + kind for kind in kinds), **more)


INDEX = {
    "schemaVersion": 2,
    "mediaType": f"{OCI}index.v1+json",
    "manifests": [
        {**entry(f"{OCI}manifest.v1+json"), "platform": {"os": "linux", "architecture": each}}
        for each in ("amd64", "arm64")
    ],
}

NO_MODELS: dict[str, tuple[Any, str]] = {
    "an OCI index": (INDEX, r"but an index of 2 manifests \(linux/amd64, linux/arm64\)"),
    "an index without a kind": ({**INDEX, "mediaType": None}, "but an index of 2 manifests"),
    "a Docker list": ({**INDEX, "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json"}, "an index"),
    "a Docker image": (document(f"{OCI}layer.v1.tar+gzip"), r"another tool, .*vnd.oci.image.layer.v1.tar\+gzip"),
    "a chart": (
        document(
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip", config="application/vnd.cncf.helm.config.v1+json"
        ),
        "helm",
    ),
    "a model of another tool": (document("application/vnd.docker.ai.gguf.v3"), "vnd.docker.ai.gguf.v3"),
    "an artefact": (
        document(config=f"{OCI}empty.v1+json".replace("image.", ""), artifactType="application/vnd.acme.rocket"),
        "acme.rocket",
    ),
    "the first schema": ({"schemaVersion": 1, "fsLayers": [], "history": []}, "a Docker image of the first schema"),
    "an error": ({"errors": [{"code": "DENIED"}]}, "no manifest, it says 'errors'"),
    "a list": ([], "answers with list"),
    "a word": ("hello", "answers with str"),
    "nothing": ({}, "it says nothing"),
    "another version": (image("model") | {"schemaVersion": 3}, "schemaVersion 3, not 2"),
    "a negative size": (image() | {"layers": [entry(f"{LAYER_TYPE}model", size=-1)]}, "size -1"),
    "too many layers": (image() | {"layers": [entry(f"{LAYER_TYPE}model")] * 20_001}, "20001 layers"),
    "licenses beyond measure": (
        image("model")
        | {"layers": [entry(f"{LAYER_TYPE}model"), *([entry(f"{LAYER_TYPE}license", b"y", size=4 << 20)] * 150)]},
        "629,145,600 bytes",
    ),
    "one large template": (image() | {"layers": [entry(f"{LAYER_TYPE}template", size=5 << 20)]}, "5,242,880 bytes"),
    "a large config": (image("model") | {"config": entry(CONFIG_TYPE, size=5 << 20)}, "the config of x has"),
}


@pytest.mark.parametrize("kind", NO_MODELS)
def test_what_is_no_model_is_refused_as_what_it_is(kind: str) -> None:
    """The manifest alone tells; the message says what it is, in few and harmless words, and what to do."""
    foreign, says = NO_MODELS[kind]
    with pytest.raises(Unsupported, match=says) as raised:
        manifest_in(json.dumps(foreign).encode(), "x")
    assert raised.value.failure_class == "refused"
    assert raised.value.hint
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 800


@pytest.mark.parametrize(
    ("raw", "trouble"),
    [
        (b"<!doctype html>", Unsupported),
        (b"\n <html>", Unsupported),
        (b"", Corrupt),
        (b"{", Corrupt),
        (json.dumps(image("model")).encode()[:-2], Corrupt),
        (json.dumps(image("model")).replace('"layers"', '"layers":[],"layers"').encode(), Unsupported),
        (json.dumps(image("model")).replace('"layers"', '"Layers":[],"layers"').encode(), Unsupported),
        (json.dumps(image("model")).replace('"digest"', '"DIGEST":"sha256:1","digest"').encode(), Unsupported),
    ],
)
def test_torn_is_not_strange(raw: bytes, trouble: type[Exception]) -> None:
    """A torn answer is worth another try; a page, or a key that two readers would read differently, is none."""
    with pytest.raises(trouble):
        manifest_in(raw, "x")


@pytest.mark.parametrize(
    "good",
    [
        image("model", "template", "license", "params"),
        image("model", "projector", "prompt", "system", "messages", "adapter"),
        image("tensor", "json", "tensor"),
        image("model", "draft", "embed", "whatever-comes-next"),
        document(f"{LAYER_TYPE}model", f"{OCI}layer.v1.tar"),
        {key: value for key, value in image("model").items() if key != "mediaType"},
        image("model") | {"mediaType": f"{OCI}manifest.v1+json"},
        image("model", config=f"{OCI}config.v1+json"),
        image("model", annotations={"a": "b"}),
        document(),
        document() | {"layers": None},
    ],
)
def test_what_ollama_serves_is_not_refused(good: dict[str, Any]) -> None:
    """Every kind of layer that Ollama knows or passes over, either family of media types, and what runs elsewhere."""
    assert manifest_in(json.dumps(good).encode(), "x").config.size == len(CONFIG)


def judged(manifest: dict[str, Any], **contents: bytes) -> None:
    read = manifest_in(json.dumps(manifest).encode(), "x")
    of_kind = {LAYER_TYPE + kind: content for kind, content in contents.items()}

    def content(layer: Layer) -> bytes:
        return contents.get("config", CONFIG) if layer == read.config else of_kind[layer.media_type]

    need_small_files(read, "x", content)


GOOD_FILES: list[dict[str, bytes]] = [
    {},
    {"config": b"{}"},
    {"config": b'{"model_families":null,"context_length":4096,"capabilities":["tools"],"model_type":"\\ud800"}'},
    {"config": b'{"rootfs":{"diff_ids":["sha256:1"]},"base_name":7,"draft":{"a":1}}'},
    {"template": b"{{ range .Messages }}{{ .Content }}{{ end }}"},
    {"params": b'{"stop":["a"],"num_ctx":1e3}', "messages": b'[{"role":"user","content":"hi"}]'},
    {"messages": b"null"},
]
BAD_FILES: list[tuple[dict[str, bytes], str]] = [
    ({"config": b"[]"}, "no JSON object"),
    ({"config": b"no json"}, "no JSON"),
    ({"config": b'{"model_families":[NaN]}'}, "NaN is no number"),
    ({"config": b'{"model_type":7}'}, "says for 'model_type'"),
    ({"config": b'{"model_families":[1]}'}, "says for 'model_families'"),
    ({"config": b'{"context_length":"4096"}'}, "says for 'context_length'"),
    ({"config": b"[" * 90_000}, "too deep"),
    ({"template": b"{{if .A}}" * 2_000}, "2,000 blocks are never ended"),
    ({"template": b"{{" * 15_000}, "template of x is none"),
    ({"params": b"[1]"}, "no JSON object"),
    ({"messages": b"{}"}, "no JSON list"),
]


@pytest.mark.parametrize("files", GOOD_FILES)
def test_small_files_that_can_be_read(files: dict[str, bytes]) -> None:
    """What Go reads, or passes over, is taken."""
    judged(image("model", *(kind for kind in files if kind != "config")), **files)


@pytest.mark.parametrize(("files", "says"), BAD_FILES)
def test_small_files_that_no_server_reads(files: dict[str, bytes], says: str) -> None:
    """What Go refuses is refused by name, since each load of such a model would fail."""
    with pytest.raises(Unsupported, match=says):
        judged(image("model", *(kind for kind in files if kind != "config")), **files)


def test_a_model_has_weights_or_runs_elsewhere() -> None:
    """Without weights there is nothing to serve, unless the config names another host."""
    with pytest.raises(Unsupported, match="has no weights"):
        judged(image("license"), license=b"mine")
    judged(document(), config=b'{"remote_host":"https://ollama.com","remote_model":"m"}')


def test_the_small_files_are_small() -> None:
    """What is fetched first is the config and the texts, each once."""
    read = manifest_in(json.dumps(image("model", "license", "license", "params")).encode(), "x")
    assert [layer.media_type.rpartition(".")[2] for layer in small_files(read)] == ["v1+json", "license", "params"]


# -- through a worker --------------------------------------------------------------------------------------------------


class Odd(SimModel):
    """A registry's answer in the place of a manifest."""

    answer = b""

    @cached_property
    def manifest(self) -> bytes:
        return self.answer


@dataclass(frozen=True)
class Pulled:
    state: JobState
    classes: list[str | None]
    said: str
    served: dict[str, int]


@pytest.fixture
def pulled(tmp_path: Path) -> Callable[[SimModel], Pulled]:
    """A pull of a model that is all that a registry has."""

    def pull(model: SimModel) -> Pulled:
        with RegistryDouble([model]) as registry, httpx.Client(timeout=PATIENCE) as client:
            scene = Scene(tmp_path, registry.url)
            store = scene.store()
            try:
                job = worked(store, scene.context(client), post(store, model=str(model.name), attempts=3))
            finally:
                store.close()
            assert [path for path in (tmp_path / "models" / "staging").rglob("*") if path.is_file()] == []
            said = "; ".join(str(each.message) for each in job.attempts)
            return Pulled(job.state, [each.failure_class for each in job.attempts], said, dict(registry.served))

    return pull


def test_a_file_that_is_no_model_ends_its_job_at_once(pulled: Callable[[SimModel], Pulled]) -> None:
    """One attempt of the class `refused`, not a byte of a blob, and nothing is listed or staged."""
    odd = Odd(MODEL.name, "llama", "1B", "F16", MODEL.layers)
    object.__setattr__(odd, "answer", json.dumps(INDEX).encode())
    end = pulled(odd)
    assert (end.state, end.classes, end.served) == (JobState.FAILED, ["refused"], {})
    assert "an index of 2 manifests" in end.said


def test_a_template_that_go_refuses_costs_no_weights(pulled: Callable[[SimModel], Pulled]) -> None:
    """The small files are fetched and looked at first: of the weights not a byte comes."""
    heavy = weights("heavy", 500_000)
    model = SimModel(ModelName.parse("odd"), "llama", "1B", "F16", (heavy, text("template", "{{if .A}}" * 2_000)))
    end = pulled(model)
    assert (end.state, end.classes) == (JobState.FAILED, ["refused"])
    assert "2,000 blocks are never ended" in end.said
    assert heavy.digest not in end.served


def test_a_good_model_is_fetched_once(pulled: Callable[[SimModel], Pulled]) -> None:
    """To look at the small files first costs no byte twice."""
    layers = (weights("good", 100_000), text("template", "{{ .Prompt }}"), text("license", "mine"))
    model = SimModel(ModelName.parse("good"), "llama", "1B", "F16", layers)
    end = pulled(model)
    assert end.state is JobState.SUCCEEDED, end.said
    assert end.served == {digest: blob.size for digest, blob in model.blobs.items()}
    assert isinstance(model.layers[0], SimLayer)
