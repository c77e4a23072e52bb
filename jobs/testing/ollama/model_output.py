"""What the simulated model says: a statement of what it is, the prompt again, JSON by schema, thoughts, tool calls.

Nothing here infers. A tool is called when it is offered and the last message of a user names it.
"""

import json
import random
import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jobs.testing.ollama.faults import SimError
from jobs.testing.ollama.go_formats import SAYS, checked_options, tokens
from jobs.testing.ollama.json_schema import instance

THINKS = "SIMULATED: the simulator does not think."


@dataclass(frozen=True)
class Piece:
    """What one frame adds to an answer; or all that an answer holds."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Output:
    """A whole answer in pieces, and why it ended."""

    pieces: tuple[Piece, ...]
    reason: str


def output(body: dict[str, Any], prompt: str, *, thinks: bool) -> Output:
    """The answer to a native request.

    Raises:
        SimError: a format that is neither JSON nor a schema.

    """
    schema = _schema(body.get("format"))
    calls = _tool_calls(body)
    if schema is not None and not calls:
        text = json.dumps(instance(schema), ensure_ascii=False)
    elif calls:
        text = SAYS
    else:
        text = f"{SAYS} You said: {' '.join(prompt.split())}"
    words, reason = _limited(text, checked_options(body.get("options")))
    pieces = [Piece(thinking=THINKS)] if thinks else []
    pieces += [Piece(word) for word in words]
    pieces += [Piece(tool_calls=(call,)) for call in calls]
    return Output(tuple(pieces), reason)


def _schema(given: Any) -> Any:
    if given is None or given == "":
        return None
    if given == "json":
        return {"type": "object", "properties": {"simulated": {"const": SAYS}}}
    if not isinstance(given, dict):
        quoted = json.dumps(json.dumps(given, separators=(",", ":")))
        raise SimError(f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')
    return given


def _limited(text: str, options: dict[str, Any]) -> tuple[list[str], str]:
    """The text in tokens, up to what stops it, and no more of them than are asked for."""
    ends = [text.index(stop) for stop in options.get("stop") or () if stop and stop in text]
    # What it is stands in the first token, so that no limit cuts it away.
    words = [SAYS, *tokens(text.removeprefix(SAYS))] if text.startswith(SAYS) and not ends else tokens(text)
    if ends:
        words = tokens(text[: min(ends)])
    limit = int(options.get("num_predict") or -1)
    return (words[:limit], "length") if 0 < limit < len(words) else (words, "stop")


def _tool_calls(body: dict[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages") or []
    last = messages[-1] if messages else {}
    if last.get("role") != "user":
        return []
    asked = str(last.get("content") or "").casefold()
    functions = [tool.get("function") or {} for tool in body.get("tools") or ()]
    named = [function for function in functions if _is_named(str(function.get("name") or ""), asked)]
    return [
        {
            "id": f"call_{''.join(random.choices(string.ascii_lowercase + string.digits, k=8))}",
            "function": {
                "index": index,
                "name": function["name"],
                "arguments": instance({"type": "object", **(function.get("parameters") or {})}),
            },
        }
        for index, function in enumerate(named)
    ]


def _is_named(name: str, asked: str) -> bool:
    """Whether a text has the name, or its words, for a word of its own."""
    words = [re.escape(word) for word in re.split(r"[_\-. ]+", name.casefold()) if word]
    return bool(words) and re.search(rf"(?<!\w){'[-_. ]?'.join(words)}(?!\w)", asked) is not None


def paced(pieces: tuple[Piece, ...], per_second: float, pass_time: Callable[[float], object]) -> Iterator[Piece]:
    """One by one at a model's speed, for which time passes in between; 0 is as fast as it goes."""
    for piece in pieces:
        if per_second:
            pass_time(1 / per_second)
        yield piece


def logprobs(token: str, alternatives: int) -> list[dict[str, Any]]:
    """How likely the token was, and what might have stood there instead: made up, most likely first."""
    if not token:
        return []
    others = [token, *(f"{token}~{count}" for count in range(1, alternatives))][:alternatives]
    chosen = _likelihood(token, -0.25)
    return [chosen | ({"top_logprobs": [_likelihood(each, -0.25 - at) for at, each in enumerate(others)]}
                      if alternatives else {})]  # fmt: skip


def _likelihood(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}
