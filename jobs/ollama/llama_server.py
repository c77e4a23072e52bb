"""HTTP client of a server whose engine is llama.cpp's `llama-server`: asked for work at the routes that this speaks.

What it has and runs, loading and unloading are asked as of an Ollama: the host in front of the engine answers that.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from jobs.core import foreign
from jobs.core.errors import Corrupt, CutShort, ServerTrouble, Unsupported
from jobs.ollama.client import PATIENCE, OllamaClient
from jobs.ollama.responses import ChatFrame, Frame, Usage

_DATA = b"data: "


@dataclass(frozen=True)
class _Probe:
    """A small request that an engine answers 501 where it was not started for it."""

    ability: str
    path: str
    body: Mapping[str, Any]


_PROBES = (
    _Probe("rerank", "/v1/rerank", {"query": "Hi", "documents": ["Hi"]}),
    _Probe("embedding", "/v1/embeddings", {"input": "Hi"}),
)


def _nothing() -> None:
    pass


class LlamaServerClient(OllamaClient):
    """One server at `url`. `options` and `keep_alive` of requests for work have no fields there, and are left out."""

    tells_abilities: ClassVar[bool] = True

    def capabilities(self, name: str) -> tuple[str, ...]:
        """What the model can do, by trying: an engine that ranks or embeds was started for that alone."""
        for probe in _PROBES:
            try:
                self._send("POST", probe.path, {"model": name, **probe.body}, doing=f"asking about {name!r}")
            except Unsupported:
                continue
            return (probe.ability,)
        return ("completion",)

    def generate(
        self,
        name: str,
        prompt: str,
        *,
        options: Mapping[str, Any] | None = None,
        keep_alive: timedelta | None = None,  # noqa: ARG002 - an Ollama has a field for it
        check: Callable[[], None] = _nothing,
        patience: timedelta = PATIENCE,
    ) -> Iterator[Frame]:
        """Continue a prompt, for as many tokens as `num_predict` says. See `OllamaClient.generate`."""
        most = {"max_tokens": options["num_predict"]} if options and "num_predict" in options else {}
        body = {"model": name, "prompt": prompt, "stream": True, **most}
        doing = f"generating with {name!r} on {self.url}"
        with closing(self._patient("/v1/completions", body, doing=doing, check=check, patience=patience)) as chunks:
            for chunk in chunks:
                frame = _frame(chunk)
                yield frame
                if frame.done:
                    return
        raise CutShort(f"{doing}: the stream ended before it said why")

    def chat(
        self,
        name: str,
        messages: Sequence[Mapping[str, str]],
        *,
        more: Mapping[str, Any] | None = None,
        check: Callable[[], None] = _nothing,
        patience: timedelta = PATIENCE,
    ) -> Iterator[ChatFrame]:
        """Answer the last of these messages; `more` may have `format` and `think`. See `OllamaClient.chat`."""
        doing = f"chatting with {name!r} on {self.url}"
        body = {"model": name, "messages": list(messages), "stream": True, **_said_otherwise(more or {})}
        chunks = self._patient("/v1/chat/completions", body, doing=doing, check=check, patience=patience)
        with closing(chunks):
            for chunk in chunks:
                choice = foreign.fields(next(iter(foreign.items(chunk.get("choices"))), None))
                delta, reason = foreign.fields(choice.get("delta")), foreign.text(choice.get("finish_reason"))
                yield ChatFrame(
                    text=foreign.text(delta.get("content")),
                    thinking=foreign.text(delta.get("reasoning_content")),
                    done=bool(reason),
                    done_reason=reason,
                    usage=_usage(chunk),
                )
                if reason:
                    return
        raise CutShort(f"{doing}: the stream ended before it said why")

    def embed(
        self,
        name: str,
        text: str,
        *,
        options: Mapping[str, Any] | None = None,  # noqa: ARG002 - an Ollama has fields for both
        keep_alive: timedelta | None = None,  # noqa: ARG002
        check: Callable[[], None] = _nothing,
        patience: timedelta = PATIENCE,
    ) -> int:
        """Have a text embedded; the length of its vector. See `OllamaClient.embed`."""
        doing = f"embedding with {name!r} on {self.url}"
        body = {"model": name, "input": text}
        first = foreign.fields(self._first_of("/v1/embeddings", "data", body, doing, check=check, patience=patience))
        vector = first.get("embedding")
        if not isinstance(vector, list) or not vector:
            raise ServerTrouble(f"{doing}: the answer holds no vector")
        return len(vector)

    def rank(
        self,
        name: str,
        query: str,
        text: str,
        *,
        check: Callable[[], None] = _nothing,
        patience: timedelta = PATIENCE,
    ) -> float:
        """Have a text ranked by a query; its score.

        Raises:
            ServerTrouble: the answer holds no score.

        """
        doing = f"ranking with {name!r} on {self.url}"
        body = {"model": name, "query": query, "documents": [text]}
        first = foreign.fields(self._first_of("/v1/rerank", "results", body, doing, check=check, patience=patience))
        score = first.get("relevance_score")
        if not isinstance(score, int | float):
            raise ServerTrouble(f"{doing}: the answer holds no score")
        return float(score)

    def _first_of(
        self,
        path: str,
        field: str,
        body: Mapping[str, Any],
        doing: str,
        *,
        check: Callable[[], None],
        patience: timedelta,
    ) -> Any:
        """The first of the items that an answer lists."""
        answers = list(self._patient(path, body, doing=doing, check=check, patience=patience))
        items = foreign.items(answers[0].get(field)) if answers else ()
        return items[0] if items else None

    def _frames(
        self, path: str, body: Any, *, doing: str, idle: Callable[[], None], silence: timedelta | None = None
    ) -> Generator[Mapping[str, Any], None, None]:
        """The JSON objects of an answer: its lines, or the events of a stream."""
        with closing(self._lines(path, body, doing=doing, idle=idle, silence=silence)) as lines:
            for line in lines:
                text = line.removeprefix(_DATA)
                if not text.startswith(b"{"):  # the end of the stream, an event's name, or a comment
                    continue
                try:
                    document = foreign.document(text, "an event")
                except Corrupt as error:
                    raise CutShort(f"{doing}: the answer broke off inside an event: {text[-60:]!r}") from error
                yield foreign.fields(document)


def _frame(chunk: Mapping[str, Any]) -> Frame:
    choice = foreign.fields(next(iter(foreign.items(chunk.get("choices"))), None))
    return Frame(text=foreign.text(choice.get("text")), done=bool(choice.get("finish_reason")), usage=_usage(chunk))


def _usage(chunk: Mapping[str, Any]) -> Usage:
    """By the timings of an answer's last chunk."""
    times = foreign.fields(chunk.get("timings"))
    read, wrote = _milliseconds(times.get("prompt_ms")), _milliseconds(times.get("predicted_ms"))
    return Usage(
        prompt_tokens=foreign.count(times.get("prompt_n")) + foreign.count(times.get("cache_n")),
        tokens=foreign.count(times.get("predicted_n")),
        total=read + wrote,
        prompt_eval=read,
        eval=wrote,
    )


def _milliseconds(value: Any) -> timedelta:
    return timedelta(milliseconds=value) if isinstance(value, int | float) and 0 <= value < 1e12 else timedelta(0)


def _said_otherwise(more: Mapping[str, Any]) -> dict[str, Any]:
    """Ollama's `format` and `think` in the fields that this engine has for them."""
    said: dict[str, Any] = {}
    if (shape := more.get("format")) == "json":
        said["response_format"] = {"type": "json_object"}
    elif shape is not None:
        said["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": shape}}
    if "think" in more:
        said["chat_template_kwargs"] = {"enable_thinking": more["think"]}
    return said
