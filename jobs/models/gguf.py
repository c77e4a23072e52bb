"""What the header of a GGUF file says: keys and values, and which tensors follow. It reads no weights.

The file comes from outside, so nothing in it is trusted: sizes, counts and kinds are checked before they are used, long
values are passed over and not kept, and whatever breaks the format is `Corrupt`. Versions 2 and 3, little-endian; the
format is described in ggml's docs/gguf.md.
"""

import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from jobs.core.errors import Corrupt, os_trouble

MAGIC = b"GGUF"
VERSIONS = (2, 3)

MAX_BYTES = 128 << 20
"""Of a header: the largest vocabularies take some 10 MB."""

MAX_KEYS = 16_384
MAX_TENSORS = 16_384
"""The largest models have some 2,000 of each."""

MAX_KEY_BYTES = 65_535
MAX_NAME_BYTES = 1_024
MAX_DIMENSIONS = 8

MAX_TEXT_BYTES = 1 << 20
"""Of a text that is kept; chat templates have some 20 kB."""

MAX_KEPT_BYTES = 4 << 20
"""Of all that is kept of a header: keys, texts, numbers, and what holds them. A thousand tensors take 0.4 MB."""

KEY_BYTES, TENSOR_BYTES, NUMBER_BYTES = 200, 400, 32
"""What a key, a tensor and a number of an array cost beside their texts, as Python keeps them."""

MAX_TEXTS = 2_000_000
"""In arrays: each has to be stepped over; the largest vocabularies have 800,000, merges included."""

MAX_KEPT_ELEMENTS = 1_024
"""Of an array of numbers: one for each layer is worth knowing, one for each token is not."""

MAX_ARRAYS_ELEMENTS = 16_384
"""Of all arrays of numbers that are kept; those that come later are passed over."""

MAX_ARCHITECTURE = 100
"""Characters of an architecture's name: it is written down with each job that pulled the model."""

TEXT, ARRAY = 8, 9
NUMBERS: Mapping[int, struct.Struct] = {
    number: struct.Struct(f"<{code}")
    for number, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}

_U32, _U64 = NUMBERS[4], NUMBERS[10]
_SINGLE = 6


# ggml's and llama.cpp's numbers, as Ollama names them (ollama fs/ggml/type.go); what has no name is "unknown".
_FILE_TYPES = (
    "F32 F16 Q4_0 Q4_1 - - - Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ2_XXS IQ2_XS"
    " Q2_K_S IQ3_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ3_M IQ2_S IQ2_M IQ4_XS IQ1_M BF16 - - - TQ1_0 TQ2_0 MXFP4_MOE NVFP4"
    " Q1_0"
)
_TENSOR_KINDS = (
    "F32 F16 Q4_0 Q4_1 - - Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S"
    " IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 - - - TQ1_0 TQ2_0 - - - MXFP4 NVFP4 Q1_0"
)


def file_type_name(number: int | None) -> str:
    """How most tensors are packed, by name; empty when it has none. Ollama takes 0 for not said."""
    return _name_of(_FILE_TYPES, number or -1)


def tensor_kind_name(number: int) -> str:
    return _name_of(_TENSOR_KINDS, number) or "unknown"


def _name_of(names: str, number: int) -> str:
    known = names.split()
    return known[number].strip("-") if 0 <= number < len(known) else ""


@dataclass(frozen=True, slots=True)
class Elided:
    """An array or a text that is there, but too long to be kept."""

    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor, without its data; `kind` is ggml's number for how its elements are packed."""

    name: str
    kind: int
    shape: tuple[int, ...]


Value = int | float | bool | str | tuple[int | float | bool, ...] | Elided


@dataclass(frozen=True)
class GgufHeader:
    """`parameters` is how many elements all tensors have together."""

    version: int
    values: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    parameters: int

    @property
    def architecture(self) -> str:
        name = self.values.get("general.architecture")
        return name if isinstance(name, str) and len(name) <= MAX_ARCHITECTURE else ""

    def get(self, key: str) -> Value | None:
        """The value of a key, or of that key of the file's architecture."""
        return self.values.get(key if key.startswith(("general.", "tokenizer.")) else f"{self.architecture}.{key}")


@dataclass(frozen=True)
class MemoryFacts:
    """What decides how much memory a model takes; what a header does not tell is 0.

    Args:
        architecture: as in `llama`.
        layers: blocks, one after another.
        context: the length that the model was trained for.
        embedding: the width of its vectors.
        heads: attention heads, of the layer that has fewest.
        kv_heads: the heads whose keys and values are kept, for each layer; one number stands for all.
        key_length: of one head.
        value_length: of one head.
        has_vision: it takes images.
        pools: it makes one vector of a text, and generates nothing.
        file_type: llama.cpp's number for how most tensors are packed.
        parameters: elements of all tensors.

    """

    architecture: str = ""
    layers: int = 0
    context: int = 0
    embedding: int = 0
    heads: int = 0
    kv_heads: tuple[int, ...] = ()
    key_length: int = 0
    value_length: int = 0
    has_vision: bool = False
    pools: bool = False
    file_type: int | None = None
    parameters: int = 0

    @classmethod
    def of(cls, header: GgufHeader) -> Self:
        heads = [each for each in _whole(header.get("attention.head_count")) if each > 0]
        embedding = _first(header, "embedding_length")
        fewest = min(heads, default=0)
        each = embedding // fewest if fewest else 0
        file_type = header.get("general.file_type")
        return cls(
            architecture=header.architecture,
            layers=_first(header, "block_count"),
            context=_first(header, "context_length"),
            embedding=embedding,
            heads=fewest,
            kv_heads=_whole(header.get("attention.head_count_kv")) or ((fewest,) if fewest else ()),
            key_length=_first(header, "attention.key_length") or each,
            value_length=_first(header, "attention.value_length") or each,
            has_vision=header.get("vision.block_count") is not None,
            pools=header.get("pooling_type") is not None,
            file_type=file_type if isinstance(file_type, int) else None,
            parameters=header.parameters,
        )

    def as_json(self) -> dict[str, Any]:
        """For whoever places the model without having its files."""
        return asdict(self) | {"kv_heads": list(self.kv_heads)}

    @classmethod
    def from_json(cls, document: Any) -> Self | None:
        """Facts as they were written down; None when these are none."""
        try:
            return cls(**{**document, "kv_heads": tuple(document["kv_heads"])})
        except (KeyError, TypeError):
            return None

    @property
    def kept_per_token(self) -> int:
        """Numbers that the cache holds for each token of a context; 0 when the header tells too little."""
        heads = self.kv_heads[0] * self.layers if len(self.kv_heads) == 1 else sum(self.kv_heads[: self.layers])
        return heads * (self.key_length + self.value_length)


def _whole(value: Value | None) -> tuple[int, ...]:
    """Numbers that count something, from one or from an array; nothing when they make no sense."""
    numbers = value if isinstance(value, tuple) else (value,)
    counts = tuple(each for each in numbers if isinstance(each, int) and not isinstance(each, bool))
    return counts if len(counts) == len(numbers) and all(0 <= each < 2**31 for each in counts) else ()


def _first(header: GgufHeader, key: str) -> int:
    return next(iter(_whole(header.get(key))), 0)


def read(path: Path) -> GgufHeader:
    """The header of a file.

    Raises:
        Corrupt: it is no GGUF file, or a torn one; the message says where.
        FileNotFoundError: it is not there.

    """
    try:
        with path.open("rb", buffering=1 << 18) as file:
            return parse(file, path.stat().st_size)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise os_trouble(error, doing=f"reading the header of {str(path)!r}") from error


def parse(file: BinaryIO, size: int) -> GgufHeader:
    """The header at the beginning of a file of `size` bytes.

    Raises:
        Corrupt: as above.

    """
    wire = _HeaderReader(file, size)
    if wire.take(4, "the magic") != MAGIC:
        raise Corrupt("the file is not GGUF: it does not begin with that word")
    version = wire.number(_U32, "the version")
    if version not in VERSIONS:
        raise Corrupt(f"GGUF version {version} is not one of {', '.join(map(str, VERSIONS))}")
    tensors = wire.count(MAX_TENSORS, "tensors")
    keys = wire.count(MAX_KEYS, "keys")
    values = {wire.text(MAX_KEY_BYTES, "a key"): wire.value() for _ in range(keys)}
    listed = tuple(wire.tensor() for _ in range(tensors))
    return GgufHeader(version, values, listed, wire.parameters)


def shortest(number: float) -> float:
    """The number with the fewest digits that is this one in single precision: 1e-05, and not 9.999999747378752e-06."""
    packed = NUMBERS[_SINGLE].pack(number)
    rounded = (float(f"{number:.{digits}g}") for digits in range(6, 9))
    return next((each for each in rounded if _packs(each) == packed), number)


def _packs(number: float) -> bytes | None:
    try:
        return NUMBERS[_SINGLE].pack(number)
    except OverflowError:  # rounded up beyond the largest there is
        return None


class _HeaderReader:
    """Reads forward, never beyond the file's end or the header's limits."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._at = 0
        self._kept = 0
        self._elements = 0
        self._texts = 0
        self.parameters = 0

    def take(self, length: int, what: str) -> bytes:
        self._advance(length, what)
        taken = self._file.read(length)
        if len(taken) < length:  # it was cut while we read
            raise Corrupt(f"the GGUF header is torn at byte {self._at}, in {what}")
        return taken

    def skip(self, length: int, what: str) -> None:
        self._advance(length, what)
        if length < 4_096:
            self._file.read(length)
        else:
            self._file.seek(length, 1)

    def _skip_texts(self, count: int) -> None:
        """Step over so many texts. The same as `number` and `skip` for each, in a third of the time."""
        read, unpack, at, end = self._file.read, _U64.unpack, self._at, min(self._size, MAX_BYTES)
        for _ in range(count):
            head = read(_U64.size)
            length = unpack(head)[0] if len(head) == _U64.size else end
            at += _U64.size + length
            if at > end:
                what = "torn" if end == self._size else "too long"
                raise Corrupt(f"the GGUF header is {what} at byte {at - length:,}, in a text of an array")
            if length < 4_096:
                read(length)
            else:
                self._file.seek(length, 1)
        self._at = at

    def _advance(self, length: int, what: str) -> None:
        if length > self._size - self._at:
            raise Corrupt(f"the GGUF header is torn at byte {self._at}: {what} has {length:,} bytes, the file ends")
        self._at += length
        if self._at > MAX_BYTES:
            raise Corrupt(f"the GGUF header has more than {MAX_BYTES:,} bytes")

    def number(self, kind: struct.Struct, what: str) -> Any:
        return kind.unpack(self.take(kind.size, what))[0]

    def count(self, most: int, what: str) -> int:
        count: int = self.number(_U64, f"the number of {what}")
        if count > most:
            raise Corrupt(f"the GGUF header tells of {count:,} {what}; {most:,} is the most that makes sense")
        return count

    def text(self, most: int, what: str) -> str:
        length: int = self.number(_U64, f"the length of {what}")
        if length > most:
            raise Corrupt(f"{what} of the GGUF header has {length:,} bytes; {most:,} is the most")
        return self._keep(length, what)

    def _keep(self, length: int, what: str) -> str:
        self._charge(length)
        return self.take(length, what).decode(errors="replace")

    def _charge(self, amount: int) -> None:
        """Account for what is kept, before it is read."""
        self._kept += amount
        if self._kept > MAX_KEPT_BYTES:
            raise Corrupt(f"the texts of the GGUF header and its numbers have more than {MAX_KEPT_BYTES:,} bytes")

    def value(self) -> Value:
        self._charge(KEY_BYTES)
        kind = self.number(_U32, "a value's kind")
        if kind == TEXT:
            length: int = self.number(_U64, "the length of a value")
            if length <= MAX_TEXT_BYTES:
                return self._keep(length, "a value")
            self.skip(length, "a value")
            return Elided(length)
        if kind == ARRAY:
            return self._array()
        if kind not in NUMBERS:
            raise Corrupt(f"the GGUF header has a value of kind {kind}, and there is none")
        number: int | float | bool = self.number(NUMBERS[kind], "a value")
        return shortest(number) if kind == _SINGLE else number

    def _array(self) -> Value:
        kind, count = self.number(_U32, "an array's kind"), self.number(_U64, "an array's length")
        if kind == TEXT:
            self._texts += count
            if self._texts > MAX_TEXTS:
                raise Corrupt(f"the GGUF header has more than {MAX_TEXTS:,} texts in arrays")
            self._skip_texts(count)
            return Elided(count)
        if kind not in NUMBERS:
            raise Corrupt(f"the GGUF header has an array of kind {kind}, and there is none")
        one = NUMBERS[kind]
        if count > min(MAX_KEPT_ELEMENTS, MAX_ARRAYS_ELEMENTS - self._elements):
            self.skip(count * one.size, "an array")
            return Elided(count)
        self._elements += count
        self._charge(count * NUMBER_BYTES)
        return tuple(number for (number,) in one.iter_unpack(self.take(count * one.size, "an array")))

    def tensor(self) -> Tensor:
        self._charge(TENSOR_BYTES)
        name = self.text(MAX_NAME_BYTES, "a tensor's name")
        dimensions = self.number(_U32, "a tensor's dimensions")
        if dimensions > MAX_DIMENSIONS:
            raise Corrupt(f"tensor {name[:60]!r} has {dimensions:,} dimensions; {MAX_DIMENSIONS} is the most")
        shape = tuple(self.number(_U64, "a tensor's shape") for _ in range(dimensions))
        kind = self.number(_U32, "a tensor's kind")
        self.skip(_U64.size, "a tensor's offset")
        elements = 1
        for length in shape:
            elements *= length
        self.parameters += elements
        if self.parameters >= 2**64:
            raise Corrupt(f"tensor {name[:60]!r} has more elements than can be counted")
        return Tensor(name, kind, shape)
