"""Models that a registry may hand out to do harm, laid into a models directory beside a good one."""

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jobs.testing.gguf import encoded
from jobs.testing.models import CONFIG_TYPE, LAYER_TYPE
from tests.support.models_directory import digest_of, put_blob, put_manifest, weights_at

WEIGHTS = encoded({"general.architecture": "llama", "llama.block_count": 2}) + bytes(64)
CONFIG = b'{"model_format":"gguf","model_family":"llama","model_families":["llama"],"model_type":"1B"}'


@dataclass(frozen=True)
class Poison:
    """A model.

    Args:
        name: under which it lies there.
        kinds: of its layers, with their bytes, or with what makes them where they are many; in the manifest's order.
        config: the config blob.
        odd: changes the manifest before it is written.
        says: a word of what is told to be wrong with it; empty where it can be made sense of.

    """

    name: str
    kinds: tuple[tuple[str, "bytes | Callable[[], bytes]"], ...] = (("model", WEIGHTS),)
    config: bytes = CONFIG
    odd: Callable[[dict[str, Any]], None] = lambda _: None
    says: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def layers(self) -> list[tuple[str, bytes]]:
        return [(kind, content if isinstance(content, bytes) else content()) for kind, content in self.kinds]

    @property
    def manifest(self) -> bytes:
        def entry(media_type: str, content: bytes) -> dict[str, Any]:
            return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}

        document = {
            "schemaVersion": 2,
            "config": entry(CONFIG_TYPE, self.config),
            "layers": [entry(LAYER_TYPE + kind, content) for kind, content in self.layers],
        }
        self.odd(document)
        return json.dumps(document).encode()


@lru_cache(maxsize=4_000)
def _digest(content: bytes) -> str:
    """A license that is listed often is hashed once."""
    return digest_of(content)


def template(name: str, text: str) -> Poison:
    return Poison(name, (("model", WEIGHTS), ("template", text.encode())))


def config(name: str, text: str, says: str = "makes no sense") -> Poison:
    return Poison(name, config=text.encode(), says=says)


def header(name: str, keys: int, length: int, says: str = "") -> Poison:
    """Weights whose header has so many arrays of single bytes."""

    def made() -> bytes:
        parts = [b"GGUF", struct.pack("<IQQ", 3, 0, keys)]
        parts += [struct.pack("<Q5sIIQ", 5, b"%05d" % each, 9, 0, length) + bytes(length) for each in range(keys)]
        return b"".join(parts)

    return Poison(name, (("model", made),), says=says)


def _of_half_a_character(document: dict[str, Any]) -> None:
    document["layers"][0]["from"] = "\ud800"


LICENSE = b"x" * (4 << 20)

POISONS: Sequence[Poison] = (
    template("deep-blocks", "{{if .A}}" * 2_000),
    template("open-actions", "{{" * 15_000),
    template("open-quotes", '"\\' * 20_000),
    template("quotes-in-an-action", "{{" + '"\\' * 20_000 + "}}"),
    template("one-loop-for-many", "{{range .Messages " + ".A" * 10_000 + "}}" + "{{.Thinking}}" * 5_000),
    template("many-actions", "{{}}" * 5_000),
    config("half-a-character", '{"model_type":"\\ud800"}', says=""),
    Poison("made-of-half-a-character", odd=_of_half_a_character),
    config("no-number", '{"model_families":[NaN]}'),
    config("endless-number", '{"context_length":1e999,"embedding_length":-1}'),
    config("numbers-for-words", '{"model_type":7,"model_family":["a"],"parser":{},"capabilities":[[]]}'),
    config("long-words", json.dumps({"model_family": "x" * 100_000})),
    config("deep-config", '{"model_families":' + "[" * 500 + "]" * 500 + "}", says="nested too deep"),
    config("deeper-config", "[" * 100_000, says="nested too deep"),
    config("littered-config", '{"a":[' + "[]," * 300_000 + "[]]}", says="values"),
    config("no-config", "nothing", says="no JSON"),
    Poison("listed-again", (("model", WEIGHTS), *([("license", LICENSE)] * 150)), says="licenses and other texts"),
    Poison("many-licenses", (("model", WEIGHTS), *(("license", b"%d" % each) for each in range(300))), says="files"),
    Poison("odd-options", (("model", WEIGHTS), ("params", b"[1]"), ("messages", b'{"a":NaN}')), says="no object"),
    header("many-arrays", 30_000, 4_096, says="keys"),
    header("fewer-arrays", 16_000, 1_024),
)


def lay_poison(root: Path, *poisons: Poison) -> None:
    """As if they had been pulled."""
    weights = weights_at(root)
    for poison in poisons:
        for content in {poison.config, *(content for _, content in poison.layers)}:
            put_blob(weights, content, _digest(content))
        put_manifest(weights, poison.name, poison.manifest)
