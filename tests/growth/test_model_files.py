"""What a model's files say is read in work that grows as they do, and no faster."""

import io
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from jobs.models import gguf
from jobs.models import go_template as go_templates
from jobs.testing.gguf import encoded
from tests.support.waiting import least, worked


def counted(work: Callable[[], object]) -> int:
    """How many calls of functions it takes, those of the library included."""
    calls = 0

    def count(_: Any, event: str, __: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


GROWING: dict[str, Callable[[int], str]] = {
    "open actions": lambda n: "{{" * n,
    "open trims": lambda n: "{{- " * n,
    "open blocks": lambda n: "{{if .A}}" * n,
    "blocks": lambda n: "{{if .A}}" * n + "{{end}}" * n,
    "else upon else": lambda n: "{{if .A}}" + "{{else if .B}}" * n + "{{end}}",
    "quotes": lambda n: '"\\' * n,
    "quotes in an action": lambda n: "{{" + '"\\' * n + "}}",
    "closed quotes": lambda n: "{{" + '"a" ' * n + "}}",
    "raw quotes": lambda n: "{{" + "`'" * n + "}}",
    "open comments": lambda n: "{{/*" * n,
    "names": lambda n: "{{" + ".A" * n + "}}",
    "a long name": lambda n: "{{." + "a" * n + "}}",
    "blanks": lambda n: "{{" + " " * n + "}}" + " " * n + "{{ -" + " -" * n,
    "one loop, many thoughts": lambda n: "{{range .Messages " + ".A" * n + "}}" + " {{.Thinking}}" * n + "{{end}}",
    "a long first text": lambda n: "{{range .Messages}}" + " " * n + "{{.Thinking}}" * n + "{{end}}",
}


@pytest.mark.parametrize("kind", GROWING)
def test_a_template_twice_as_long_takes_twice_the_work(kind: str) -> None:
    """Calls grow with the length and no faster; a length at which squares would take minutes is read at once."""
    make = GROWING[kind]
    one, two = (counted(partial(go_templates.read, make(size))) for size in (500, 1_000))
    assert two <= 2 * one + 50

    long = make(20_000)
    assert least(lambda: worked(partial(go_templates.read, long)), 5) < 5  # squares took 40 s


class Counted(io.BytesIO):
    """Counts how often it is read or moved."""

    moves = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.moves += 1
        return super().read(size)

    def seek(self, at: int, whence: int = 0, /) -> int:
        self.moves += 1
        return super().seek(at, whence)


HEADERS: dict[str, Callable[[int], bytes]] = {
    "texts": lambda n: encoded({"a": ["x"] * n}),
    "keys": lambda n: encoded({str(each): each for each in range(n)}),
    "arrays": lambda n: encoded({str(each): [1, 2, 3] for each in range(n)}),
    "tensors": lambda n: encoded({}, [gguf.Tensor(str(each), 0, (1, 2)) for each in range(n)]),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_twice_as_long_takes_twice_the_reads(kind: str) -> None:
    """Reads and moves in a file grow with what its header tells, and no faster."""

    def moves(size: int) -> int:
        raw = HEADERS[kind](size)
        file = Counted(raw)
        gguf.parse(file, len(raw))
        return file.moves

    assert moves(800) <= 2 * moves(400) + 20
