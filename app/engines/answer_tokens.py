"""How many tokens an answer cost, read from the first and last bytes of it that were kept.

A quoted name with a colon behind it cannot stand inside a JSON text, where the quotes would be escaped, so looking for
it is enough.
"""

import re
from typing import NamedTuple

_PROMPT = (b'"prompt_eval_count":', b'"prompt_tokens":', b'"input_tokens":')
_OUTPUT = (b'"eval_count":', b'"completion_tokens":', b'"output_tokens":')
_NUMBER = re.compile(rb"\s*(\d+)")
_NEAR = 512
"""Bytes before the end in which a count nearly always is: to look through all that is kept takes as long as a write."""


class Tokens(NamedTuple):
    """As the engine counted them; None where it did not say."""

    prompt: int | None = None
    output: int | None = None


def as_ollama_counts(_head: bytes, tail: bytes) -> Tokens:
    """Its last frame, or the last event with a usage, has both."""
    counted = Tokens(last_count(tail, _PROMPT), last_count(tail, _OUTPUT))
    # Of a stream that was left early, /v1/completions has said nothing yet but zeros.
    return Tokens() if counted == (0, 0) else counted


def as_llama_server_counts(head: bytes, tail: bytes) -> Tokens:
    """By its usage, else by its timings, which end each stream that was not asked for a usage.

    Anthropic's count leaves out what was in the cache; and in a stream of that dialect the prompt stands in the first
    event alone.
    """
    prompt = last_count(tail, (b'"prompt_tokens":',))
    if prompt is None:
        prompt = _sum(_read(tail) or _read(head), _cached(tail) or _cached(head))
    if prompt is None:
        prompt = _sum(last_count(tail, (b'"prompt_n":',)), last_count(tail, (b'"cache_n":',)))
    output = last_count(tail, _OUTPUT)
    return Tokens(prompt, last_count(tail, (b'"predicted_n":',)) if output is None else output)


def last_count(text: bytes, names: tuple[bytes, ...]) -> int | None:
    """The number behind the last of these names that has one. Looked for from the end, where it is."""
    end = len(text)
    start = max(0, end - _NEAR)
    while end >= 0:
        at = -1
        for name in names:
            if (found := text.rfind(name, start, end)) > at:
                at = found
        if at < 0 and start:  # all of it, from the end again: a name may lie across
            start, end = 0, len(text)
            continue
        if at >= 0 and (number := _NUMBER.match(text, text.index(b":", at) + 1)) is not None:
            return int(number[1])
        end = at
    return None


def _read(text: bytes) -> int | None:
    return last_count(text, (b'"input_tokens":',))


def _cached(text: bytes) -> int | None:
    return last_count(text, (b'"cache_read_input_tokens":',))


def _sum(counted: int | None, cached: int | None) -> int | None:
    return None if counted is None else counted + (cached or 0)
