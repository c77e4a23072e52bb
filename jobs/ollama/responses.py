"""What an Ollama server answers, as far as we read it. Wire documents go in, frozen values come out.

A field that a server leaves out is empty here; a document that is not what the API says is `ServerTrouble`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from jobs.core import foreign
from jobs.core.errors import ServerTrouble
from jobs.weights.manifest import ModelDetails

_NEVER = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Listed:
    """A model on that server's disk. `digest` is hex without a prefix, `size` all layers and the config."""

    name: str
    modified_at: datetime
    size: int
    digest: str
    details: ModelDetails
    capabilities: tuple[str, ...] = ()
    context_length: int = 0
    embedding_length: int = 0

    @classmethod
    def of(cls, document: Any) -> Self:
        wire = _mapping(document, "a model")
        details = _mapping(wire.get("details") or {}, "a model's details")
        return cls(
            name=str(wire.get("name", "")),
            modified_at=foreign.moment(wire.get("modified_at")) or _NEVER,
            size=foreign.count(wire.get("size")),
            digest=str(wire.get("digest", "")),
            details=_details(details),
            capabilities=foreign.texts(wire.get("capabilities")),
            context_length=foreign.count(details.get("context_length")),
            embedding_length=foreign.count(details.get("embedding_length")),
        )


@dataclass(frozen=True)
class Running:
    """A model in memory; one that is still loading is not listed. `context_length` is what it was loaded with."""

    name: str
    size: int
    size_vram: int
    digest: str
    expires_at: datetime
    context_length: int

    @classmethod
    def of(cls, document: Any) -> Self:
        wire = _mapping(document, "a running model")
        return cls(
            name=str(wire.get("name", "")),
            size=foreign.count(wire.get("size")),
            size_vram=foreign.count(wire.get("size_vram")),
            digest=str(wire.get("digest", "")),
            expires_at=foreign.moment(wire.get("expires_at")) or _NEVER,
            context_length=foreign.count(wire.get("context_length")),
        )

    @property
    def is_on_gpu(self) -> bool:
        """Whether all of it is in GPU memory; Ollama falls back to the CPU without a word."""
        return 0 < self.size <= self.size_vram


@dataclass(frozen=True)
class Usage:
    """What an answer cost, from its last frame."""

    prompt_tokens: int = 0
    tokens: int = 0
    total: timedelta = timedelta(0)
    load: timedelta = timedelta(0)
    prompt_eval: timedelta = timedelta(0)
    eval: timedelta = timedelta(0)

    @classmethod
    def of(cls, wire: Mapping[str, Any]) -> Self:
        return cls(
            prompt_tokens=foreign.count(wire.get("prompt_eval_count")),
            tokens=foreign.count(wire.get("eval_count")),
            total=_nanoseconds(wire.get("total_duration")),
            load=_nanoseconds(wire.get("load_duration")),
            prompt_eval=_nanoseconds(wire.get("prompt_eval_duration")),
            eval=_nanoseconds(wire.get("eval_duration")),
        )

    @property
    def tokens_per_second(self) -> float:
        seconds = self.eval.total_seconds()
        return self.tokens / seconds if seconds > 0 else 0.0


@dataclass(frozen=True)
class Frame:
    """A piece of what `/api/generate` answers; the last one has `done`, and what it cost."""

    text: str
    done: bool = False
    usage: Usage = Usage()

    @classmethod
    def of(cls, wire: Mapping[str, Any]) -> Self:
        return cls(text=str(wire.get("response") or ""), done=wire.get("done") is True, usage=Usage.of(wire))


@dataclass(frozen=True)
class ChatFrame:
    """A piece of what `/api/chat` answers; the last one has `done`, why it ended, and what it cost."""

    text: str
    thinking: str = ""
    done: bool = False
    done_reason: str = ""
    usage: Usage = Usage()

    @classmethod
    def of(cls, wire: Mapping[str, Any]) -> Self:
        message = _mapping(wire.get("message") or {}, "a message")
        return cls(
            text=str(message.get("content") or ""),
            thinking=str(message.get("thinking") or ""),
            done=wire.get("done") is True,
            done_reason=str(wire.get("done_reason") or ""),
            usage=Usage.of(wire),
        )


def listed_in(document: Any) -> list[Any]:
    """The `models` of a list answer; null counts as none."""
    models = _mapping(document, "a list of models").get("models") or []
    if not isinstance(models, list):
        raise ServerTrouble(f"the server lists {type(models).__name__}, not models")
    return models


def _mapping(document: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise ServerTrouble(f"{what} came as {type(document).__name__}, not as an object")
    return document


def _details(document: Any) -> ModelDetails:
    wire = _mapping(document or {}, "a model's details")
    return ModelDetails(
        format=str(wire.get("format", "")),
        family=str(wire.get("family", "")),
        families=foreign.texts(wire.get("families")),
        parameter_size=str(wire.get("parameter_size", "")),
        quantization_level=str(wire.get("quantization_level", "")),
    )


def _nanoseconds(value: Any) -> timedelta:
    return timedelta(microseconds=foreign.count(value) / 1000)
