"""Promises of jobs.models.gguf."""

import io
import math
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.core.errors import Corrupt
from jobs.models import gguf
from jobs.models.gguf import Elided, GgufHeader, MemoryFacts, Tensor
from jobs.testing.gguf import encoded

LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.file_type": 15,
    "llama.block_count": 28,
    "llama.context_length": 131_072,
    "llama.embedding_length": 3_072,
    "llama.attention.head_count": 24,
    "llama.attention.head_count_kv": 8,
    "llama.attention.key_length": 128,
    "llama.attention.value_length": 128,
}


def parsed(raw: bytes) -> GgufHeader:
    return gguf.parse(io.BytesIO(raw), len(raw))


def facts(**values: Any) -> MemoryFacts:
    return MemoryFacts.of(
        parsed(encoded({"general.architecture": "x", **{f"x.{key}": each for key, each in values.items()}}))
    )


NAMES = st.text(st.characters(codec="utf-8"), max_size=30)
VALUES = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=50),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.floats(width=32, allow_nan=False),
    st.lists(st.integers(0, 2**32 - 1), max_size=20),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5),
)
TENSORS = st.lists(
    st.builds(Tensor, NAMES, st.integers(0, 40), st.lists(st.integers(0, 2**14), max_size=4).map(tuple)), max_size=5
)


def as_read(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return gguf.shortest(value) if isinstance(value, float) else value


def digits_of(number: float) -> int:
    """How many digits name it, where it may be."""
    return len(repr(number).partition("e")[0].replace(".", "").strip("-0"))


@given(st.floats(width=32, allow_nan=False))
@example(number=999999995904.0)
def test_fractions_are_the_shortest_that_mean_the_same(number: float) -> None:
    """A number of single precision is read with as few digits as name it."""
    assert struct.pack("<f", gguf.shortest(number)) == struct.pack("<f", number)
    assert digits_of(gguf.shortest(number)) <= digits_of(number)
    assert gguf.shortest(struct.unpack("<f", struct.pack("<f", 1e-05))[0]) == 1e-05


@given(st.dictionaries(NAMES, VALUES, max_size=8), TENSORS, st.sampled_from(gguf.VERSIONS))
def test_what_was_written_is_read(values: dict[str, Any], tensors: list[Tensor], version: int) -> None:
    """Keys, values and tensors come out as they went in, and the elements are counted."""
    header = parsed(encoded(values, tensors, version=version))

    assert header.version == version
    assert header.values == {key: as_read(each) for key, each in values.items()}
    assert list(header.tensors) == tensors
    assert header.parameters == sum(math.prod(each.shape) for each in tensors)


@given(st.data())
def test_every_torn_header_is_corrupt(data: st.DataObject) -> None:
    """A file that ends anywhere inside its header says so."""
    raw = encoded(LLAMA | {"tokenizer.ggml.tokens": ["a", "bc", "def"]}, [Tensor("noise", 24, (7, 3))])
    whole = len(raw.rstrip(b"\0")) - 20
    with pytest.raises(Corrupt, match=r"torn|not GGUF"):
        parsed(raw[: data.draw(st.integers(0, whole))])


@given(st.binary(max_size=300), st.integers(0, 200))
def test_hostile_headers_never_do_worse_than_corrupt(noise: bytes, at: int) -> None:
    """Whatever bytes stand in a header, it is read or it is Corrupt."""
    raw = bytearray(encoded(LLAMA, [Tensor("noise", 24, (7, 3))]))
    raw[4 + at : 4 + at + len(noise)] = noise
    for attempt in (bytes(raw), b"GGUF" + noise, noise):
        with suppress(Corrupt):
            parsed(attempt)


def header_of(tensors: int, keys: int, rest: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest


def key(kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", 1) + b"k" + struct.pack("<I", kind) + value


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "torn"),
        (b"FUGG" + bytes(40), "not GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (header_of(2**63, 0, b""), "9,223,372,036,854,775,808 tensors"),
        (header_of(0, 2**40, b""), "1,099,511,627,776 keys"),
        (header_of(0, 1, struct.pack("<Q", 2**60)), "a key of the GGUF header has"),
        (header_of(0, 1, key(13, b"")), "kind 13"),
        (header_of(0, 1, key(9, struct.pack("<IQ", 9, 1))), "array of kind 9"),
        (header_of(0, 1, key(9, struct.pack("<IQ", 8, 2**60))), "texts in arrays"),
        (header_of(0, 1, key(9, struct.pack("<IQ", 10, 2**60))), "torn"),
        (header_of(0, 1, key(8, struct.pack("<Q", 2**62))), "torn"),
        (header_of(1, 0, struct.pack("<QI", 0, 2**31)), "dimensions"),
        (header_of(1, 0, struct.pack("<QI3QIQ", 0, 3, 2**40, 2**40, 2, 0, 0)), "more elements than"),
    ],
)
def test_a_lie_is_told_apart(raw: bytes, says: str) -> None:
    """Sizes and counts beyond all sense are refused before anything of that size is read, by a message that says so."""
    with pytest.raises(Corrupt, match=says):
        parsed(raw)


def test_texts_may_not_add_up_without_end() -> None:
    """Many keys of an allowed length are refused together, before they fill the memory."""
    long = "x" * gguf.MAX_TEXT_BYTES
    with pytest.raises(Corrupt, match="texts of the GGUF header"):
        parsed(encoded({str(number): long for number in range(20)}))


def test_long_values_are_passed_over() -> None:
    """A vocabulary or a huge text is counted and not kept; what follows is read."""
    values = {
        "tokenizer.ggml.tokens": ["token"] * 5_000,
        "tokenizer.ggml.scores": [0.5] * 5_000,
        "big": "x" * (gguf.MAX_TEXT_BYTES + 1),
        "last": 7,
    }

    read = parsed(encoded(values)).values

    assert read == {
        "tokenizer.ggml.tokens": Elided(5_000),
        "tokenizer.ggml.scores": Elided(5_000),
        "big": Elided(gguf.MAX_TEXT_BYTES + 1),
        "last": 7,
    }


def test_facts_of_a_model() -> None:
    """The facts that decide about memory are found under the architecture's name."""
    header = parsed(encoded(LLAMA, [Tensor("a", 0, (10, 20))]))

    assert MemoryFacts.of(header) == MemoryFacts(
        architecture="llama",
        layers=28,
        context=131_072,
        embedding=3_072,
        heads=24,
        kv_heads=(8,),
        key_length=128,
        value_length=128,
        file_type=15,
        parameters=200,
    )
    assert MemoryFacts.of(header).kept_per_token == 28 * 8 * 256


def test_heads_may_differ_from_layer_to_layer() -> None:
    """An array of heads counts layer by layer; without lengths, a head's share of the embedding is its length."""
    mixed = facts(
        block_count=3, embedding_length=64, **{"attention.head_count": 8, "attention.head_count_kv": [0, 4, 2]}
    )

    assert mixed.kv_heads == (0, 4, 2)
    assert mixed.kept_per_token == 6 * (8 + 8)


def test_numbers_beyond_all_sense_cost_nothing() -> None:
    """A header that tells of two thousand million layers is worked with like any other."""
    most = 2**31 - 1
    absurd = facts(block_count=most, **{"attention.head_count_kv": most, "attention.key_length": most})
    assert absurd.kept_per_token == most**3


def test_kinds_of_model_are_told_apart() -> None:
    """Pooling and vision are facts; a header that tells nothing tells nothing."""
    assert facts(pooling_type=1).pools
    assert facts(**{"vision.block_count": 3}).has_vision
    assert facts() == MemoryFacts(architecture="x")
    assert facts(block_count=True, embedding_length="wide").kept_per_token == 0


def test_a_file_is_read_and_its_absence_told(tmp_path: Path) -> None:
    """A file's header is read whatever follows it; a file that is not there is not found."""
    (tmp_path / "model").write_bytes(encoded(LLAMA) + b"weights" * 1000)

    assert gguf.read(tmp_path / "model").architecture == "llama"
    with pytest.raises(FileNotFoundError):
        gguf.read(tmp_path / "absent")
