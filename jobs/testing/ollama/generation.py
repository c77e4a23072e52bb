"""Answering a prompt, as all of the simulator's interfaces do it underneath: check, load, stream frames, count."""

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jobs.core.model_name import ModelName
from jobs.testing.ollama.context import Message, embeddable, prompt_length
from jobs.testing.ollama.faults import SimError
from jobs.testing.ollama.go_formats import checked_options, keep_alive, nanoseconds, stamp, tokens, vector
from jobs.testing.ollama.memory import AS_MANY_AS_FIT
from jobs.testing.ollama.model_output import Output, Piece, logprobs, output, paced
from jobs.testing.ollama.requests import Request, SimulatorParts, with_error
from jobs.testing.ollama.store import StoredModel, parsed_name

NO_CLOUD = "ollama cloud is disabled: "
MOST_LOGPROBS = 20

Frame = dict[str, Any]


@dataclass(frozen=True)
class AnswerShape:
    """How `/api/generate` and `/api/chat` differ."""

    verb: str
    empty_model: SimError
    is_chat: bool

    def prompt(self, body: dict[str, Any]) -> str:
        if not self.is_chat:
            return str(body.get("prompt") or "")
        messages = body.get("messages") or []
        said = [str(each.get("content") or "") for each in messages if isinstance(each, dict)]
        return (said[-1] or "(nothing)") if said else ""

    def messages(self, body: dict[str, Any]) -> list[Message]:
        """The role of each message and how many tokens it has."""
        said = (body.get("messages") or []) if self.is_chat else [{"content": body.get("prompt")}]
        return [
            (str(each.get("role") or ""), len(tokens(str(each.get("content") or ""))))
            for each in said
            if isinstance(each, dict)
        ]

    def frame(self, piece: Piece) -> Frame:
        """The fields of a frame that hold what the model says."""
        more: Frame = {"thinking": piece.thinking} if piece.thinking else {}
        if not self.is_chat:
            return {"response": piece.text, **more}
        calls = {"tool_calls": list(piece.tool_calls)} if piece.tool_calls else {}
        return {"message": {"role": "assistant", "content": piece.text, **more, **calls}}

    def piece_of(self, frame: Frame) -> Piece:
        at: Frame = frame["message"] if self.is_chat else frame
        text = str(at["content" if self.is_chat else "response"])
        return Piece(text, str(at.get("thinking", "")), tuple(at.get("tool_calls", ())))


GENERATE = AnswerShape("generate", SimError("model '' not found", 404), is_chat=False)
CHAT = AnswerShape("chat", SimError("model is required", 400), is_chat=True)


def checked_name(asked: str, *, empty: SimError, cloud: str | None = "remote model is unavailable") -> ModelName:
    """The name in a request, or the refusal that the route words in its own way; blanks around it count for nothing."""
    asked = asked.strip()
    if not asked:
        raise SimError(empty.text, empty.status)
    if asked.endswith((":cloud:local", ":local:cloud")):
        raise SimError(f'use either :local or :cloud, not both: "{asked}"', 400)
    name = parsed_name(asked.removesuffix(":local"))
    if name is None:
        raise SimError("invalid model name", 400)
    if cloud and (name.tag == "cloud" or name.tag.endswith("-cloud")):
        raise SimError(f"{NO_CLOUD}{cloud}", 403)
    return name


def talk(parts: SimulatorParts, request: Request, body: dict[str, Any], shape: AnswerShape) -> Frame | Iterator[Frame]:
    """The frames of an answer; or the one object that says a model was loaded or unloaded."""
    alive = keep_alive(body.get("keep_alive"))  # the body is decoded before anything is looked up
    if not 0 <= (body.get("top_logprobs") or 0) <= MOST_LOGPROBS:
        raise SimError(f"top_logprobs must be between 0 and {MOST_LOGPROBS}", 400)
    asked = str(body.get("model") or "")
    name = checked_name(asked, empty=shape.empty_model)
    model = parts.store.get(name)
    if model is None:
        raise SimError(f"model '{asked}' not found{parts.store.those_here()}", 404)
    prompt = shape.prompt(body)
    if not prompt and alive is not None and not alive:
        parts.runners.unload(model.name)
        return _marker(parts, shape, asked, "unload")
    _check(model, body, asked, shape)
    if not prompt:
        load_only(parts, request, model, body)
        return _marker(parts, shape, asked, "load")
    return with_error(_frames(parts, request, model, body, shape), request.faults.get("error"))


def all_frames(parts: SimulatorParts, request: Request, body: dict[str, Any], shape: AnswerShape) -> Iterator[Frame]:
    """The frames of an answer; that of a load or an unload is the only one."""
    outcome = talk(parts, request, body, shape)
    return iter([outcome]) if isinstance(outcome, dict) else outcome


def until_failure(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    """An error inside the stream is swallowed: the frames just end."""
    yield first
    with suppress(SimError):
        yield from rest


def load_only(parts: SimulatorParts, request: Request, model: StoredModel, body: dict[str, Any]) -> None:
    with using(parts, request, model, body):
        return


def using(
    parts: SimulatorParts, request: Request, model: StoredModel, body: dict[str, Any]
) -> AbstractContextManager[float]:
    """Have the model in memory; whoever leaves while it loads aborts the load."""
    options = checked_options(body.get("options"))
    return parts.runners.using(
        model,
        keep_alive(body.get("keep_alive")),
        context=context_of(parts, model, body),
        gone=request.gone,
        on_cpu="cpu" in request.faults,
        num_gpu=AS_MANY_AS_FIT if options.get("num_gpu") is None else int(options["num_gpu"]),
    )


def context_of(parts: SimulatorParts, model: StoredModel, body: dict[str, Any]) -> int:
    """The tokens that the model takes at a time."""
    trained = int(model.config.get("context_length") or parts.settings.context_length)
    own = json.loads(parts.store.text_of(model, "params") or "{}").get("num_ctx")
    asked = checked_options(body.get("options")).get("num_ctx")
    return min(int(asked or own or parts.settings.context_length), trained)


def merged(frames: list[Frame], shape: AnswerShape) -> Frame:
    """One object for an answer that is not streamed."""
    said = [shape.piece_of(frame) for frame in frames]
    whole = Piece(
        "".join(piece.text for piece in said),
        "".join(piece.thinking for piece in said),
        tuple(call for piece in said for call in piece.tool_calls),
    )
    likely = [each for frame in frames for each in frame.get("logprobs", ())]
    return {**frames[-1], **shape.frame(whole), **({"logprobs": likely} if likely else {})}


def embedded(parts: SimulatorParts, request: Request, body: dict[str, Any]) -> Frame:
    """What `/api/embed` answers."""
    keep_alive(body.get("keep_alive"))
    asked = str(body.get("model") or "")
    given = body.get("input")
    texts = [] if given is None or given == "" else [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise SimError("invalid input type", 400)
    name = checked_name(asked, empty=SimError("model '' not found", 404))
    model = parts.store.get(name)
    if model is None:
        raise SimError(f'model "{asked}" not found, try pulling it first{parts.store.those_here()}', 404)
    started = parts.clock.monotonic()
    with using(parts, request, model, body) as load_seconds:
        if not texts:
            return {"model": asked, "embeddings": []}
        counts = [embeddable(len(tokens(text)), context_of(parts, model, body), body) for text in texts]
        vectors = [vector_for(model, text, body.get("dimensions")) for text in texts]
    return {
        "model": asked,
        "embeddings": vectors,
        "total_duration": nanoseconds(parts.clock.monotonic() - started),
        "load_duration": nanoseconds(load_seconds),
        "prompt_eval_count": sum(counts),
    }


def vector_for(model: StoredModel, text: str, dimensions: Any = None) -> list[float]:
    length = int(model.config.get("embedding_length") or 64)
    return vector(text, min(length, int(dimensions)) if dimensions else length)


def _check(model: StoredModel, body: dict[str, Any], asked: str, shape: AnswerShape) -> None:
    if body.get("think") and "thinking" not in model.capabilities and not body.get("relaxes_thinking"):
        raise SimError(f'"{asked}" does not support thinking', 400)
    if "completion" not in model.capabilities:
        raise SimError(f'"{asked}" does not support {shape.verb}', 400)
    if body.get("tools") and "tools" not in model.capabilities:
        raise SimError(f"{'/'.join(model.name.path[:3])}:{model.name.tag} does not support tools", 400)
    if body.get("suffix") and "insert" not in model.capabilities:
        raise SimError(f"{'/'.join(model.name.path[:3])}:{model.name.tag} does not support insert", 400)
    checked_options(body.get("options"))


def _marker(parts: SimulatorParts, shape: AnswerShape, asked: str, reason: str) -> Frame:
    return {
        "model": asked,
        "created_at": stamp(parts.clock),
        **shape.frame(Piece()),
        "done": True,
        "done_reason": reason,
    }


def _noted(file: Path, prompt: str) -> None:
    """One line, in one write: however this process ends, none is half there."""
    with file.open("ab", buffering=0) as out:
        out.write(b"%b\n" % prompt[-80:].replace("\n", " ").encode())


def _frames(
    parts: SimulatorParts, request: Request, model: StoredModel, body: dict[str, Any], shape: AnswerShape
) -> Iterator[Frame]:
    prompt, pass_time = shape.prompt(body), partial(parts.runners.pass_time, gone=request.gone)
    started = parts.clock.monotonic()
    with using(parts, request, model, body) as load_seconds, parts.runners.slot(model, request.gone):
        begun = parts.clock.monotonic()
        count = prompt_length(shape.messages(body), context_of(parts, model, body), body)
        thinks = "thinking" in model.capabilities and body.get("think") is not False
        said: Output = output(body, prompt, thinks=thinks)
        if parts.settings.generations is not None:
            _noted(parts.settings.generations, prompt)
        if parts.settings.prompt_seconds:
            print('level=INFO msg="the model has a prompt"', file=sys.stderr, flush=True)
            pass_time(parts.settings.prompt_seconds)

        def frame(piece: Piece) -> Frame:
            return {"model": str(body["model"]), "created_at": stamp(parts.clock), **shape.frame(piece), "done": False}

        for piece in paced(said.pieces, parts.settings.tokens_per_second, pass_time):
            token = piece.text or piece.thinking
            likely = logprobs(token, int(body.get("top_logprobs") or 0)) if body.get("logprobs") else []
            yield frame(piece) | ({"logprobs": likely} if likely else {})
        done = parts.clock.monotonic()
        yield {
            **frame(Piece()),
            "done": True,
            "done_reason": said.reason,
            **({} if shape.is_chat else {"context": [len(piece.text) for piece in said.pieces]}),
            "total_duration": nanoseconds(done - started),
            "load_duration": nanoseconds(load_seconds),
            "prompt_eval_count": max(1, count),
            "prompt_eval_duration": nanoseconds((done - begun) / 10),
            "eval_count": len(said.pieces),
            "eval_duration": nanoseconds(done - begun),
        }
