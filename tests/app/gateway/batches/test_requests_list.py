"""The body of a batch of messages, cut in whatever pieces, and what is none."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.batches.requests_list import MOST_REST, RequestsList
from app.gateway.protocol.errors import TooLarge
from jobs.core.errors import BadRequest

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
requests = st.lists(st.dictionaries(st.text(max_size=5), json_values, max_size=3), min_size=1, max_size=4)


def read(body: bytes, step: int) -> tuple[list[bytes], Any]:
    taken: list[bytes] = []
    reading = RequestsList(taken.append, most_bytes=10_000)
    for start in range(0, len(body), step):
        reading.feed(body[start : start + step])
    return taken, reading.members()


@given(requests, st.dictionaries(st.text(max_size=9).filter(lambda name: name != "requests"), json_values, max_size=3),
       st.integers(1, 40), st.booleans(), st.booleans())  # fmt: skip
def test_each_request_is_handed_on(
    asked: list[dict[str, Any]], others: dict[str, Any], step: int, is_first: bool, is_spaced: bool
) -> None:
    """However the body is cut on its way, each request is handed on as it stands, and the other members are told."""
    members = {"requests": asked} | others if is_first else others | {"requests": asked}
    body = json.dumps(members, indent=1 if is_spaced else None, ensure_ascii=is_spaced).encode("utf-8", "surrogatepass")
    taken, rest = read(body, step)
    assert [json.loads(each) for each in taken] == asked
    assert json.loads(json.dumps(rest)) == others


def test_a_member_that_only_looks_like_it_is_none() -> None:
    """A list of that name inside another member, or a text that says so, is not the list of requests."""
    body = b'{"metadata": {"requests": [{"a": 1}]}, "say": "\\"requests\\": [", "requests": [{"b": "]}"}]}'
    taken, rest = read(body, 3)
    assert taken == [b'{"b": "]}"}']
    assert rest == {"metadata": {"requests": [{"a": 1}]}, "say": '"requests": ['}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"requests": 1}',
        b'{"requests": {}}',
        b'{"requests": [',
        b'{"requests": [{}',
        b'{"requests": [{}]',
        b'{"requests": [{}}',
        b'{"requests": [{},]}',
        b'{"requests": [,{}]}',
        b'{"requests": [{} {}]}',
        b'{"requests": [{},,{}]}',
        b'{"requests": [1]}',
        b'{"requests": ["a"]}',
        b'{"requests": [[]]}',
        b'{"requests": [null, {}]}',
        b'{"requests": [], "requests": []}',
        b'{"requests": []} {}',
        b'{"requests": []}]',
        b']{"requests": []}',
        b'{"requests": [], "a": NaN}',
        b'{"requests": [], "a": "\\',
        b'{"requests": [' + b"[" * 300,
        b'{"a": ' + b'"x"' * MOST_REST,
        b'{"requests": [{}' + b" " * 2 * MOST_REST,
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_what_is_no_such_body_is_refused(body: bytes, step: int) -> None:
    """Whatever is torn, no JSON, or has something else in its list is refused, and no text of it is told."""
    with pytest.raises(BadRequest) as refusal:
        read(body if step == 1 << 20 or len(body) < 1000 else body[: 2 * MOST_REST + 1000], max(step, len(body) // 999))
    assert len(str(refusal.value)) < 100


def test_a_request_may_not_be_too_large() -> None:
    """A request that has more bytes than a line may have is refused before it has come."""
    reading = RequestsList(lambda _: None, most_bytes=1000)
    with pytest.raises(TooLarge, match=r"requests\[0\] has more than 1,000 bytes"):
        reading.feed(b'{"requests": [{"a": "' + b"x" * 2000)


def test_memory_is_that_of_one_request() -> None:
    """Of a body of many requests no more is kept than of its largest."""
    reading = RequestsList(lambda _: None, most_bytes=1 << 20)
    reading.feed(b'{"requests": [')
    piece = b",".join([json.dumps({"custom_id": "a", "params": {"text": "x" * 1000}}).encode()] * 50)
    tracemalloc.start()
    try:
        for count in range(200):
            reading.feed(piece if count == 0 else b"," + piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    reading.feed(b"]}")
    assert reading.count == 10_000
    assert reading.members() == {}
    assert peak < 1_000_000
