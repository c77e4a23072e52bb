"""The fields that decide something are found in any body, and nothing else of it costs more than its bytes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.protocol.json_body import scan
from app.gateway.protocol.json_body.cut_texts import MOST_UNCUT, cut, is_json
from app.gateway.protocol.json_body.fields import MOST_TEXT, TOO_LONG, Fields
from app.gateway.protocol.json_body.scan import MOST_DEPTH, MOST_NAMES, MOST_VALUES
from app.gateway.protocol.json_body.search import fields_of
from jobs.core.errors import BadRequest
from jobs.ollama.go_types import CUT

NAMES = frozenset({"model", "options", "prompt", "x"})
INSIDE = {"options": frozenset({"num_ctx"})}

texts = st.text(alphabet='a"\\{}[],:é\n\u2028😀', max_size=30).flatmap(
    lambda text: st.sampled_from([text, text * 200, "x" * 4090 + text, "x" * 65_530 + text, text + "\\" * 2001])
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
documents = st.dictionaries(st.sampled_from(["model", "prompt", "x", "y", "z"]), values) | st.fixed_dictionaries(
    {"options": st.dictionaries(st.sampled_from(["num_ctx", "y"]), values)}
)


@given(documents, st.sampled_from([None, 2]), st.booleans())
def test_what_is_looked_for_is_found(document: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    """Each value is found whole, whatever stands around it and however it is written, and nothing else."""
    body = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()
    for read in (body, bytearray(body)):
        found = fields_of(read, NAMES, INSIDE)
        assert {name: found.whole(name) for name in NAMES if found.span(name)} == {
            name: value for name, value in document.items() if name in NAMES
        }
        assert {name for name in NAMES if found.is_set(name)} == {name for name in NAMES if document.get(name)}
        options = document.get("options")
        inside = options if isinstance(options, dict) else {}
        assert found.inside("options").whole("num_ctx") == inside.get("num_ctx")
        assert found.inside("model").whole("num_ctx") is None


@given(documents, st.data())
def test_a_body_that_is_cut_is_no_json(document: dict[str, Any], data: st.DataObject) -> None:
    """Whatever is missing at the end, or stands behind it, the body is refused."""
    body = json.dumps(document).encode()
    with pytest.raises(BadRequest):
        fields_of(body[: data.draw(st.integers(0, len(body) - 1))], NAMES, INSIDE)
    with pytest.raises(BadRequest, match="something comes after"):
        fields_of(body + b" " + data.draw(st.sampled_from([b"{}", b"x", b"\0", b","])), NAMES, INSIDE)


wild = st.builds(
    lambda document, places: _with(json.dumps(document, ensure_ascii=len(places) % 2 == 0).encode(), places),
    documents,
    st.lists(
        st.tuples(
            st.integers(0, 200),
            st.sampled_from([*b'",[]{}:\\ 0-+.eEtNu\n\x00\x1f\x7f\xff', b"NaN", b"-Infinity", b"\\ud83d", b"[" * 210]),
        ),
        max_size=2,
    ),
)


def _with(body: bytes, places: list[tuple[int, int | bytes]]) -> bytes:
    for at, piece in places:
        body = body[:at] + (piece if isinstance(piece, bytes) else bytes([piece])) + body[at:]
    return body


def read_by(body: bytes, marks: int | None, short: bytes | None = None) -> Any:
    """What is found, or why the body is refused."""
    try:
        found = fields_of(body, NAMES, INSIDE, marks=marks, short=short)
        spans = {name: (found.span(name), found.inside(name).span("num_ctx")) for name in NAMES}
        asked = (found.is_there, found.is_set, found.kind, found.kind_of_first, found.is_plain_number, found.outline)
        told = [repr({name: ask(name) for name in sorted(NAMES)}) for ask in asked]
        inside = found.inside("options")
        scalars = [_scalar(found, name) for name in sorted(NAMES)]
        return spans, list(found.in_order()), told, scalars, inside.kind("num_ctx"), _scalar(inside, "num_ctx")
    except BadRequest as error:
        return str(error)


def _scalar(found: Fields, name: str) -> Any:
    try:
        return found.scalar(name)
    except BadRequest as error:
        return str(error)


@given(wild)
def test_who_builds_the_values_changes_nothing(body: bytes) -> None:
    """Where the library's reader builds the values, the same is found, and refused in the same words."""
    assert read_by(body, len(body)) == read_by(body, None)


@pytest.mark.parametrize("most", range(MOST_UNCUT - 4, MOST_UNCUT + 3))
@pytest.mark.parametrize(
    "part", [b"x", "\u00e9".encode(), "\U0001f600".encode(), b"\\n", b'\\"', b"\\\\", b"\\/", b"/"]
)
def test_a_text_is_as_long_as_it_is_written(part: bytes, most: int) -> None:
    """Whoever builds the values, the same texts are cut in an outline: by their bytes, whatever these stand for."""
    text = part * (most // len(part))
    for body in (b'{"prompt":["%b"],"x":"\\n"}' % text, b'{"prompt":{"%b":1}}' % text):
        assert read_by(body, len(body)) == read_by(body, None)


@given(wild, st.integers(2, 100))
def test_what_is_cut_before_it_is_read_changes_nothing(body: bytes, most: int) -> None:
    """Where the long texts of a body are cut before it is read, the same is found, wherever they stand and whatever
    they escape; and where something may be wrong with them, they are not cut."""
    short = cut(body, most)
    if short is not None and (short is body or is_json(body)):
        assert read_by(body, len(short), bytes(short)) == read_by(body, None)
        assert len(short) <= len(body)


@pytest.mark.parametrize("text", [b"x" * 60_000, b"two lines\\n" * 5_000, b'a \\"word\\", ' * 90 + b"y" * 9_000])
@pytest.mark.parametrize("wrong", [b"", b"\x00", b"\n", b"\xff", b"\\x", b"\\ud800"])
def test_a_long_text_costs_no_more_than_a_short_one(text: bytes, wrong: bytes) -> None:
    """A body with a long text is read as one with a short one, unless the text is none: that is found out, whatever is
    wrong with it and wherever."""
    body = b'{"model":"m","prompt":"%b%b%b","x":1}' % (text, wrong, text)
    short = cut(body, 400)
    assert short is None or (len(short) < 4_096 and is_json(body) is not bool(wrong))
    assert (short is None) is (text.count(b"\\") > 1_000)


def test_small_bodies_are_built_at_once() -> None:
    """The library's reader takes what clients write, and nothing has to be looked for in the body itself."""
    body = b'{"model":"x","prompt":"caf\xc3\xa9 \\n","options":{"num_ctx":4096},"x":[1.5]}'
    found = fields_of(body, NAMES, INSIDE, marks=len(body))
    assert found.built("options") == {"num_ctx": 4096}
    assert found.inside("options").built("num_ctx") == 4096
    assert found.span("x") == (body.index(b"["), body.index(b"]") + 1)


@pytest.mark.parametrize("inside", [b"NaN", b"[Infinity]", b"[-Infinity]", b'["\t"]', b"[01]", b"[1.]", b"[" * 1500])
def test_the_library_takes_no_more_than_we_do(inside: bytes) -> None:
    """What Python's reader takes and Go's does not is refused, however deep it stands."""
    body = b'{"model":"x","messages":[%b]}' % inside
    with pytest.raises(BadRequest):
        fields_of(body, NAMES | {"messages"}, INSIDE, marks=len(body))


@pytest.mark.parametrize("step", [scan._STEP, scan._SHORT])
@pytest.mark.parametrize("piece", [b"\\u0061", b"\\\\", b'\\"', b"\xc3\xa9"])
def test_a_long_text_may_be_cut_anywhere(step: int, piece: bytes) -> None:
    """Where a step ends inside an escape, the next one goes on with it."""
    for before in range(step - 12, step + 12):
        body = b'{"y":"' + b"a" * before + piece * 3 + b'", "model":"x"}'
        assert fields_of(body, NAMES).scalar("model") == "x"
        body = b'{"y":' + b" " * before + b'1234567, "model":' + b"\n" * before + b'"x"' + b"\t" * before + b"}"
        assert fields_of(body, NAMES).scalar("model") == "x"


def nested(depth: int) -> bytes:
    return b'{"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_the_limits_are_where_they_are_said_to_be() -> None:
    """As deep, as many, as long as may be passes; one more does not."""
    fields_of(b'{"y":[' + b"0," * (MOST_VALUES - 3) + b"0]}", NAMES)
    with pytest.raises(BadRequest, match="beside its texts"):
        fields_of(b'{"y":[' + b"0," * (MOST_VALUES - 2) + b"0]}", NAMES)
    fields_of(nested(MOST_DEPTH), NAMES)
    with pytest.raises(BadRequest, match="nested too deeply"):
        fields_of(nested(MOST_DEPTH + 2), NAMES)
    pairs = [b'"n%d":0' % number for number in range(MOST_NAMES + 1)]
    fields_of(b"{" + b",".join(pairs[1:]) + b"}", NAMES)
    fields_of(b'{"y":{' + b",".join(pairs) + b"}}", NAMES)
    with pytest.raises(BadRequest, match="more than 256 fields"):
        fields_of(b"{" + b",".join(pairs) + b"}", NAMES)
    assert fields_of(b'{"model":"' + b"a" * (MOST_TEXT - 2) + b'"}', NAMES).scalar("model")
    with pytest.raises(BadRequest, match="has 8,193 bytes"):
        fields_of(b'{"model":"' + b"a" * (MOST_TEXT - 1) + b'"}', NAMES).scalar("model")


# -- outlines ----------------------------------------------------------------------------------------------------------


def outline_of(value: Any) -> Any:
    return fields_of(json.dumps({"a": value}).encode(), frozenset({"a"})).outline("a")


@pytest.mark.parametrize("value", [None, True, 5, "x", "\u00e9\n", [], {"b": [1, {"c": "d"}]}, "y" * 1000])
def test_an_outline_of_what_is_short_is_the_value(value: Any) -> None:
    """Nothing is missing of it."""
    assert outline_of(value) == value


def test_an_outline_has_the_beginning_of_long_texts() -> None:
    """A picture of megabytes inside a message is cut, and what stands around it is whole."""
    url = "data:image/png;base64," + "A" * 5_000_000
    outline = outline_of([{"type": "image", "n\\\\": url, "quoted": '\\"' * 3000, "last": "x"}])
    (part,) = outline
    assert (part["type"], part["last"]) == ("image", "x")
    for text in (part["n\\\\"], part["quoted"]):
        assert text.endswith(CUT)
    assert part["n\\\\"].startswith("data:image/png;base64,AAA")


def test_what_is_long_without_its_texts_has_no_outline() -> None:
    """It would take too long to build, and to look through."""
    assert outline_of(["y" * 1000] * 100) is TOO_LONG
    assert outline_of([0] * 100_000) is TOO_LONG


def test_a_number_in_an_outline_is_known_as_it_was_written() -> None:
    """Go tells a number that is not whole, or that 64 bits do not hold, in the words of the body."""
    body = b'{"a": [1.50, 1e3, 9223372036854775808, -9223372036854775808]}'
    first, second, third, last = fields_of(body, frozenset({"a"})).outline("a")
    assert [each.text for each in (first, second, third)] == ["1.50", "1e3", "9223372036854775808"]
    assert last == -(2**63)


def agrees(outline: Any, value: Any) -> bool:
    """Whether the one is an outline of the other."""
    match value:
        case str():
            beginning, cut, end = outline.partition(CUT)
            return outline == value or (cut == CUT and not end and value.startswith(beginning) and len(value) > 170)
        case list():
            return len(outline) == len(value) and all(map(agrees, outline, value))
        case dict():
            kept = [agrees(outline[key], each) for key, each in value.items() if key in outline]
            return all(kept) and len(kept) >= sum(len(key) < 170 for key in value)
        case _:
            return bool(outline == value)


@given(values, st.booleans())
def test_outlines_lose_nothing_but_the_ends_of_long_texts(value: Any, ascii_only: bool) -> None:
    """Whatever JSON holds, in whatever nesting, escapes included; what has no outline is long."""
    body = json.dumps({"x": value}, ensure_ascii=ascii_only).encode()
    outline = fields_of(body, NAMES).outline("x")
    assert len(body) > 1024 if outline is TOO_LONG else agrees(outline, value)
