"""Lines of a batch from the rows of a CSV file: dialects, quotes, encodings, and what is wrong with which line."""

import csv
import io
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.batches.csv_lines import FORM, MOST_CELL, MOST_LINE, ROW, CsvBatch, CsvForm, Template, form_of, rows_of
from jobs.core.errors import BadRequest

CHAT = "/v1/chat/completions"


def batch(prompt: str = "Summarise: {text}", endpoint: str = CHAT, system: str | None = None) -> CsvBatch:
    said = Template(system, "--system") if system is not None else None
    return CsvBatch(endpoint, "llama3.2", Template(prompt), said)


def lines(text: str | bytes, of: CsvBatch | None = None) -> list[dict[str, Any]]:
    raw = text if isinstance(text, bytes) else text.encode()
    return [json.loads(line) for line in (of or batch()).lines(io.BytesIO(raw))]


def asked(text: str | bytes, of: CsvBatch | None = None) -> list[str]:
    return [line["body"]["messages"][-1]["content"] for line in lines(text, of)]


def refusal(text: str | bytes, of: CsvBatch | None = None) -> BadRequest:
    with pytest.raises(BadRequest) as raised:
        lines(text, of)
    return raised.value


# -- what is made of a row ---------------------------------------------------------------------------------------------


def test_each_row_is_a_line() -> None:
    """Each asks the model with its cells in the template, under an id of its own, in the file's order."""
    made = lines("id,text\n1,one\n2,two\n")

    assert [line["custom_id"] for line in made] == ["row-1", "row-2"]
    assert made[1]["method"] == "POST"
    assert made[1]["url"] == CHAT
    assert made[1]["body"] == {"model": "llama3.2", "messages": [{"role": "user", "content": "Summarise: two"}]}


def test_rows_travel_with_their_lines() -> None:
    """A line holds the cells it was made from, and the first how the file is written, so answers find their rows."""
    made = lines("\ufeffid;text\r\n1;one\r\n")

    assert made[0][ROW] == ["1", "one"]
    assert CsvForm.from_json(made[0][FORM]) == CsvForm(("id", "text"), ";", has_bom=True, ends_with="\r\n")


@pytest.mark.parametrize(
    ("endpoint", "system", "body"),
    [
        ("/v1/completions", None, {"prompt": "Summarise: one"}),
        ("/v1/embeddings", None, {"input": "Summarise: one"}),
        ("/v1/responses", "By {id}", {"input": "Summarise: one", "instructions": "By 1"}),
        (
            CHAT,
            "By {id}",
            {"messages": [{"role": "system", "content": "By 1"}, {"role": "user", "content": "Summarise: one"}]},
        ),
    ],
)
def test_each_endpoint_is_asked_in_its_way(endpoint: str, system: str | None, body: dict[str, Any]) -> None:
    """Prompt and system stand where the endpoint wants them."""
    made = lines("id,text\n1,one\n", batch(endpoint=endpoint, system=system))

    assert made[0]["url"] == endpoint
    assert made[0]["body"] == {"model": "llama3.2", **body}


@pytest.mark.parametrize("endpoint", ["/v1/completions", "/v1/embeddings"])
def test_an_endpoint_without_a_system_prompt_takes_none(endpoint: str) -> None:
    """It is refused before a row is read."""
    with pytest.raises(BadRequest, match="takes no --system"):
        batch(endpoint=endpoint, system="Be brief")


# -- templates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("{text} and {text}", "one and one"),
        ("{ text }", "one"),
        ("as {{text}}: {text}", "as {text}: one"),
        ('{{"a": "{text}"}}', '{"a": "one"}'),
        ("{a b}", "two"),
    ],
)
def test_braces_name_columns(prompt: str, said: str) -> None:
    """Each stands for its cell, as often as it is there; a brace itself is written twice."""
    assert asked("text,a b\none,two\n", batch(prompt)) == [said]


def test_a_cell_is_no_template() -> None:
    """Braces in a cell are as they are."""
    assert asked("text\n{text} {{}\n") == ["Summarise: {text} {{}"]


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("Summarise", "names no column"),
        ("a { b", "a brace of --prompt is alone, at character 3"),
        ("a } {text}", "a brace of --prompt is alone, at character 3"),
        ("{title}", "there is no column 'title'"),
        ("{}", "there is no column ''"),
    ],
)
def test_a_template_that_says_nothing_is_refused(prompt: str, says: str) -> None:
    """With what is wrong with it, before a line is made."""
    assert says in str(refusal("text,id\none,1\n", batch(prompt)))


def test_the_columns_that_there_are_are_told() -> None:
    """Whoever mistypes one sees the others."""
    assert refusal("text,id\none,1\n", batch("{Text}")).hint == "columns are 'text', 'id'"


def test_a_column_that_is_there_twice_is_named_by_nobody() -> None:
    """It is not guessed which; columns that no template names may be alike."""
    assert "more than one column is called 'text'" in str(refusal("text,text\na,b\n"))
    assert asked("id,id,text\n1,2,one\n") == ["Summarise: one"]


# -- how files are written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_seen(delimiter: str) -> None:
    """By the columns that the template names."""
    assert asked(f"id{delimiter}text\n1{delimiter}one\n") == ["Summarise: one"]


def test_the_delimiter_that_makes_the_named_columns_wins() -> None:
    """Though another would make more of the first row."""
    assert asked("a,b,c;text\n1,2,3;one\n") == ["Summarise: one"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quotes_hold_delimiters_quotes_and_new_lines(end: str) -> None:
    """As every program writes them."""
    text = end.join(["id,text", '1,"a, ""b""', 'c"', "", "2,d", ""])
    assert asked(text) == [f'Summarise: a, "b"{end}c', "Summarise: d"]


def test_a_mark_at_the_beginning_is_no_part_of_a_name() -> None:
    """Excel writes it before UTF-8."""
    assert asked("\ufefftext\nénoncé\n") == ["Summarise: énoncé"]


def test_a_file_may_end_without_a_line_end() -> None:
    """And its first row may be all that it has."""
    assert asked("text\none") == ["Summarise: one"]
    assert asked("text") == []


# -- what is wrong with which line -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "says", "hint"),
    [
        ("text\none\n".encode("utf-16"), "it is UTF-16", "UTF-16 -t UTF-8"),
        ("text\none\n".encode("utf-16-le"), "line 1 holds a NUL byte", "UTF-16 -t UTF-8"),
        (b"text\nok\n\xe9t\xe9\n", "line 3 is not UTF-8: byte 0xe9 at its place 1", "WINDOWS-1252"),
        (b"PK\x03\x04rest", "a ZIP archive", "save its sheet as CSV in UTF-8"),
        (b"\x1f\x8b\x08rest", "compressed by gzip", "gunzip"),
        (b"", "the file is empty", "names the columns"),
        (b"\n\n", "the file is empty", "names the columns"),
        (b"id,text\n1,one\n2\n", "line 3 has 1 cell, and the first line has 2 cells", "stands in quotes"),
        (b'id,text\n1,"a\nb"\n2,two,3\n', "line 4 has 3 cells", "stands in quotes"),
        (b'id,text\n1,"one\n2,two\n', "a quote of line 2 is never closed", "written twice"),
        (b'id,text\n1,"one"x\n', "line 2 is no CSV", "written twice"),
        (b"id,text\r1,one\r", "ends with a carriage return alone", "Unix or Windows"),
    ],
)  # fmt: skip
def test_what_is_no_csv_is_refused_with_its_line(raw: bytes, says: str, hint: str) -> None:
    """What it is, where, and what to do about it."""
    refused = refusal(raw)

    assert says in str(refused)
    assert hint in str(refused.hint)


def test_a_bad_row_far_in_is_named_by_its_line() -> None:
    """By the line of the file at which it begins, as an editor counts them."""
    rows = "".join(f'{number},"a\nb"\n' for number in range(3655))
    assert "line 7,312 has 1 cell" in str(refusal(f"id,text\n{rows}lonely\n"))


def test_a_quote_that_nobody_closes_does_not_fill_the_memory() -> None:
    """The rest of the file is no cell."""
    assert "is longer than 1,048,576 characters" in str(refusal('text\n"' + "one two three\n" * (MOST_CELL // 10)))


def test_a_file_of_one_line_does_not_fill_the_memory() -> None:
    """Its ends of lines may be others than ours."""
    assert "longer than 8 MiB" in str(refusal(b"text\n" + b"x" * (MOST_LINE + 1)))


def test_the_line_of_a_row_is_found_again() -> None:
    """For whatever is wrong with what a row asks."""
    raw = io.BytesIO(b'id,text\n1,"a\nb"\n2,two\n')
    assert [batch().line_of_row(raw, number) for number in (1, 2, 3)] == [2, 4, None]


# -- size --------------------------------------------------------------------------------------------------------------


class Endless(io.RawIOBase):
    """A CSV file of so many rows, which lies nowhere."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.seek(0)

    def seek(self, *_: int) -> int:
        self._text = self._lines()
        return 0

    def _lines(self) -> Iterator[bytes]:
        yield b"id,text\n"
        yield from (b'%d,"number %d"\n' % (number, number) for number in range(self._rows))

    def readline(self, *_: Any) -> bytes:
        return next(self._text, b"")

    def read(self, *_: Any) -> bytes:
        return b"id,t"


def test_twice_as_many_rows_take_no_more_memory() -> None:
    """They are streamed, so a million take what ten do."""

    def peak(rows: int) -> int:
        tracemalloc.start()
        try:
            file: Any = Endless(rows)
            assert sum(1 for _ in batch().lines(file)) == rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)
    assert peak(8_000) < peak(4_000) + 100_000  # four thousand of them would be more


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=20)


@given(
    rows=st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=6),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
)
def test_whatever_a_csv_writer_writes_is_read(rows: list[list[str]], delimiter: str, end: str, bom: bool) -> None:
    """Cell by cell, in every dialect."""
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=delimiter, lineterminator=end)
    writer.writerow(["id", "text"])
    writer.writerows(rows)
    file = io.BytesIO((("\ufeff" if bom else "") + written.getvalue()).encode())

    form = form_of(file, ["id", "text"])

    assert form == CsvForm(("id", "text"), delimiter, bom, "\r\n" if end == "\r\n" else "\n")
    assert [row.cells for row in rows_of(file, form)] == rows
