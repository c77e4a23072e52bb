"""A file is read through before a line runs: what is wrong is told by its line, and nothing is held but ids."""

import json
import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.batches.files.storage import BatchStorage
from jobs.batches.lines.custom_ids import CustomIds
from jobs.batches.lines.line_check import (
    PIECE,
    Checked,
    LineRefusal,
    LineRules,
    ModelLines,
    check,
    checked_before,
    read_through,
)
from jobs.batches.lines.line_index import MOST_MODELS
from jobs.batches.records import MOST_ERRORS, BatchDialect, LineError
from jobs.core.errors import Corrupt, DiskFull, NotFound
from jobs.core.units import human_bytes
from tests.support.batch_files import CHAT, batch_of, checked, every_line, line, lines_of, packed, posted, storage_at
from tests.support.crash_points import dies_at
from tests.support.disks import NEEDS_MOUNT, fill, small_disk

RULES = LineRules(CHAT)
ANTHROPIC = LineRules("/v1/messages", "anthropic")


def found_in(*lines: Any, rules: LineRules = RULES) -> Checked:
    return check(packed(lines), rules)


def raw(*lines: bytes, rules: LineRules = RULES) -> Checked:
    return check([b"\n".join(lines)], rules)


def one_error(found: Checked) -> LineError:
    assert found.error_count == 1
    (error,) = found.errors
    return error


# -- what is counted ---------------------------------------------------------------------------------------------------


def test_it_counts_what_each_model_is_asked() -> None:
    """Lines, bytes of their texts, the tokens that they allow, and lines that allow any; in the order of mention."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    content = [{"type": "text", "text": "what is it?"}, image]
    found = found_in(
        line(1, body={"model": "b", "messages": [{"role": "user", "content": "äh"}], "max_tokens": 7}),
        line(2, body={"model": "a", "messages": [{"role": "system", "content": "be kind"}]}),
        line(3, body={"model": "b", "messages": [{"role": "user", "content": content}], "max_completion_tokens": 9}),
    )

    assert found.is_good
    assert found.lines == 3
    assert found.models == (ModelLines("b", 2, 3 + 11, 16, 0), ModelLines("a", 1, 7, 0, 1))


@pytest.mark.parametrize(
    ("endpoint", "body", "prompt_bytes", "max_tokens"),
    [
        ("/v1/completions", {"prompt": ["one", "two"], "max_tokens": 3}, 6, 3),
        ("/v1/embeddings", {"input": "words"}, 5, 0),
        ("/v1/responses", {"input": "words", "instructions": "be", "max_output_tokens": 4}, 7, 4),
        ("/v1/messages", {"system": "be", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}, 4, 5),
    ],
)
def test_of_every_endpoint(endpoint: str, body: dict[str, Any], prompt_bytes: int, max_tokens: int) -> None:
    """Each endpoint has its own names for texts and limits."""
    found = found_in(line(1, url=endpoint, body={"model": "m", **body}), rules=LineRules(endpoint))

    assert found.is_good
    assert found.models == (ModelLines("m", 1, prompt_bytes, max_tokens, int(not max_tokens)),)


def test_what_was_found_is_kept_as_it_is() -> None:
    """As JSON and back it is the same."""
    found = found_in(line(1), line(1), 7)

    assert Checked.from_json(json.loads(json.dumps(found.as_json()))) == found


def test_anthropic_lines() -> None:
    """Anthropic's lines have `params`, and neither method nor address."""
    good = {"custom_id": "a", "params": {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}}

    assert found_in(good, rules=ANTHROPIC).models == (ModelLines("m", 1, 1, 9),)
    assert one_error(found_in({"custom_id": "a"}, rules=ANTHROPIC)).param == "params"
    assert one_error(found_in({"custom_id": "a", "params": {}}, rules=ANTHROPIC)).param == "params.model"
    refusing = replace(ANTHROPIC, shape=lambda _: LineRefusal("invalid_request", "no", "body"))
    assert one_error(found_in(good, rules=refusing)).param == "params"


def test_a_model_for_those_that_name_none() -> None:
    """The batch's model is that of lines without one; of all lines where that was said."""
    lines = [line(1, body={"messages": []}), line(2, body={"model": "own", "messages": []})]

    some = found_in(*lines, rules=LineRules(CHAT, model="given"))
    every = found_in(*lines, rules=LineRules(CHAT, model="given", is_for_all=True))

    assert [(each.model, each.lines) for each in some.models] == [("given", 1), ("own", 1)]
    assert [(each.model, each.lines) for each in every.models] == [("given", 2)]


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "code", "param", "words"),
    [
        (b"{", "invalid_json_line", None, "JSON"),
        (b'{"a": NaN}', "invalid_json_line", None, "JSON"),
        (b"\xff\xfe", "invalid_json_line", None, "JSON"),
        (b"[" * 100_000, "invalid_json_line", None, "JSON"),
        (b"[" + b"[]," * 250_000 + b"1]", "invalid_json_line", None, "values"),
        (b"[]", "invalid_json_line", None, "no JSON object"),
        (line(1, custom_id=None), "missing_required_parameter", "custom_id", "'custom_id'"),
        (line(1, custom_id=5), "invalid_type", "custom_id", "not 5"),
        (line(1, custom_id=""), "invalid_type", "custom_id", "1 to 512"),
        (line(1, custom_id="x" * 513), "invalid_type", "custom_id", "1 to 512"),
        (line(1, method="GET"), "invalid_method", "method", '"GET"'),
        (line(1, url="/v1/embeddings"), "invalid_url", "url", CHAT),
        (line(1, body="text"), "invalid_type", "body", "an object"),
        (line(1, body={}), "missing_required_parameter", "body.model", "a model"),
        (line(1, body={"model": ["m"]}), "invalid_type", "body.model", "a model"),
        (line(1, body={"model": "m", "stream": True}), "invalid_request", "body.stream", "stream"),
    ],
)  # fmt: skip
def test_each_fault_is_told(wrong: Any, code: str, param: str | None, words: str) -> None:
    """By its line, with a code, where in the line it is, and what would be right."""
    bad = wrong if isinstance(wrong, bytes) else json.dumps(wrong).encode()
    error = one_error(raw(json.dumps(line(9)).encode(), bad))

    assert (error.code, error.line, error.param) == (code, 2, param)
    assert words in error.message
    assert error.message.isprintable()
    assert len(error.message) < 300


def test_a_bad_line_of_many_is_told_by_its_number() -> None:
    """Line 7,312 of ten thousand; the others are counted as they are."""

    def lines() -> Iterator[bytes]:
        for n in range(1, 10_001):
            yield b'{"custom_id": "\n' if n == 7312 else json.dumps(line(n)).encode() + b"\n"

    found = check(lines(), RULES)
    error = one_error(found)

    assert (error.line, error.code, error.param) == (7312, "invalid_json_line", None)
    assert found.lines == 10_000
    assert found.models[0].lines == 9_999


def test_the_first_errors_are_kept_and_all_are_counted() -> None:
    """A hundred of them, in the order of the lines."""
    found = check(packed(range(1_000)), RULES)

    assert found.error_count == 1_000
    assert [each.line for each in found.errors] == list(range(1, MOST_ERRORS + 1))


def test_an_id_twice() -> None:
    """The later line is told of, with the number of the earlier one."""
    error = one_error(found_in(line(1), line(2), line(1)))

    assert (error.code, error.line, error.param) == ("duplicate_custom_id", 3, "custom_id")
    assert "line 1 " in error.message


@given(st.lists(st.text(max_size=3), max_size=60))
def test_ids_are_told_apart(ids: list[str]) -> None:
    """Each is known by the number of the first that was the same."""
    known = CustomIds()

    assert [known.add(id) for id in ids] == [
        ids.index(id) + 1 if id in ids[:number] else None for number, id in enumerate(ids)
    ]


def test_models_are_asked_for_once() -> None:
    """Whoever knows models is asked once for each, and refuses each line that asks for one that is not here."""
    asked: list[str] = []

    def knows(model: str) -> LineRefusal | None:
        asked.append(model)
        return None if model == "m" else LineRefusal("model_not_found", f"there is no model {model!r}")

    other = [line(n, body={"model": "x", "messages": []}) for n in (2, 3)]
    found = found_in(line(1), *other, line(4), rules=LineRules(CHAT, knows=knows))

    assert asked == ["m", "x"]
    assert [(each.line, each.code, each.param) for each in found.errors] == [
        (2, "model_not_found", "body.model"),
        (3, "model_not_found", "body.model"),
    ]


@pytest.mark.parametrize("are_here", [True, False])
def test_too_many_models(are_here: bool) -> None:
    """Whoever knows models is asked for so many; a line that asks for one more is an error."""
    asked: list[str] = []

    def knows(model: str) -> LineRefusal | None:
        asked.append(model)
        return None if are_here else LineRefusal("model_not_found", "it is not here")

    lines = (line(n, body={"model": f"m{n}", "messages": []}) for n in range(MOST_MODELS + 5))
    found = check(packed(lines), LineRules(CHAT, knows=knows))

    assert len(asked) == MOST_MODELS
    assert found.error_count == (5 if are_here else MOST_MODELS + 5)
    assert len(found.models) == (MOST_MODELS if are_here else 0)


def test_the_shape_of_a_body_is_checked_where_it_can_be() -> None:
    """By whoever knows shapes."""

    def shape(body: Any) -> LineRefusal | None:
        return None if body.get("messages") else LineRefusal("invalid_request", "no messages", "body.messages")

    found = found_in(line(1), line(2, body={"model": "m"}), rules=LineRules(CHAT, shape=shape))

    assert one_error(found) == LineError("invalid_request", "no messages", 2, "body.messages")


def test_nothing_in_a_file() -> None:
    """It is told of as a file, not as a line."""
    for nothing_in_it in ([], [b""], [b"\n\n  \n"]):
        assert one_error(check(nothing_in_it, RULES)) == LineError("empty_file", "there is no line in the file")


def test_blank_lines() -> None:
    """At the end of a file they are nothing; among others each is an error, by its number."""
    assert raw(json.dumps(line(1)).encode(), b"", b"  ", b"").is_good

    found = raw(json.dumps(line(1)).encode(), b"", b" ", json.dumps(line(2)).encode())
    assert [(each.line, each.code) for each in found.errors] == [(2, "invalid_json_line"), (3, "invalid_json_line")]
    assert found.lines == 4


def test_a_line_that_is_too_long_is_skipped() -> None:
    """It is told of, and the next one is read as if nothing had been."""
    rules = LineRules(CHAT, most_line_bytes=1_000)
    long = line(2, body={"model": "m", "messages": [{"content": "x" * 5_000}]})
    error = one_error(found_in(line(1), long, line(3), rules=rules))

    assert (error.code, error.line) == ("line_too_long", 2)
    assert human_bytes(1_000) in error.message


def test_too_many_lines() -> None:
    """The file is read no further."""
    found = check(packed(line(n) for n in range(10)), LineRules(CHAT, most_lines=3))

    assert one_error(found).code == "too_many_lines"
    assert found.lines == 3


def test_a_mark_at_the_beginning_is_no_fault() -> None:
    """Some editors begin a file with a byte order mark; others end lines as Windows does."""
    assert raw(b"\xef\xbb\xbf" + json.dumps(line(1)).encode() + b"\r", json.dumps(line(2)).encode() + b"\r").is_good


# -- how it is read ----------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0, 1, 7, 40, 200]), max_size=8), st.data())
def test_wherever_pieces_end(sizes: list[int], data: st.DataObject) -> None:
    """The same is found, and each line begins where it does, however the file comes in pieces."""
    whole = b"".join(packed(line(n, custom_id="x" * (size + 1) + str(n)) for n, size in enumerate(sizes)))
    if data.draw(st.booleans()):
        whole = whole[:-1]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    found = check(pieces, RULES)

    assert found.lines == len(sizes)
    assert found.bytes == len(whole)
    assert found.is_good == bool(sizes)


def test_it_is_kept_with_the_batch(storage: BatchStorage) -> None:
    """Once read through, it is not read again; nor do lines lie anywhere else than they did."""
    record = batch_of(storage, 5)
    assert checked_before(storage, record.id) is None
    first = checked(storage, record)
    storage.delete(record.input_file_id)

    assert checked(storage, record) == first == checked_before(storage, record.id)


def test_a_file_that_is_gone(storage: BatchStorage) -> None:
    """It is told of by its id."""
    record = batch_of(storage, 1)
    storage.delete(record.input_file_id)

    with pytest.raises(NotFound, match=record.input_file_id):
        checked(storage, record)


def test_who_is_told_of_progress_may_end_it(storage: BatchStorage) -> None:
    """Nothing is kept then."""
    record = batch_of(storage, 5)

    def stop(_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        read_through(storage, record, RULES, progress=stop)

    assert checked_before(storage, record.id) is None
    assert storage.names("work") in ([], [record.id])


def test_killed_at_any_step_it_is_read_again(tmp_path: Path) -> None:
    """Whoever reads a file through is killed at each change to the disk: the next one finds the same, and the lines are
    where they are."""
    step, lived = 0, False
    while not lived:
        step += 1
        storage = storage_at(tmp_path / str(step))
        record = batch_of(storage, 3)
        lived = not dies_at(step, partial(checked, storage, record))
        found = lines_of(storage, record)
        assert [each.custom_id for each in found.read(1, 3)] == ["id-1", "id-2", "id-3"]
    assert step > 4


@NEEDS_MOUNT
def test_a_disk_that_is_full_when_a_file_is_read(tmp_path: Path) -> None:
    """It is told, nothing is left of it, and it goes on once there is room."""
    with small_disk(tmp_path / "disk", 2) as disk:
        storage = storage_at(disk)
        record = batch_of(storage, 5)
        ballast = fill(disk)
        with pytest.raises(DiskFull):
            checked(storage, record)
        assert checked_before(storage, record.id) is None
        ballast.unlink()

        assert checked(storage, record).is_good


def test_two_attempts_may_read_at_once(storage: BatchStorage) -> None:
    """One that lost its lease goes on reading: neither hinders the other, and lines are where they are."""
    record = batch_of(storage, 3)

    def other(_: int) -> None:
        if checked_before(storage, record.id) is None:
            checked(storage, record)

    assert read_through(storage, record, RULES, progress=other) == checked_before(storage, record.id)
    assert len(lines_of(storage, record).read(1, 3)) == 3
    assert sorted(path.name for path in storage.work(record.id).iterdir()) == ["checked.json", "lines.idx"]


# -- lines by their number ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_lines_are_read_by_their_number(dialect: BatchDialect, storage: BatchStorage) -> None:
    """Each with its id, its model and what is sent, whatever stands around it."""
    body = {"messages": [{"role": "user", "content": "ä\u2028"}]}
    key = "params" if dialect == "anthropic" else "body"
    lines = [line(1, **{key: {"model": "a", **body}}), line(2, **{key: {"model": "b", "n": 2}})]
    file = storage.save(
        "ann", "f", [b"\xef\xbb\xbf", *(each.replace(b"\n", b" \r\n") for each in packed(lines)), b"\n\n"]
    )
    record = posted(storage, file, dialect)
    read = lines_of(storage, record)

    first, second = read.read(1, 10)

    assert (first.number, first.custom_id, first.model, first.body) == (1, "id-1", "a", {"model": "a", **body})
    assert (second.number, second.custom_id, second.model, second.body) == (2, "id-2", "b", {"model": "b", "n": 2})
    assert read.read(2, 1) == [second]
    assert read.models(1, 2) == ["a", "b"]
    with pytest.raises(Corrupt, match="no line 3"):
        read.read(3, 1)


@pytest.mark.parametrize("at_once", [1, 7, 64, 1000])
def test_many_lines_are_read_at_once(at_once: int, storage: BatchStorage) -> None:
    """However many are asked for in one step: each once, in their order."""
    record = batch_of(storage, 200)

    assert [each.number for each in every_line(lines_of(storage, record), at_once)] == list(range(1, 201))


def test_long_lines_are_read_few_at_once(storage: BatchStorage) -> None:
    """One at least; so that what is held of them has a bound."""
    long = [line(n, body={"model": "m", "messages": ["x" * 1_900_000]}) for n in range(1, 5)]
    record = posted(storage, storage.save("ann", "f", packed(long)))

    assert [each.number for each in lines_of(storage, record).read(1, 4)] == [1, 2]


def test_a_model_takes_the_place_of_a_lines_own(storage: BatchStorage) -> None:
    """Where the batch's is for all."""
    file = storage.save("ann", "f", packed([line(1)]))
    record = posted(storage, file, model="given", is_for_all=True)

    (read,) = lines_of(storage, record).read(1, 1)

    assert (read.model, read.body["model"]) == ("given", "given")


# -- how much it takes -------------------------------------------------------------------------------------------------


def peak(lines: Iterable[bytes]) -> int:
    """The most memory that reading these through takes at once."""
    tracemalloc.start()
    try:
        check(lines, RULES)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def generated(count: int, text: str = "") -> Iterator[bytes]:
    """Lines that lie nowhere."""
    rest = b'","method":"POST","url":"%b","body":{"model":"m","messages":[{"content":"%b"}]}}\n'
    end = rest % (CHAT.encode(), text.encode())
    return (b'{"custom_id":"%d' % number + end for number in range(count))


def test_a_gigabyte_without_a_line() -> None:
    """It is one error, and no more than a line of it is held."""
    piece = b"x" * PIECE
    tracemalloc.start()
    try:
        found = check((piece for _ in range(1024)), RULES)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()

    assert one_error(found).code == "line_too_long"
    assert found.bytes == 1 << 30


def test_memory_grows_by_ids_alone() -> None:
    """Twice as many lines take twice as much, some forty bytes each; longer ones take no more than one of them."""
    few, many = peak(generated(1_500)), peak(generated(3_000))
    long = peak(generated(1_500, "x" * 2_000))

    assert many < 2.2 * few
    assert many / 3_000 < 60
    assert long - few < 100_000
