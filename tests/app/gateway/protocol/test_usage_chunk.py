"""The usage of an OpenAI stream: asked for, counted, and never seen by a caller who has not asked for it."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.protocol.json_body.edits import edit
from app.gateway.protocol.json_body.search import fields_of
from app.gateway.protocol.usage_chunk import UsageFilter, asking

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
DONE = b"data: [DONE]\n\n"
HEAD = {"id": "chatcmpl-919", "object": "chat.completion.chunk", "created": 1795905848, "model": "tiny"}
ZEROS = {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}
USAGE = {"usage": {"prompt_tokens": 13, "completion_tokens": 2, "total_tokens": 15}}
LIKELY = {"logprobs": {"content": [{"token": "a", "logprob": -0.1}]}}
TRAP = '"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}\n\ndata: [DONE]\n\n'


def event(document: Any) -> bytes:
    """A chunk as Go writes it."""
    return b"data: " + json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def chat(words: list[str]) -> tuple[bytes, bytes]:
    """The stream of a chat as Ollama 0.33 sends it: without the usage, and with it."""
    head = {**HEAD, "system_fingerprint": "fp_ollama"}
    deltas = [{"index": 0, "delta": {"content": word}, "finish_reason": None} for word in words]
    choices = [*deltas, {**deltas[0], **LIKELY}, {"index": 0, "delta": {}, "finish_reason": "stop"}]
    chunks = b"".join(event({**head, "choices": [each]}) for each in choices)
    return chunks + DONE, chunks + event({**head, "choices": [], **USAGE}) + DONE


def text(words: list[str]) -> tuple[bytes, bytes]:
    """The same of a completion, whose chunks have their choices elsewhere, and zeros."""
    start = {"id": "cmpl-326", "object": "text_completion", "created": 1795905848}
    end = {"model": "tiny", "system_fingerprint": "fp_ollama"}
    choices = [{"text": word, "index": 0, "finish_reason": None} for word in words] + [
        {"text": "", "index": 0, "finish_reason": "length"}
    ]
    plain = b"".join(event({**start, "choices": [each], **end}) for each in choices)
    counted = b"".join(event({**start, "choices": [each], **end, **ZEROS}) for each in choices)
    return plain + DONE, counted + event({**start, "choices": [], **end, **USAGE}) + DONE


STREAMS = {CHAT: chat, TEXT: text}


def cut(said: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(said), *(place % len(said) for place in places)})
    return [said[begin:end] for begin, end in itertools.pairwise(edges)]


@pytest.mark.parametrize("path", STREAMS)
@given(
    words=st.lists(st.one_of(st.text(max_size=8), st.just(TRAP)), min_size=1, max_size=5),
    places=st.lists(st.integers(0, 10_000), max_size=20),
)
def test_a_stream_is_the_one_that_was_asked_for(path: str, words: list[str], places: list[int]) -> None:
    """Whatever a model says, and wherever the pieces are cut, not a byte is more or less than without the usage."""
    plain, counted = STREAMS[path](words)
    usage_filter = UsageFilter(path)
    assert b"".join(usage_filter.passed(each) for each in cut(counted, places)) + usage_filter.rest() == plain


@pytest.mark.parametrize("path", STREAMS)
@given(words=st.lists(st.text(max_size=8), min_size=1, max_size=5), end=st.integers(1, 5_000))
def test_a_stream_that_is_cut_keeps_what_came(path: str, words: list[str], end: int) -> None:
    """Of a stream that ends inside an event its caller has what he would have had, and nothing of the usage chunk."""
    plain, counted = STREAMS[path](words)
    usage_filter = UsageFilter(path)
    got = usage_filter.passed(counted[: end % len(counted)]) + usage_filter.rest()
    assert plain.startswith(got[: got.rfind(b"\n\n") + 2])
    assert b'"total_tokens":15' not in got


@pytest.mark.parametrize("path", STREAMS)
def test_pieces_are_known_by_their_end(path: str) -> None:
    """Of a thousand pieces the two last are searched: the others are recognised by a few bytes of their end."""
    _, counted = STREAMS[path](["word"] * 1000)
    usage_filter = UsageFilter(path)
    for piece in counted.split(b"\n\n")[:-1]:
        usage_filter.passed(piece + b"\n\n")
    assert usage_filter.searched == 2


def test_what_is_endless_is_not_held() -> None:
    """An event that does not end goes on as it comes once it is longer than any usage."""
    usage_filter = UsageFilter(CHAT)
    passed = sum(len(usage_filter.passed(b"x" * 10_000)) for _ in range(100))
    assert passed > 900_000
    assert passed + len(usage_filter.rest()) == 1_000_000


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ({}, {"include_usage": True}),
        ({"stream_options": None}, {"include_usage": True}),
        ({"stream_options": {}}, {"include_usage": True}),
        ({"stream_options": {"include_usage": False}}, {"include_usage": True}),
        ({"stream_options": {"include_usage": None, "more": [1]}}, {"include_usage": True, "more": [1]}),
        ({"stream_options": {"more": {"x": "}"}}}, {"include_usage": True, "more": {"x": "}"}}),
        ({"stream_options": {"Include_Usage": False}}, {"Include_Usage": True}),
    ],
)
def test_the_body_asks_for_the_usage(said: dict[str, Any], sent: dict[str, Any]) -> None:
    """Where it does not ask for it, it does when it is sent; all else in it stays as it is."""
    for body in ({"model": "m", **said}, {**said, "model": "m", "messages": [{"content": '"stream_options":null}'}]}):
        raw = bytearray(json.dumps(body).encode() + b" \n")
        change = asking(fields_of(raw, *LOOKED_FOR), raw)
        assert change is not None
        edit(raw, [change])
        assert json.loads(raw) == {**body, "stream_options": sent}


@pytest.mark.parametrize("said", [{"include_usage": True}, {"INCLUDE_USAGE": True}, {"include_usage": "yes"}, "x", [1]])
def test_who_asks_himself_is_left_alone(said: Any) -> None:
    """Who asks for the usage gets it, and what Ollama refuses is left for it to refuse."""
    raw = bytearray(json.dumps({"model": "m", "stream_options": said}).encode())
    assert asking(fields_of(raw, *LOOKED_FOR), raw) is None


LOOKED_FOR = (
    frozenset({"model", "stream_options"}),
    {"stream_options": frozenset({"include_usage"})},
    frozenset({"stream_options"}),
)
