"""Promises of jobs.weights.manifest."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.core.errors import Corrupt
from jobs.weights.manifest import MAX_LAYERS, MAX_MANIFEST_BYTES, Layer, Manifest, ModelDetails, is_digest

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")


def entry(digest: str = A, size: Any = 1, media_type: str = "application/vnd.ollama.image.model") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def document(**changes: Any) -> bytes:
    whole = {"schemaVersion": 2, "mediaType": "m", "config": entry(C, 3), "layers": [entry(A, 10), entry(B, 20)]}
    return json.dumps({**whole, **changes}).encode()


def test_a_manifest_tells_digest_size_and_blobs() -> None:
    """The digest is that of the raw bytes, the size is the sum, and blobs are the layers and then the config."""
    raw = document()
    manifest = Manifest.parse(raw)
    assert manifest.raw == raw
    assert manifest.digest == hashlib.sha256(raw).hexdigest()
    assert manifest.size == 33
    assert [blob.digest for blob in manifest.blobs] == [A, B, C]
    assert manifest.layers[0] == Layer("application/vnd.ollama.image.model", A, 10)
    assert manifest.config.filename == "sha256-" + "c" * 64


def test_a_blob_listed_twice_is_fetched_once_and_counted_twice() -> None:
    """A digest that stands in two layers is one blob, while the size stays what Ollama shows."""
    manifest = Manifest.parse(document(layers=[entry(A, 10), entry(A, 10), entry(C, 3)]))
    assert [blob.digest for blob in manifest.blobs] == [A, C]
    assert manifest.size == 26


@pytest.mark.parametrize("layers", [None, []])
def test_a_model_without_layers_is_well_formed(layers: Any) -> None:
    """No layers, also written as null, is a manifest of its config alone."""
    assert [blob.digest for blob in Manifest.parse(document(layers=layers)).blobs] == [C]


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b"", "is empty"),
        (b"\0" * 512, "nothing but blanks"),
        (document()[:-7], "torn or no JSON"),
        (b"\xff\xfe{}", "torn or no JSON"),
        (b"[" * 100_000, "torn or no JSON"),
        (b"[]", "not a JSON object"),
        (document(schemaVersion=1), "schemaVersion 1, not 2"),
        (document(schemaVersion="2"), "schemaVersion '2', not 2"),
        (document(schemaVersion=True), "schemaVersion True, not 2"),
        (document(config=None), "config is None"),
        (document(layers={"a": 1}), "not a list"),
        (document(layers=["x"]), r"layers\[0\] is 'x'"),
        (document(layers=[entry("sha256:../../etc/passwd")]), "not sha256: and 64 hex"),
        (document(layers=[entry("sha256:" + "A" * 64)]), "not sha256: and 64 hex"),
        (document(layers=[entry(A + "\n")]), "not sha256: and 64 hex"),
        (document(layers=[entry(size=-1)]), "size -1"),
        (document(layers=[entry(size=1.5)]), "size 1.5"),
        (document(layers=[entry(size=True)]), "size True"),
        (document(layers=[entry(size=2**63)]), "not a number of bytes"),
        (document(layers=[entry(size="12")]), "size '12'"),
        (document(layers=[entry(A, 1), entry(A, 2)]), "two sizes, 1 and 2"),
        (document(layers=[entry()] * (MAX_LAYERS + 1)), "the most that makes sense"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "the most that makes sense"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_cause(raw: bytes, cause: str) -> None:
    """What is torn, empty or invalid is Corrupt, and the message names the cause."""
    with pytest.raises(Corrupt, match=cause):
        Manifest.parse(raw)


@given(st.integers(0, len(document()) - 1))
def test_every_prefix_of_a_manifest_is_torn(length: int) -> None:
    """However short a write fell, the rest is not taken for a manifest."""
    with pytest.raises(Corrupt):
        Manifest.parse(document()[:length])


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_no_input_raises_anything_but_corrupt(raw: bytes | str) -> None:
    """Whatever stands in a manifest's place, reading it ends in a Manifest or in Corrupt."""
    content = raw.encode() if isinstance(raw, str) else raw
    for parse in (Manifest.parse, ModelDetails.parse):
        try:
            parse(content)
        except Corrupt as error:
            assert str(error)  # noqa: PT017 - anything else fails the test by itself


def test_details_come_from_the_config_blob() -> None:
    """Format, family, parameter size and quantisation stand where Ollama shows them."""
    raw = (
        b'{"model_format":"gguf","model_family":"llama","model_families":["llama"],'
        b'"model_type":"3.2B","file_type":"Q4_K_M"}'
    )
    assert ModelDetails.parse(raw).as_json() == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "3.2B",
        "quantization_level": "Q4_K_M",
    }


def test_details_nobody_wrote_are_empty() -> None:
    """A config that says nothing, or says it in another type, leaves the fields empty."""
    assert ModelDetails.parse(b'{"model_families":null,"model_type":7}') == ModelDetails()


def test_a_digest_is_told_from_what_only_looks_like_one() -> None:
    """Only the exact form is a digest."""
    assert is_digest(A)
    assert not is_digest(A[:-1])
    assert not is_digest("sha512:" + "a" * 64)
