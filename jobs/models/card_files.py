"""The files of one model as its card is read from them: small, typed, each once, and not more than a card may keep.

They come from outside. A text is cut off from its size before it is read, a value of another type than Ollama's counts
for nothing, and what is left out is noted in `wrong`, in words for people.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jobs.core import foreign
from jobs.core.errors import Corrupt, Trouble
from jobs.models import gguf
from jobs.models.gguf import GgufHeader
from jobs.weights.layout import Layout
from jobs.weights.manifest import IMAGE, Layer, Manifest, word, words

MAX_TEXT_BYTES = 1 << 20
"""Of all texts of a model together: licenses, template, prompt, options, messages. Large ones have 50 kB."""

MAX_CONFIG_BYTES = 4 << 20
"""A config lists every layer's digest; what a card keeps of it is short."""

MAX_FILES = 256
"""Different ones that are read for a card."""

MAX_PIECES = 20_000
"""Values among the options or in the messages."""

MAX_PARENT = 4_096
"""Characters of the path of a model that this one was made from."""

FilesSeen = tuple[tuple[str, int, int], ...]
"""Digest, inode and time of change of each file that was read."""

_WORDS = (
    "model_format", "model_family", "model_type", "file_type", "parser", "renderer", "requires", "remote_host",
    "remote_model",
)  # fmt: skip
_LISTS = ("model_families", "capabilities")
_LENGTHS = ("context_length", "embedding_length")


class CardFiles:
    """
    Args:
        layout: where the blobs lie.
        manifest: of the model.
    """

    def __init__(self, layout: Layout, manifest: Manifest) -> None:
        self.wrong: list[str] = []
        self._layout = layout
        self._manifest = manifest
        self._left = MAX_TEXT_BYTES
        self._raw: dict[str, bytes] = {}
        self._seen: dict[str, tuple[str, int, int]] = {}
        self._is_unread = False

    def layers(self, kind: str) -> list[Layer]:
        return [layer for layer in self._manifest.layers if layer.media_type == IMAGE + kind]

    def path(self, layer: Layer) -> os.PathLike[str]:
        return self._layout.blob(layer.digest)

    def seen(self) -> FilesSeen:
        """What to look at before the same is read again; nothing where a file could not be read at all."""
        return () if self._is_unread else tuple(self._seen.values())

    def config(self) -> Mapping[str, Any]:
        """What counts of it, by Ollama's names: words, lists of words, whole numbers. What is null is left out."""
        document = self._document(self._manifest.config, is_config=True)
        kept: dict[str, Any] = {}
        for key, value in self._object(self._manifest.config, document).items():
            if value is None or key not in (*_WORDS, *_LISTS, *_LENGTHS):
                continue
            read = word(value) if key in _WORDS else words(value) if key in _LISTS else _length(value)
            if read is None:
                self.wrong.append(f"its config's {key} makes no sense")
            else:
                kept[key] = read
        return kept

    def header(self, weights: Layer) -> GgufHeader | None:
        self._remember_stamp(weights)
        try:
            return gguf.read(self._layout.blob(weights.digest))
        except (Trouble, FileNotFoundError) as error:
            self._is_unread |= not isinstance(error, Corrupt)
            self.wrong.append(f"the header of its weights cannot be read: {error}")
            return None

    def text(self, layer: Layer) -> str:
        return self._bytes(layer).decode(errors="replace")

    def texts(self, layers: Iterable[Layer]) -> Iterator[str]:
        """Those that fit; each text counts as often as it is listed, for so often it is shown."""
        decoded: dict[str, str] = {}
        for layer in layers:
            if (raw := self._bytes(layer)) or not layer.size:
                yield decoded.setdefault(layer.digest, raw.decode(errors="replace"))

    def options(self) -> Mapping[str, Any]:
        options: dict[str, Any] = {}
        for layer in self.layers("params"):
            options |= self._object(layer, self._document(layer))
        return options

    def messages(self) -> tuple[Mapping[str, Any], ...]:
        messages: list[Mapping[str, Any]] = []
        for layer in self.layers("messages"):
            document = self._document(layer)
            if not isinstance(document, list):
                self._note(f"blob {layer.digest} makes no sense: it is no list")
                continue
            messages += [
                {key: str(each.get(key, "")) for key in ("role", "content")}
                for each in document
                if isinstance(each, dict)
            ]
        return tuple(messages)

    def parent(self) -> str:
        """The model that this one was made from, where it says so."""
        listed = foreign.document(self._manifest.raw, "the manifest").get("layers") or []
        parents = (layer.get("from") for layer in listed if layer.get("mediaType") == f"{IMAGE}model")
        return next((each for each in parents if isinstance(each, str) and len(each) <= MAX_PARENT), "")

    def _object(self, layer: Layer, document: Any) -> Mapping[str, Any]:
        if isinstance(document, dict):
            return document
        self._note(f"blob {layer.digest} makes no sense: it is no object")
        return {}

    def _document(self, layer: Layer, *, is_config: bool = False) -> Any:
        raw = self._bytes(layer, is_config=is_config)
        most = foreign.MOST_PIECES if is_config else MAX_PIECES
        try:
            return foreign.document(raw, f"blob {layer.digest}", most_pieces=most)
        except Corrupt as error:
            self._note(str(error))
            return None

    def _bytes(self, layer: Layer, *, is_config: bool = False) -> bytes:
        """Its bytes, read once; nothing, and a word about it, where they are too many or cannot be read."""
        if is_config and layer.size > MAX_CONFIG_BYTES:
            self._note(f"its config has {layer.size:,} bytes; {MAX_CONFIG_BYTES:,} is the most that makes sense")
            return b""
        if not is_config:
            if layer.size > self._left:
                self._note(f"its licenses and other texts have more than {MAX_TEXT_BYTES:,} bytes together")
                return b""
            self._left -= layer.size
        if layer.digest not in self._raw:
            if len(self._raw) >= MAX_FILES:
                self._note(f"it has more than {MAX_FILES} small files")
                return b""
            self._remember_stamp(layer)
            self._raw[layer.digest] = self._read(layer)
        return self._raw[layer.digest]

    def _read(self, layer: Layer) -> bytes:
        try:
            with self._layout.blob(layer.digest).open("rb") as file:
                return file.read(layer.size)
        except OSError as error:
            self._is_unread = True
            self._note(f"blob {layer.digest} cannot be read: {error.strerror}")
            return b""

    def _remember_stamp(self, layer: Layer) -> None:
        self._seen[layer.digest] = _stamp(self._layout, layer.digest)

    def _note(self, what: str) -> None:
        if what not in self.wrong:
            self.wrong.append(what)


def seen_again(layout: Layout, seen: FilesSeen) -> FilesSeen:
    """The same files as they are now."""
    return tuple(_stamp(layout, digest) for digest, _, _ in seen)


def _stamp(layout: Layout, digest: str) -> tuple[str, int, int]:
    try:
        stat = layout.blob(digest).stat()
    except OSError:
        return digest, 0, 0
    return digest, stat.st_ino, stat.st_mtime_ns


def _length(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None
