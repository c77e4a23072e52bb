"""Results come together in the order of their lines, as OpenAI's and Anthropic's clients read them."""

import json
import sys
import tracemalloc
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anthropic.types.messages import MessageBatchIndividualResponse

from jobs.batches.files.storage import BatchStorage
from jobs.batches.lines.assembly import CANCELLED, EXPIRED, Assembled, Undone, assemble
from jobs.batches.lines.line_check import LineRules, read_through
from jobs.batches.lines.result_lines import answered, unanswered
from jobs.batches.lines.segments import Result, Segments
from jobs.batches.records import BatchDialect, BatchRecord
from tests.support.batch_files import batch_of, documents, line, lines_of, packed, posted, result, storage_at
from tests.support.crash_points import dies_at

MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 1},
}  # fmt: skip
REFUSED = {"type": "error", "error": {"type": "invalid_request_error", "message": "max_tokens: field required"}}


def made_of(storage: BatchStorage, record: BatchRecord, results: list[Result], count: int, **more: Any) -> Assembled:
    writer = Segments(storage, record.id, count).open(1, "a")
    for each in results:
        writer.append(each)
    writer.flush()
    return assemble(storage, record, lines_of(storage, record), writer.results, 1, **more)


# -- OpenAI's --------------------------------------------------------------------------------------------------------


def test_the_files_of_openai(storage: BatchStorage) -> None:
    """Answers in one file, failures and lines that were not run in the other, each in the order of the lines."""
    record = batch_of(storage, 4)
    made = made_of(storage, record, [result(record, 3), result(record, 2, kind="e"), result(record, 1)], 4)

    letters = record.id.removeprefix("batch_")
    assert documents(storage, made.output) == [
        {
            "id": f"batch_req_{letters}{n:08x}",
            "custom_id": f"id-{n}",
            "response": {"status_code": 200, "request_id": f"r{n}", "body": {"said": "hello"}},
            "error": None,
        }
        for n in (1, 3)
    ]
    failed, undone = documents(storage, made.errors)
    assert failed["response"] == {"status_code": 400, "request_id": "r2", "body": {"said": "hello"}}
    assert failed["error"] is None
    assert undone == {
        "id": f"batch_req_{letters}{4:08x}",
        "custom_id": "id-4",
        "response": None,
        "error": {"code": "batch_cancelled", "message": CANCELLED.message},
    }


def test_the_files_are_whose_batch_it_was(storage: BatchStorage) -> None:
    """With the purpose and the names that OpenAI gives them, until when they are kept."""
    record = batch_of(storage, 1, owner="bob")
    expires_at = storage.clock.now() + timedelta(days=30)
    made = made_of(storage, record, [result(record, 1)], 1, expires_at=expires_at)

    assert made.errors is None
    assert made.output is not None
    assert made.output in storage.files("bob")
    assert (made.output.purpose, made.output.filename) == ("batch_output", f"{record.id}_output.jsonl")
    assert made.output.expires_at == expires_at


def test_why_lines_were_not_run(storage: BatchStorage) -> None:
    """Each is told the reason that ended the batch."""
    record = batch_of(storage, 2)
    for sequence, undone in enumerate((EXPIRED, Undone("budget_spent", "the month's budget is spent")), 1):
        writer = Segments(storage, record.id, 2).open(sequence, "a")
        made = assemble(storage, record, lines_of(storage, record), writer.results, sequence, undone=undone)

        assert made.output is None
        assert [each["error"] for each in documents(storage, made.errors)] == [undone._asdict()] * 2


# -- Anthropic's -------------------------------------------------------------------------------------------------------


def test_the_file_of_anthropic(storage: BatchStorage) -> None:
    """All results lie in one file; each is one that Anthropic's client knows."""
    lines = [line(n, params={"model": "m", "max_tokens": 1}) for n in range(1, 5)]
    record = posted(storage, storage.save("ann", "f", packed(lines)), "anthropic", endpoint="/v1/messages")

    def answer(n: int, status: int, body: Any) -> Result:
        document = answered(
            "anthropic", record.id, n, f"id-{n}", status=status, request_id="r", body=json.dumps(body).encode()
        )
        return Result(n, "o" if status == 200 else "e", 0.1, 3, 1, document)

    made = made_of(storage, record, [answer(2, 400, REFUSED), answer(1, 200, MESSAGE)], 4, undone=EXPIRED)

    assert made.errors is None
    found = documents(storage, made.output)
    assert [each["custom_id"] for each in found] == ["id-1", "id-2", "id-3", "id-4"]
    assert [each["result"] for each in found] == [
        {"type": "succeeded", "message": MESSAGE},
        {"type": "errored", "error": REFUSED},
        {"type": "expired"},
        {"type": "expired"},
    ]
    for each in found:
        MessageBatchIndividualResponse.model_validate(each, strict=False)


def test_how_anthropic_says_why() -> None:
    """Cancelled is one l there; what has no name of its own is an error."""
    said = [
        json.loads(unanswered("anthropic", "msgbatch_1", 1, "a", code=code, message="why"))["result"]
        for code in ("batch_cancelled", "batch_expired", "budget_spent")
    ]

    assert said == [
        {"type": "canceled"},
        {"type": "expired"},
        {"type": "errored", "error": {"type": "error", "error": {"type": "api_error", "message": "why"}}},
    ]


# -- whatever was answered ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"<html>502</html>", b"", b"\xff", b"[" * 100_000])
def test_an_answer_that_is_no_json(body: bytes) -> None:
    """It stands in the body as the message of an error."""
    document = json.loads(answered("openai", "batch_1", 1, "a", status=502, request_id="r", body=body))

    assert document["response"]["body"]["error"]["message"] == body[:1000].decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        ('{"a":"\u00e4"}'.encode("utf-16"), {"a": "\u00e4"}),
        (b'{"a":NaN,"b":-Infinity}', {"a": None, "b": None}),
        (b'{"a":"\xed\xa0\x80"}', {"a": "\ufffd"}),
    ],
)
def test_what_is_nearly_json_becomes_such(body: bytes, found: Any) -> None:
    """A byte order mark, another encoding, what is no number, half a character: any client can read the result."""
    document = answered("openai", "batch_1", 1, "a", status=200, request_id="r", body=body).decode()

    assert json.loads(document, parse_constant=pytest.fail)["response"]["body"] == found


def test_a_body_stays_as_it_came() -> None:
    """Numbers and the order of fields too; only line breaks between them go."""
    body = b'{"b": 1.10,\n "a": 12345678901234567890,\r\n "t": "x\\ny"}'
    document = answered("openai", "batch_1", 1, 'q"uote', status=200, request_id="r", body=body)

    assert b'{"b": 1.10,  "a": 12345678901234567890,   "t": "x\\ny"}' in document
    assert json.loads(document)["custom_id"] == 'q"uote'
    assert b"\n" not in document


def test_a_result_is_one_line_whoever_reads_it() -> None:
    """Texts may have characters that Python's `splitlines` and others take for the end of a line."""
    said = "a\u2028b\u2029c\x85d\x1ce\x0bf\x0cg\nh\ri"
    body = json.dumps({"said": said}, ensure_ascii=False, indent=1).replace("\n", "\r\n").encode()
    dialects: tuple[BatchDialect, ...] = ("openai", "anthropic")
    for dialect in dialects:
        document = answered(dialect, "batch_1", 1, said, status=200, request_id=said, body=body)
        (line,) = document.decode().splitlines()
        found = json.loads(line)
        answer = found["response"]["body"] if dialect == "openai" else found["result"]["message"]
        assert answer == {"said": said}
        assert found["custom_id"] == said


# -- done twice, or broken off -----------------------------------------------------------------------------------------


def test_done_twice_it_is_the_same(storage: BatchStorage) -> None:
    """An attempt that puts results together again has the same files; a later one has files of its own."""
    record = batch_of(storage, 3)
    first = made_of(storage, record, [result(record, 1)], 3)
    results = Segments(storage, record.id, 3).open(2, "b").results
    lines = lines_of(storage, record)

    assert assemble(storage, record, lines, results, 1) == first
    later = assemble(storage, record, lines, results, 2)

    assert later.output is not None
    assert first.output is not None
    assert later.output.id != first.output.id
    assert documents(storage, later.output) == documents(storage, first.output)


def test_whoever_may_go_on_no_more_leaves_nothing(storage: BatchStorage) -> None:
    """Told of the progress, one who has lost the batch stops; no part of a file stays."""
    record = batch_of(storage, 3)
    writer = Segments(storage, record.id, 3).open(1, "a")

    def stop(_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        assemble(storage, record, lines_of(storage, record), writer.results, 1, progress=stop)

    assert [each.purpose for each in storage.files()] == ["batch"]
    assert storage.names("uploads") == []


def test_killed_at_any_step_no_file_is_torn(tmp_path: Path) -> None:
    """Whoever puts results together is killed at each change to the disk: what is there is whole, and the next attempt
    makes all of it."""
    step, lived = 0, False
    while not lived:
        step += 1
        storage = storage_at(tmp_path / str(step))
        record = batch_of(storage, 4)
        lines = lines_of(storage, record)
        writer = Segments(storage, record.id, 4).open(1, "a")
        for number, size in ((1, 700_000), (2, 1), (3, 700_000)):
            writer.append(result(record, number, "x" * size))
        writer.flush()
        lived = not dies_at(step, partial(assemble, storage, record, lines, writer.results, 1))
        for each in storage.files():
            if each.purpose == "batch_output":
                assert len(documents(storage, each)) == (1 if "error" in each.id else 3)
        made = assemble(storage, record, lines, Segments(storage, record.id, 4).open(2, "b").results, 2)
        assert [len(documents(storage, each)) for each in made[:2]] == [3, 1]
    assert step > 10


def test_many_lines_in_flat_memory(tmp_path: Path) -> None:
    """To fold results and put them together takes no more memory for twice as many: less than what they are."""

    def peak(count: int) -> int:
        storage = storage_at(tmp_path / str(count))
        record = batch_of(storage, count)
        lines = lines_of(storage, record)
        writer = Segments(storage, record.id, count).open(1, "a")
        for number in range(1, count + 1, 2):
            writer.append(result(record, number, "x" * 20_000))
            if writer.waiting == 50:
                writer.flush()
        writer.flush()
        tracemalloc.start()
        try:
            assemble(storage, record, lines, Segments(storage, record.id, count).open(2, "b").results, 2)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(500), peak(1_000)

    assert max(few, many) < 4_000_000  # of five and ten million bytes of results
    assert many - few < 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files a process has open")
def test_no_file_is_open_between_two_calls(storage: BatchStorage) -> None:
    """Neither of an upload on its way, nor while a file is read through, nor between flushes: a volume is refreshed
    only while none is."""
    seen: list[str] = []

    def look(_: object = None) -> None:
        links = list(Path("/proc/self/fd").iterdir())
        seen.extend(str(link.readlink()) for link in links if link.exists() and storage.root in link.readlink().parents)

    with (storage.root.parent / "batches-not").open("wb"):
        with storage.begin("ann", "f") as upload:
            upload.write(bytes(2_000_000))
            look()
        record = batch_of(storage, 3)
        read_through(storage, record, LineRules.of(record), progress=look)
        writer = Segments(storage, record.id, 3).open(1, "a")
        look()
        for number in (1, 2):
            writer.append(result(record, number))
            writer.flush()
            look()
        assemble(storage, record, lines_of(storage, record), writer.results, 1, progress=look)

    assert seen == []
    with (storage.root / "files" / record.input_file_id / "content").open("rb"):
        look()
    assert len(seen) == 1
