"""Results in the order of the input, of whatever dialect, as lines and as rows; many take no more memory than few."""

import csv
import io
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from jobs.batches.csv_lines import FORM, ROW, CsvForm
from jobs.cli.batches.csv_answers import answer_of, columns_after
from jobs.cli.batches.merged_results import BatchLines, csv_rows, results
from jobs.core.errors import BadRequest

FORM_OF_ONE = CsvForm(("text",))


def encoded(*documents: Any) -> list[bytes]:
    return [json.dumps(each).encode() + b"\n" for each in documents]


def line(id: str, number: int = 2, form: CsvForm = FORM_OF_ONE) -> dict[str, Any]:
    first = {FORM: form.as_json()} if number == 1 else {}
    return {"custom_id": id, ROW: [f"cell of {id}"], **first}


def answered(id: str, said: str = "yes") -> dict[str, Any]:
    body = {"choices": [{"message": {"content": said}}]}
    return {"custom_id": id, "response": {"status_code": 200, "body": body}, "error": None}


def told(*found: Any) -> tuple[str, str]:
    """The answer and the error of a row with this result, or none."""
    rows = b"".join(csv_rows(BatchLines(encoded(line("a", 1)), encoded(*found), ()))).decode()
    _, (_, answer, error) = csv.reader(io.StringIO(rows, newline=""))
    return answer, error


def test_answers_and_errors_come_in_the_order_of_the_input() -> None:
    """However they are spread over the two files."""
    lines = BatchLines(
        encoded(*(line(id) for id in "abcde")),
        encoded(answered("a"), answered("d")),
        encoded({"custom_id": "b"}, {"custom_id": "c"}, {"custom_id": "e"}),
    )
    assert [json.loads(each)["custom_id"] for each in results(lines)] == ["a", "b", "c", "d", "e"]


def test_a_line_without_a_result_moves_no_other() -> None:
    """Its row says so; among lines there is none."""
    files = encoded(line("a", 1), line("b"), line("c")), encoded(answered("a"), answered("c")), encoded()
    assert [json.loads(each)["custom_id"] for each in results(BatchLines(*files))] == ["a", "c"]
    rows = b"".join(csv_rows(BatchLines(*files))).decode().splitlines()
    assert rows == ["text,answer,error", "cell of a,yes,", "cell of b,,it has no result", "cell of c,yes,"]


@pytest.mark.parametrize(
    ("result", "answer", "error"),
    [
        (answered("a"), "yes", ""),
        ({"custom_id": "a", "error": {"code": "timeout", "message": "no answer"}}, "", "timeout: no answer"),
        (
            {"custom_id": "a", "response": {"status_code": 400, "body": {"error": {"message": "bad"}}}, "error": None},
            "",
            "bad",
        ),
        ({"custom_id": "a", "response": {"status_code": 500, "body": {"error": None}}}, "", "status 500"),
        (
            {
                "custom_id": "a",
                "result": {"type": "succeeded", "message": {"content": [{"text": "y"}, {"text": "es"}]}},
            },
            "yes",
            "",
        ),
        (
            {
                "custom_id": "a",
                "result": {"type": "errored", "error": {"type": "error", "error": {"type": "api", "message": "bad"}}},
            },
            "",
            "api: bad",
        ),
        ({"custom_id": "a", "result": {"type": "expired"}}, "", "expired"),
        ({"custom_id": "a"}, "", "it has no result"),
    ],
)
def test_what_became_of_a_row_is_told(result: Any, answer: str, error: str) -> None:
    """Its answer, or why it has none, of OpenAI's shape and of Anthropic's."""
    assert told(result) == (answer, error)


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"choices": [{"text": "one"}]}, "one"),
        ({"choices": [{"message": {"content": None, "tool_calls": [{"id": "t"}]}}]}, '[{"id": "t"}]'),
        ({"data": [{"embedding": [0.5, 1]}]}, "[0.5, 1]"),
        ({"data": [{"embedding": "AAAA"}]}, "AAAA"),
        ({"output": [{"type": "reasoning"}, {"content": [{"type": "output_text", "text": "one"}]}]}, "one"),
        ({"choices": []}, ""),
        (None, ""),
        ("text", ""),
    ],
)
def test_the_text_of_an_answer_is_found(body: Any, answer: str) -> None:
    """Of each endpoint; of embeddings it is the numbers."""
    assert answer_of(body) == answer


def test_an_answer_stays_one_cell() -> None:
    """Whatever it holds: quotes, delimiters, new lines, halves of characters."""
    assert told(answered("a", 'a,"b"\n;c'))[0] == 'a,"b"\n;c'
    assert told(answered("a", "\ud800"))[0] == "\\ud800"


def test_a_column_that_is_there_already_is_not_taken() -> None:
    """The answer goes into another one beside it."""
    assert columns_after(CsvForm(("answer", "answer_2", "error "))) == (
        "answer", "answer_2", "error ", "answer_3", "error_2",
    )  # fmt: skip


def test_lines_that_were_no_rows_make_none() -> None:
    """A batch of lines has no CSV."""
    with pytest.raises(BadRequest, match="were not made of a CSV file"):
        list(csv_rows(BatchLines(encoded({"custom_id": "a"}), encoded(answered("a")), ())))


def test_twice_as_many_results_take_no_more_memory() -> None:
    """They are streamed."""

    def lines(count: int) -> Iterator[bytes]:
        yield from (encoded(line(str(number), number + 1))[0] for number in range(count))

    def answers(count: int) -> Iterator[bytes]:
        yield from (encoded(answered(str(number)))[0] for number in range(0, count, 2))

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            assert sum(1 for _ in csv_rows(BatchLines(lines(count), answers(count), ()))) == count + 1
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(8_000) < peak(4_000) + 100_000  # four thousand of them would be four times that
