"""Whether Ollama could serve what a registry hands out, as far as its manifest and its small files tell.

Asked before the weights are fetched: what no server can ever load is refused, and said to be what it is. What is merely
unknown here passes, for Ollama knows more kinds of things than we do.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jobs.core import foreign
from jobs.core.errors import Corrupt, Unsupported
from jobs.core.sanitize import plain
from jobs.core.units import counted
from jobs.models import go_template as go_templates
from jobs.weights.manifest import IMAGE, Layer, Manifest, word, words

MAX_CONFIG_BYTES = 4 << 20
MAX_TEXT_BYTES = 4 << 20
"""Of a license, a template, a prompt: what is larger is no such thing."""

MAX_TEXTS_BYTES = 16 << 20
"""Of all of them, each as often as it is listed: a server holds them in memory."""

_TEXTS = ("template", "prompt", "system", "params", "messages", "license")
_WEIGHTS = ("model", "tensor")
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_WORDS = ("model_format", "model_family", "model_type", "file_type", "parser", "renderer", "requires")


def manifest_in(raw: bytes, what: str) -> Manifest:
    """The manifest of something that a server may be able to load.

    Args:
        raw: what a registry answered.
        what: the model's name, for messages.

    Raises:
        Corrupt: it is torn.
        Unsupported: it is something else, or nothing that Ollama could serve; the message says what.

    """
    if raw.lstrip()[:1] == b"<":
        raise Unsupported(f"{what} is no model: the registry answers with a web page", hint=_HINT)
    document = foreign.document(raw, f"the manifest of {what}")
    _need_no_other_document(document, what)
    if (key := _repeated(raw)) is not None:
        raise Unsupported(
            f"the manifest of {what} says {plain(key)[:60]!r} twice, and who reads it could take either", hint=_HINT
        )
    try:
        manifest = Manifest.parse(raw)
    except Corrupt as error:  # it is whole, and says nonsense: no other try would change that
        raise Unsupported(f"{what} cannot be pulled: {error}", hint=_HINT) from error
    _need_layers_of_ollama(document, manifest, what)
    _need_small_files(manifest, what)
    return manifest


_HINT = "ask whoever publishes it for the name of a model that Ollama serves"


def small_files(manifest: Manifest) -> tuple[Layer, ...]:
    """What tells whether the rest is worth fetching: the config and the texts, each digest once."""
    layers = (manifest.config, *(layer for layer in manifest.layers if _kind(layer) in _TEXTS))
    return tuple({layer.digest: layer for layer in layers}.values())


def need_small_files(manifest: Manifest, what: str, content: Callable[[Layer], bytes]) -> None:
    """Insist that a server could make sense of them.

    Args:
        manifest: whose.
        what: the model's name, for messages.
        content: the bytes of one of them.

    Raises:
        Unsupported: it could not; the message says of which, and why.

    """
    config = _document(content(manifest.config), f"the config of {what}", dict)
    for key in _flaws(config):
        raise Unsupported(f"the config of {what} says for {key!r} what Ollama cannot read", hint=_HINT)
    if not {_kind(layer) for layer in manifest.layers} & set(_WEIGHTS) and not _runs_elsewhere(config):
        raise Unsupported(f"{what} has no weights: there is nothing to serve", hint=_HINT)
    for layer in {layer.digest: layer for layer in manifest.layers if _kind(layer) in _TEXTS}.values():
        kind = _kind(layer)
        if kind in ("params", "messages"):
            _document(content(layer), f"what {what} has for {kind}", dict if kind == "params" else list)
        if kind in ("template", "prompt"):
            wrong = go_templates.read(content(layer).decode(errors="replace")).wrong
            if wrong:
                raise Unsupported(f"the template of {what} is none: {wrong}", hint=_HINT)


def _need_no_other_document(document: Any, what: str) -> None:
    if not isinstance(document, dict):
        raise Unsupported(f"{what} is no model: the registry answers with {type(document).__name__}", hint=_HINT)
    listed = document.get("manifests")
    if document.get("mediaType") in _INDEXES or (isinstance(listed, list) and "layers" not in document):
        raise Unsupported(
            f"{what} is no model, but an index of {counted(len(listed) if isinstance(listed, list) else 0, 'manifest')}"
            f" ({_kinds(_platforms(listed))})",
            hint="name one of them, where it is a model for Ollama: an index itself cannot be served",
        )
    if document.get("schemaVersion") == 1 or "fsLayers" in document:
        raise Unsupported(f"{what} is no model, but a Docker image of the first schema", hint=_HINT)
    if "schemaVersion" not in document or "config" not in document:
        keys = ", ".join(repr(plain(key)[:40]) for key in list(document)[:5]) or "nothing"
        raise Unsupported(f"{what} is no model: what the registry answers is no manifest, it says {keys}", hint=_HINT)


def _need_layers_of_ollama(document: Mapping[str, Any], manifest: Manifest, what: str) -> None:
    """A model that runs elsewhere has no layers, and the config of any other."""
    if any(layer.media_type.startswith(IMAGE) for layer in manifest.layers):
        return
    if not manifest.layers and manifest.config.media_type in ("", _DOCKER_CONFIG):
        return
    kinds = (document.get("artifactType"), manifest.config.media_type, *(each.media_type for each in manifest.layers))
    raise Unsupported(f"{what} is something of another tool, and no model for Ollama ({_kinds(kinds)})", hint=_HINT)


def _need_small_files(manifest: Manifest, what: str) -> None:
    if manifest.config.size > MAX_CONFIG_BYTES:
        raise Unsupported(f"the config of {what} has {manifest.config.size:,} bytes, too many for one", hint=_HINT)
    sizes = [layer.size for layer in manifest.layers if _kind(layer) in _TEXTS]
    if max(sizes, default=0) > MAX_TEXT_BYTES or sum(sizes) > MAX_TEXTS_BYTES:
        raise Unsupported(
            f"the licenses and other texts of {what} have {sum(sizes):,} bytes;"
            f" {MAX_TEXTS_BYTES:,} is the most that makes sense, and {MAX_TEXT_BYTES:,} for one",
            hint=_HINT,
        )


def _kind(layer: Layer) -> str:
    return layer.media_type.removeprefix(IMAGE) if layer.media_type.startswith(IMAGE) else ""


def _runs_elsewhere(config: Mapping[str, Any]) -> bool:
    return bool(config.get("remote_host") or config.get("remote_model"))


def _flaws(config: Mapping[str, Any]) -> Iterator[str]:
    """The keys whose values Go refuses as a model's config."""
    for key, value in config.items():
        if value is None:
            continue
        if key in _WORDS and word(value) is None:
            yield key
        if key in ("model_families", "capabilities") and words(value) is None:
            yield key
        if key in ("context_length", "embedding_length") and (isinstance(value, bool) or not isinstance(value, int)):
            yield key


def _document(raw: bytes, what: str, kind: type) -> Any:
    try:
        value = foreign.document(raw, what, is_strict=True)
    except Corrupt as error:
        raise Unsupported(str(error), hint=_HINT) from error
    if value is None and kind is not dict:
        return kind()
    if not isinstance(value, kind):
        raise Unsupported(f"{what} is no JSON {'object' if kind is dict else 'list'}", hint=_HINT)
    return value


def _platforms(listed: Any) -> Iterator[str]:
    for each in listed if isinstance(listed, list) else ():
        platform = each.get("platform") if isinstance(each, dict) else None
        if isinstance(platform, dict):
            yield f"{platform.get('os', '')}/{platform.get('architecture', '')}"


def _kinds(kinds: Any) -> str:
    """The kinds that occur, the most frequent first, few enough to be read."""
    counts = Counter(plain(each)[:80] for each in kinds if each)
    shown = [kind for kind, _ in counts.most_common(4)]
    return ", ".join([*shown, *(["…"] if len(counts) > len(shown) else [])]) or "of no known kind"


def _repeated(raw: bytes) -> str | None:
    """A key that stands twice in one object, also in another case: Go takes the last in any case."""
    repeated: list[str] = []

    def check_pairs(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            folded = key.casefold()
            if folded in seen:
                repeated.append(key)
            seen.add(folded)

    json.loads(raw, object_pairs_hook=check_pairs)
    return repeated[0] if repeated else None
