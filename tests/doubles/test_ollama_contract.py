"""What we rely on in an Ollama server, asked of the simulator always and of a real one where OLLAMA_BIN names it."""

import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from jobs.core.clock import SystemClock
from jobs.core.errors import Corrupt, NotFound, PartsDamaged
from jobs.core.model_name import ModelName
from jobs.core.progress import Progress
from jobs.testing.models import LIBRARY, SimModel
from jobs.testing.registry.faults import RegistryFault
from tests.doubles.conftest import SMALL, Asker, gguf

# -- pulling -----------------------------------------------------------------------------------------------------------


def test_a_pull_of_a_small_model_says_four_words_and_keeps_the_raw_manifest(asker: Asker) -> None:
    """A layer that is there sooner than the first frame is due has none; the manifest is the registry's bytes."""
    answer = asker.pull("small")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    statuses = [json.loads(line)["status"] for line in answer.text.splitlines()]
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    host = f"localhost:{urlsplit(asker.registry.url).port}"
    assert (asker.server.models / "manifests" / host / "library/small/latest").read_bytes() == SMALL.manifest
    assert all(asker.blob(blob).read_bytes() == blob.read() for blob in SMALL.blobs.values())
    assert len(list((asker.server.models / "blobs").iterdir())) == len(SMALL.blobs)


def test_layers_that_are_there_have_one_frame_each(asker: Asker) -> None:
    """A blob on disk is a cache hit: one frame with `completed` equal to `total`, in manifest order, config last."""
    asker.pull("small")

    hits = [frame for frame in asker.frames("small") if "digest" in frame]

    assert [frame["digest"] for frame in hits] == list(SMALL.blobs)
    assert all(frame["total"] == frame["completed"] for frame in hits)
    assert hits[0]["status"] == f"pulling {next(iter(SMALL.blobs))[7:19]}"


def test_a_blob_on_disk_is_trusted_by_existence(asker: Asker) -> None:
    """An emptied blob survives a pull that says success; its frame leaves out the zeros."""
    asker.pull("small")
    blob = next(iter(SMALL.blobs.values()))
    asker.blob(blob).write_bytes(b"")

    frames = asker.frames("small")

    assert frames[-1] == {"status": "success"}
    assert frames[1] == {"status": f"pulling {blob.digest[7:19]}", "digest": blob.digest}
    assert asker.blob(blob).stat().st_size == 0


def test_an_unknown_model_is_an_error_line_after_a_200(asker: Asker) -> None:
    """The stream has begun when the registry says 404; without a stream the same text comes with 500."""
    said = {"error": "pull model manifest: file does not exist"}

    assert asker.frames("nope") == [{"status": "pulling manifest"}, said]
    whole = asker.pull("nope", stream=False)
    assert (whole.status_code, whole.json()) == (500, said)


def test_a_pull_without_a_stream_answers_its_last_frame(asker: Asker) -> None:
    """`stream: false` waits and answers success alone."""
    whole = asker.pull("small", stream=False)

    assert (whole.status_code, whole.json()) == (200, {"status": "success"})
    assert whole.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize(
    ("status", "error"),
    [(412, "pull model manifest: 412: \n\nThe model you are"), (500, "pull model manifest: 500: ")],
)
def test_the_registrys_refusals_are_told_with_their_status(asker: Asker, status: int, error: str) -> None:
    """What the registry says stands behind its status in the error line."""
    asker.registry.faults.add(RegistryFault("manifest", "status", status))

    last = asker.frames("small")[-1]

    assert last["error"].startswith(error)


def test_a_wrong_byte_is_found_at_the_end_and_the_file_removed(asker: Asker) -> None:
    """A digest mismatch names what it wanted, and the next pull fetches the blob again."""
    digest = next(iter(SMALL.blobs))
    asker.registry.faults.add(
        RegistryFault("cdn", "flip", 3, digest=digest, after=1)
    )  # the HEAD for its size comes first

    last = asker.frames("small")[-1]

    assert last["error"].startswith(f"digest mismatch, file must be downloaded again: want {digest}, got sha256:")
    assert not asker.blob(SMALL.blobs[digest]).exists()
    assert asker.frames("small")[-1] == {"status": "success"}


def test_an_empty_part_file_poisons_every_pull_of_its_blob(asker: Asker) -> None:
    """One torn part file is an EOF until somebody removes it; the client says which files."""
    (asker.server.models / "blobs").mkdir(exist_ok=True)
    part = Path(f"{asker.blob(next(iter(SMALL.blobs.values())))}-partial-0")
    part.write_bytes(b"")

    assert asker.frames("small") == [{"status": "pulling manifest"}, {"error": "EOF"}]
    with pytest.raises(PartsDamaged, match="EOF") as raised:
        asker.ollama.pull(asker.name("small"), progress=Progress(SystemClock()), insecure=True)
    assert "sha256-*-partial-*" in (raised.value.hint or "")
    part.unlink()
    assert asker.frames("small")[-1] == {"status": "success"}


def test_a_left_part_is_taken_up_where_it_ended(asker: Asker) -> None:
    """Part files in Ollama's layout resume: only the missing bytes are asked for."""
    (asker.server.models / "blobs").mkdir(exist_ok=True)
    model = next(model for model in LIBRARY if model.name.model == "tiny")
    layer = model.layers[0]
    half = layer.size // 2
    Path(f"{asker.blob(layer)}-partial").write_bytes(layer.read(0, half).ljust(layer.size, b"\0"))
    part = {"N": 0, "Offset": 0, "Size": layer.size, "Completed": half}
    Path(f"{asker.blob(layer)}-partial-0").write_text(json.dumps(part))
    asker.registry.reset()

    frames = asker.frames("tiny")

    assert frames[-1] == {"status": "success"}
    assert asker.blob(layer).read_bytes() == layer.read()
    asked = [seen.range for seen in asker.registry.seen if seen.route == "cdn" and layer.digest in seen.path]
    assert f"bytes={half}-{layer.size - 1}" in asked


def test_the_registry_is_asked_as_ollama_asks(asker: Asker) -> None:
    """HEAD for the size, GET for the address, parts by range and without naming Ollama to the CDN."""
    asker.registry.reset()

    asker.frames("small")

    seen = [(each.method, each.route) for each in asker.registry.seen]
    assert seen[:2] == [("GET", "manifest"), ("HEAD", "blob")]
    agents = {each.route: each.user_agent or "" for each in asker.registry.seen}
    assert agents["manifest"].startswith("ollama/")
    assert any(each.range for each in asker.registry.seen if each.route == "cdn")


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "missing request body"),
        ({"model": ""}, 400, "invalid model name"),
        ({"model": "a/b/c/d/e"}, 400, "invalid model name"),
        ({"model": "../etc"}, 400, "invalid model name"),
        ({"model": "tiny@sha256:abc"}, 400, "invalid model name"),
        ({"model": "x:cloud:local"}, 400, 'use either :local or :cloud, not both: "x:cloud:local"'),
    ],
)
def test_a_pull_is_refused_before_the_stream(asker: Asker, body: Any, status: int, error: str) -> None:
    """What is wrong with the request itself has a status of its own."""
    assert asker.ask("POST", "/api/pull", body) == (status, {"error": error})


# -- what is there -----------------------------------------------------------------------------------------------------


def test_an_empty_server_lists_nothing_in_two_ways(asker: Asker) -> None:
    """The native list is empty, the OpenAI one is null."""
    assert asker.ask("GET", "/api/tags") == (200, {"models": []})
    assert asker.ask("GET", "/v1/models") == (200, {"object": "list", "data": None})
    assert asker.ask("GET", "/api/ps") == (200, {"models": []})


def test_a_pulled_model_is_listed_with_its_manifests_digest_and_size(asker: Asker) -> None:
    """Name with tag, hex digest without prefix, the sum of the layers, details from the config blob."""
    asker.pull("small")

    status, listed = asker.ask("GET", "/api/tags")

    assert status == 200
    (entry,) = listed["models"]
    assert entry["name"] == entry["model"] == asker.name("small:latest")
    assert entry["digest"] == hashlib.sha256(SMALL.manifest).hexdigest()
    assert entry["size"] == SMALL.size
    assert entry["capabilities"] == ["completion"]
    assert entry["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "1B",
        "quantization_level": "Q4_K_M",
        "context_length": 131_072,
        "embedding_length": 2048,
    }
    assert set(entry) == {"name", "model", "modified_at", "size", "digest", "details", "capabilities"}
    assert asker.ollama.tags()[0].details.families == ("llama",)


def test_the_openai_list_names_the_namespace_as_owner(asker: Asker) -> None:
    """Ids are the listed names."""
    asker.pull("small")

    _, listed = asker.ask("GET", "/v1/models")

    assert listed["object"] == "list"
    (entry,) = listed["data"]
    assert entry | {"created": 0} == {
        "id": asker.name("small:latest"),
        "object": "model",
        "created": 0,
        "owned_by": "library",
    }


def test_a_manifest_put_there_from_outside_is_listed_at_once(asker: Asker) -> None:
    """Lists read the directory anew: no restart is needed for a model that another process published."""
    asker.pull("small")
    source = asker.server.models / "manifests" / f"localhost:{urlsplit(asker.registry.url).port}" / "library/small"
    target = asker.server.models / "manifests/registry.ollama.ai/library/outside/latest"
    target.parent.mkdir(parents=True)
    target.write_bytes((source / "latest").read_bytes())

    assert "outside:latest" in {each.name for each in asker.ollama.tags()}
    target.unlink()
    assert "outside:latest" not in {each.name for each in asker.ollama.tags()}


def test_a_torn_manifest_is_left_out_of_the_list_and_an_eof_elsewhere(asker: Asker) -> None:
    """Empty manifests are no model in the list, but a 500 when somebody names them."""
    target = asker.server.models / "manifests/registry.ollama.ai/library/torn/latest"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"")

    assert asker.ask("GET", "/api/tags") == (200, {"models": []})
    assert asker.ask("POST", "/api/generate", {"model": "torn"}) == (500, {"error": "EOF"})
    assert asker.ask("POST", "/api/show", {"model": "torn"}) == (500, {"error": "EOF"})
    assert asker.ask("DELETE", "/api/delete", {"model": "torn"}) == (500, {"error": "EOF"})
    with pytest.raises(Corrupt):
        asker.ollama.delete("torn")


def test_show_tells_what_the_layers_hold(asker: Asker) -> None:
    """License, parameters padded to thirty columns, details, and where the blobs lie."""
    asker.pull("small")

    status, shown = asker.ask("POST", "/api/show", {"model": asker.name("small")})

    assert status == 200
    assert shown["license"] == "free"
    assert shown["parameters"] == f'{"stop":<30} "<end>"'
    assert shown["details"]["family"] == "llama"
    assert shown["capabilities"] == ["completion"]
    assert shown["model_info"]["general.architecture"] == "llama"
    assert str(asker.blob(SMALL.layers[0])) in shown["modelfile"]


def test_a_missing_blob_is_remembered_as_a_model_that_cannot(asker: Asker) -> None:
    """A manifest seen before its weights stays "does not support" for generating, also after the weights came."""
    bare = SimModel(ModelName.parse("early"), "llama", "1B", "Q4_K_M", (gguf("llama"),), capabilities=())
    target = asker.server.models / "manifests/registry.ollama.ai/library/early/latest"
    target.parent.mkdir(parents=True, exist_ok=True)
    asker.blob(bare.config).write_bytes(bare.config.read())
    target.write_bytes(bare.manifest)
    refused = (400, {"error": '"early" does not support generate'})

    assert asker.ask("POST", "/api/generate", {"model": "early"}) == refused
    asker.blob(bare.layers[0]).write_bytes(bare.layers[0].read())
    assert asker.ask("POST", "/api/generate", {"model": "early"}) == refused


# -- taking away and copying -------------------------------------------------------------------------------------------


def test_delete_keeps_what_another_manifest_lists(asker: Asker) -> None:
    """Shared blobs stay, the model's own go, at once and without grace."""
    asker.pull("small")
    asker.pull("small:other")

    assert asker.ask("DELETE", "/api/delete", {"model": asker.name("small:other")}) == (200, "")

    assert [each.name for each in asker.ollama.tags()] == [asker.name("small:latest")]
    left = {path.name for path in (asker.server.models / "blobs").iterdir()}
    assert left == {digest.replace(":", "-") for digest in SMALL.blobs}


def test_names_are_found_whatever_their_case(asker: Asker) -> None:
    """A model can be deleted under another spelling."""
    asker.pull("small")

    assert asker.ask("DELETE", "/api/delete", {"model": asker.name("SMALL")}) == (200, "")
    assert asker.ollama.tags() == []


def test_a_copy_is_a_second_manifest(asker: Asker) -> None:
    """Copying writes no blob."""
    asker.pull("small")

    assert asker.ask("POST", "/api/copy", {"source": asker.name("small"), "destination": "mine"}) == (200, "")

    names = {each.name for each in asker.ollama.tags()}
    assert names == {"mine:latest", asker.name("small:latest")}


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", "/api/generate", {"model": "x"}, 404, "model 'x' not found"),
        ("POST", "/api/generate", {"model": ""}, 404, "model '' not found"),
        ("POST", "/api/generate", {"model": "a b"}, 400, "invalid model name"),
        ("POST", "/api/generate", b"", 400, "missing request body"),
        ("POST", "/api/generate", b"nope", 400, "invalid character 'o' in literal null (expecting 'u')"),
        ("POST", "/api/generate", b"{", 400, "unexpected EOF"),
        ("POST", "/api/generate", b"null", 404, "model '' not found"),
        ("POST", "/api/generate", b"[]", 400, "json: cannot unmarshal array into Go value of type api.GenerateRequest"),
        (
            "POST",
            "/api/generate",
            {"model": 5},
            400,
            "json: cannot unmarshal number into Go struct field GenerateRequest.model of type string",
        ),
        ("POST", "/api/generate", {"MODEL": "x"}, 404, "model 'x' not found"),
        ("POST", "/api/generate", {"model": "x", "keep_alive": "5"}, 400, 'time: missing unit in duration "5"'),
        ("POST", "/api/generate", {"model": "x", "keep_alive": True}, 400, "Unsupported type: 'bool'"),
        ("POST", "/api/generate", {"model": "x:cloud"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        ("POST", "/api/chat", {"model": "x"}, 404, "model 'x' not found"),
        ("POST", "/api/chat", {"model": ""}, 400, "model is required"),
        ("POST", "/api/chat", {"model": "a b"}, 400, "invalid model name"),
        ("POST", "/api/chat", {"model": " x "}, 404, "model ' x ' not found"),
        ("POST", "/api/chat", {"model": "  "}, 400, "model is required"),
        ("POST", "/api/embed", {"model": "x"}, 404, 'model "x" not found, try pulling it first'),
        ("POST", "/api/embed", {"model": "", "input": "a"}, 404, "model '' not found"),
        ("POST", "/api/embed", {"model": "x", "input": 5}, 400, "invalid input type"),
        ("POST", "/api/embeddings", {"model": "x"}, 404, 'model "x" not found, try pulling it first'),
        ("POST", "/api/embeddings", {"model": ""}, 400, "model is required"),
        ("POST", "/api/show", {"model": "x"}, 404, "model 'x:latest' not found"),
        ("POST", "/api/show", {}, 400, "model is required"),
        ("POST", "/api/show", {"model": "a b"}, 400, "invalid model name"),
        ("POST", "/api/show", {"model": " x "}, 404, "model 'x:latest' not found"),
        ("POST", "/api/embed", {"model": " x", "input": "a"}, 404, 'model " x" not found, try pulling it first'),
        ("DELETE", "/api/delete", {"model": " x "}, 404, "model ' x ' not found"),
        ("DELETE", "/api/delete", {"model": "x"}, 404, "model 'x' not found"),
        ("DELETE", "/api/delete", {"model": "a/b/c/d/e"}, 400, 'name "a/b/c/d/e" is invalid'),
        ("DELETE", "/api/delete", {}, 400, "model is required"),
        ("POST", "/api/copy", {"source": "nope", "destination": "b"}, 404, 'model "nope" not found'),
        ("POST", "/api/copy", {"source": "a b", "destination": "b"}, 400, 'source "a b" is invalid'),
        ("POST", "/api/copy", {"source": "nope", "destination": ""}, 400, 'destination "" is invalid'),
        ("POST", "/api/push", {}, 400, "model is required"),
        ("POST", "/api/create", {"model": "x"}, 400, "neither 'from' or 'files' was specified"),
    ],
)
def test_each_route_refuses_in_its_own_words(
    asker: Asker, *, method: str, path: str, body: Any, status: int, error: str
) -> None:
    """Status and text of a refusal differ from route to route; programs match on them."""
    got, said = asker.ask(method, path, body)

    assert (got, said) == (status, {"error": error})


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "message"),
    [
        ("/v1/chat/completions", {"model": "x", "messages": [{"role": "user", "content": "a"}]}, 404, "not_found_error",
         "model 'x' not found"),
        ("/v1/chat/completions", {"model": "x", "messages": []}, 400, "invalid_request_error",
         "[] is too short - 'messages'"),
        ("/v1/completions", {"model": "x", "prompt": "a"}, 404, "not_found_error", "model 'x' not found"),
        ("/v1/embeddings", {"model": "x", "input": "a"}, 404, "not_found_error",
         'model "x" not found, try pulling it first'),
        ("/v1/embeddings", {"model": "x"}, 400, "invalid_request_error", "invalid input"),
    ],
)  # fmt: skip
def test_openai_routes_refuse_in_openais_shape(
    asker: Asker, *, path: str, body: Any, status: int, kind: str, message: str
) -> None:
    """The native text stands in OpenAI's error object."""
    error = {"message": message, "type": kind, "param": None, "code": None}

    assert asker.ask("POST", path, body) == (status, {"error": error})


def test_one_openai_model_is_found_or_not(asker: Asker) -> None:
    """The text names the expanded tag; a name with a slash cannot be asked for at all."""
    status, said = asker.ask("GET", "/v1/models/nope")

    assert (status, said["error"]["message"]) == (404, "model 'nope:latest' not found")
    assert asker.ask("GET", "/v1/models/a%2Fb") == (404, "404 page not found")


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"model": "x", "max_tokens": 5, "messages": [{"role": "user", "content": "a"}]}, 404, "not_found_error"),
        ({"model": "x", "messages": [{"role": "user", "content": "a"}]}, 400, "invalid_request_error"),
        ({"model": "x", "max_tokens": 5, "messages": []}, 400, "invalid_request_error"),
        ({"max_tokens": 5, "messages": [{"role": "user", "content": "a"}]}, 400, "invalid_request_error"),
    ],
)
def test_the_anthropic_route_refuses_in_anthropics_shape(asker: Asker, body: Any, status: int, kind: str) -> None:
    """An error object with a type, a message and a request id."""
    got, said = asker.ask("POST", "/v1/messages", body)

    assert (got, said["type"], said["error"]["type"]) == (status, "error", kind)
    assert said["request_id"].startswith("req_")
    assert len(said["request_id"]) == 28


def test_plain_refusals_are_plain_text(asker: Asker) -> None:
    """A path that is none is 404, a wrong method 405, both as text."""
    assert asker.ask("GET", "/nothing/here") == (404, "404 page not found")
    assert asker.ask("GET", "/api/generate") == (405, "405 method not allowed")
    assert asker.ask("GET", "/metrics") == (404, "404 page not found")


def test_a_wrong_method_is_told_the_right_ones(asker: Asker) -> None:
    """The Allow header names what the path takes."""
    answer = asker.http.request("PUT", "/api/tags")

    assert (answer.status_code, answer.headers["allow"]) == (405, "HEAD, GET")


@pytest.mark.parametrize(
    ("path", "status", "location"),
    [("/api/tags/", 301, "/api/tags"), ("/api//tags", 307, "/api/tags"), ("/v1/models/", 301, "/v1/models")],
)
def test_a_path_that_is_not_clean_is_moved(asker: Asker, path: str, status: int, location: str) -> None:
    """A slash too many leads to the clean path, with a redirect that not every client follows."""
    answer = asker.http.get(path)

    assert (answer.status_code, answer.headers["location"]) == (status, location)


def test_a_known_origin_is_echoed(asker: Asker) -> None:
    """A browser's page of this machine may read the answer, and a preflight is answered without a body."""
    origin = {"Origin": "http://localhost:3000"}

    answer = asker.http.get("/api/tags", headers=origin)
    preflight = asker.http.options("/api/chat", headers=origin | {"Access-Control-Request-Method": "POST"})

    assert answer.headers["access-control-allow-origin"] == origin["Origin"]
    assert (preflight.status_code, preflight.content) == (204, b"")


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Origin": "https://evil.example", "X-More": "1"}],
)
def test_foreign_origins_and_hosts_are_refused_without_a_word(asker: Asker, headers: dict[str, str]) -> None:
    """On loopback a browser's page of another site gets 403 and nothing else."""
    assert asker.ask("GET", "/api/tags", None, **headers) == (403, "")


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://localhost:3000"}, {"Host": "localhost:1"}, {"Host": "192.168.1.5"}, {"Host": "x.internal"}],
)
def test_local_origins_and_hosts_are_let_in(asker: Asker, headers: dict[str, str]) -> None:
    """What looks like this machine or its network may ask."""
    assert asker.ask("GET", "/api/version", None, **headers)[0] == 200


def test_the_root_says_it_is_running(asker: Asker) -> None:
    """The liveness text that everybody greps for."""
    assert asker.ask("GET", "/") == (200, "Ollama is running")
    assert asker.http.head("/").status_code == 200
    assert asker.ask("GET", "/api/version")[1].keys() == {"version"}


def test_unloading_what_is_not_loaded_is_no_error(asker: Asker) -> None:
    """`keep_alive: 0` without a prompt answers one object at once."""
    asker.pull("small")

    status, said = asker.ask("POST", "/api/generate", {"model": asker.name("small"), "keep_alive": 0})

    assert status == 200
    assert said | {"created_at": ""} == {
        "model": asker.name("small"),
        "created_at": "",
        "response": "",
        "done": True,
        "done_reason": "unload",
    }
    status, said = asker.ask("POST", "/api/chat", {"model": asker.name("small"), "messages": [], "keep_alive": 0})
    assert (status, said["done_reason"], said["message"]) == (200, "unload", {"role": "assistant", "content": ""})


def test_the_client_names_what_is_missing(asker: Asker) -> None:
    """A model that is not there is NotFound, with how to get it."""
    with pytest.raises(NotFound, match="'x' not found") as raised:
        list(asker.ollama.generate("x", "a"))
    assert "pull" in (raised.value.hint or "")
