"""The doubles' models."""

import hashlib
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.core.model_name import ModelName
from jobs.models import gguf
from jobs.testing.models import LIBRARY, SCALE, SimModel, arbitrary, find, weights

MIB = 1 << 20


@given(st.integers(0, 3 * MIB), st.integers(0, 3 * MIB))
def test_any_range_is_the_slice_of_the_whole(start: int, length: int) -> None:
    """A range made on the spot equals the same slice of the whole blob."""
    blob = weights("slices", 2 * MIB + 12_345)
    assert blob.read(start, start + length) == blob.read()[start : start + length]


def test_blocks_of_a_blob_differ() -> None:
    """Two blocks of one blob differ, so a range written to the wrong place changes the digest."""
    whole = weights("blocks", 8 * MIB).read()
    assert len({whole[at : at + MIB] for at in range(0, 8 * MIB, MIB)}) == 8


def test_manifests_name_their_blobs() -> None:
    """Each manifest lists config and layers with the digest and size their bytes have."""
    for model in LIBRARY:
        manifest = json.loads(model.manifest)
        for listed in (manifest["config"], *manifest["layers"]):
            blob = model.blobs[listed["digest"]]
            assert listed["size"] == blob.size
            if blob.size < MIB:
                assert listed["digest"] == "sha256:" + hashlib.sha256(blob.read()).hexdigest()
        assert model.digest == hashlib.sha256(model.manifest).hexdigest()


@pytest.mark.parametrize("model", LIBRARY, ids=lambda model: str(model.name))
def test_weights_begin_with_a_header_that_is_true(model: SimModel) -> None:
    """The library's weights are GGUF files: the header tells what the config does, and its tensor fills the file."""
    blob = model.layers[0]
    header = gguf.parse(io.BytesIO(blob.read(0, 4096)), blob.size)

    facts = gguf.MemoryFacts.of(header)
    assert facts.architecture == model.family
    assert (facts.context, facts.embedding) == (model.context_length, model.embedding_length)
    assert facts.pools == (model.capabilities == ("embedding",))
    assert facts.kept_per_token > 0
    assert len(blob.head) + facts.parameters == blob.size


@given(st.integers(0, 7_000), st.integers(0, 7_000))
def test_a_range_may_cross_the_end_of_the_header(start: int, length: int) -> None:
    """A range that begins in the header or ends in it equals the same slice of the whole blob."""
    blob = LIBRARY[-2].layers[0]
    assert blob.read(start, start + length) == blob.read()[start : start + length]


def test_sizes_are_the_real_ones_scaled() -> None:
    """deepseek-r1:32b is a hundredth of its 19.9 GB."""
    model = find(ModelName.parse("deepseek-r1:32b"))
    assert model is not None
    assert round(model.size * SCALE / 1e9, 1) == 19.9


def test_tiny_models_share_layers() -> None:
    """Models tiny and tiny:v2 have blobs of their own and blobs in common."""
    first, second = find(ModelName.parse("tiny")), find(ModelName.parse("tiny:v2"))
    assert first is not None
    assert second is not None
    assert set(first.blobs) & set(second.blobs)
    assert set(first.blobs) - set(second.blobs)


def test_names_are_found_without_regard_to_case() -> None:
    """A name is found however it is spelt; an unknown one is not there."""
    assert find(ModelName.parse("TINY")) is find(ModelName.parse("tiny:latest"))
    assert find(ModelName.parse("nothing")) is None


def test_an_arbitrary_model_has_the_size_asked_for() -> None:
    """The layers of an arbitrary model sum to its size, whatever their number."""
    model = arbitrary("odd", 1_000_003, layers=7)
    assert sum(layer.size for layer in model.layers) == 1_000_003
    assert len(model.blobs) == 8
