"""Tests wait by one patience: no number of theirs decides how slow a machine may be.

A bound on the wall that is a literal is patience by luck. What only ends a test that hangs is `PATIENCE` of
`tests/support/waiting.py`; what promises a time moves a clock, or counts.
"""

import ast
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.call_counts import uncollected
from tests.support.checkout import ROOT
from tests.support.waiting import PATIENCE

N = TypeVar("N", bound=ast.AST)

LEAST_SECONDS = 0.6
"""From here on a literal that may end a wait counts as patience. Below are looks in a loop, and limits meant to run
out."""

BOUNDS = {"timeout", "patience"}
WAITS = {"wait", "join", "settimeout", "communicate", "acquire"}
CLIENTS = {"get", "post", "put", "patch", "delete", "head", "options", "request", "stream", "Client", "AsyncClient"}
CLOCKS = {f"time.{each}" for each in ("monotonic", "perf_counter", "time", "process_time", "thread_time")}

BY_HAND = {
    "tests/support/month.py": "looks every five seconds whether the month is over",
    "tests/modal/platform/calls.py": "a container that waits for its next input: the plane's own time limit for it",
    "tests/modal/platform/sample_apps/tiny.py": "time limits that Modal is asked for; without our packages",
    "tests/modal/platform/sample_apps/serving.py": "runs in a container, without the tests' packages",
}
"""Files whose literals are no patience, each with the reason."""


@lru_cache(maxsize=1)
def nodes_by_kind(tree: ast.AST) -> Mapping[type[ast.AST], Sequence[ast.AST]]:
    found = defaultdict[type[ast.AST], list[ast.AST]](list)
    for node in ast.walk(tree):
        found[type(node)].append(node)
    return found


def nodes(tree: ast.AST, kind: type[N]) -> Iterator[N]:
    """All of a kind, however deep, in the order of `ast.walk`."""
    return (node for node in nodes_by_kind(tree).get(kind, ()) if isinstance(node, kind))


def spelt(node: ast.expr) -> str:
    """As `ast.unparse`, which takes its time for a name with dots as well."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
        return f"{spelt(node.value)}.{node.attr}"
    return ast.unparse(node)


def number(node: ast.expr) -> float | None:
    """What a literal, or a sum or product of literals, comes to."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.BinOp):
        left, right = number(node.left), number(node.right)
        if left is not None and right is not None:
            return left + right if isinstance(node.op, ast.Add) else left * right
    return None


def bounds(tree: ast.AST) -> Iterator[ast.expr]:
    """The literals that end a wait too early, but for those that a test wants to see run out."""
    raising = [
        (node.lineno, node.end_lineno or 0)
        for node in nodes(tree, ast.With)
        if any("raises" in ast.unparse(item.context_expr) for item in node.items)
    ]
    for call in nodes(tree, ast.Call):
        given = [each.value for each in call.keywords if each.arg in BOUNDS]
        called = spelt(call.func)
        if called.rpartition(".")[2] in WAITS and "clock" not in called.lower():
            given += call.args[:1]
        elif called == "select.select":
            given += call.args[3:]
        elif called.endswith("wait_for"):
            given += call.args[1:]
        for each in given:
            if (number(each) or 0) >= LEAST_SECONDS and not any(a <= each.lineno <= b for a, b in raising):
                yield each


def impatient_clients(tree: ast.AST) -> Iterator[ast.Call]:
    """Requests that give up after httpx's own five seconds."""
    for call in nodes(tree, ast.Call):
        named = {each.arg for each in call.keywords}
        if spelt(call.func) in {f"httpx.{each}" for each in CLIENTS} and not named & {
            "timeout",
            "transport",
            None,
        }:
            yield call


def is_clock(node: ast.AST) -> bool:
    return any(isinstance(each, ast.Call) and spelt(each.func) in CLOCKS for each in ast.walk(node))


def timed(tree: ast.AST) -> Iterator[ast.Compare]:
    """Asserts that not more than so much has passed on a real clock: a machine that stalls makes it more.

    That it took as long as something else is one too, where it is about; `least` may say it.
    """
    measured = {
        ast.unparse(name)
        for node in nodes(tree, ast.Assign)
        if isinstance(node.value, ast.BinOp) and is_clock(node.value)
        for name in node.targets
    }
    for claim in (node.test for node in nodes(tree, ast.Assert)):
        for compared in (node for node in ast.walk(claim) if isinstance(node, ast.Compare)):
            sides = [compared.left, *compared.comparators]
            for left, kind, right in zip(sides, compared.ops, sides[1:], strict=False):
                if isinstance(kind, ast.Lt | ast.LtE):
                    is_bound = is_measured(left, measured) and (is_fixed(left) or is_fixed(right))
                else:
                    is_bound = "approx(" in ast.unparse(right) and is_measured(right, measured)
                if is_bound:
                    yield compared


def is_measured(side: ast.expr, measured: set[str]) -> bool:
    return is_clock(side) or any(isinstance(each, ast.Name) and each.id in measured for each in ast.walk(side))


def is_fixed(side: ast.expr) -> bool:
    """Whether a number or a constant other than the tests' patience is in it."""
    names = {each.id for each in ast.walk(side) if isinstance(each, ast.Name)} - {"PATIENCE"}
    return any(isinstance(each, ast.Constant) for each in ast.walk(side)) or any(name.isupper() for name in names)


def said(tree: ast.AST) -> Iterator[ast.Name]:
    """Where the tests' patience is given its number."""
    return (node for node in nodes(tree, ast.Name) if node.id == "PATIENCE" and isinstance(node.ctx, ast.Store))


@cache
def found_in_tests() -> Mapping[str, Sequence[tuple[str, str]]]:
    """By the function that looks for it: the files in which something is found, and what. Each file is read once, and
    its tree let go."""
    found: dict[str, list[tuple[str, str]]] = {look.__name__: [] for look in LOOKS}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path == Path(__file__):
            continue
        name = str(path.relative_to(ROOT))
        with uncollected():  # of so many nodes none is garbage
            tree = ast.parse(path.read_text("utf-8"))
            for look in LOOKS:
                found[look.__name__] += [(name, f"{node.lineno}: {ast.unparse(node)}") for node in look(tree)]
    return found


LOOKS: tuple[Callable[[ast.AST], Iterator[ast.expr]], ...] = (bounds, impatient_clients, timed, said)


@pytest.mark.parametrize("look", [bounds, impatient_clients, timed], ids=lambda each: each.__name__)
def test_no_number_of_a_test_says_how_slow_a_machine_may_be(look: Callable[[ast.AST], Iterator[ast.expr]]) -> None:
    """No wait of a test, no request and no assert has a bound of its own in real seconds."""
    wrong = [f"{name}:{what}" for name, what in found_in_tests()[look.__name__] if name not in BY_HAND]
    assert not wrong, "\n".join(["use PATIENCE of tests/support/waiting.py, or move a clock:", *wrong])


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("thread.join(10)", 1),
        ("process.communicate(timeout=2 * 15)", 1),
        ("select.select([a], [], [], 20)", 1),
        ("httpx.get(url)", 1),
        ("httpx.get(url, timeout=PATIENCE)", 0),
        ("assert time.monotonic() - began < 5", 1),
        ("took = time.monotonic() - began\nassert took < 2 * BOUND", 1),
        ("took = time.monotonic() - began\nassert total == pytest.approx(took, rel=0.02, abs=0.1)", 1),
        ("assert time.monotonic() - began < PATIENCE", 0),
        ("took = time.monotonic() - began\nassert took - 0.5 <= total <= took", 1),
        ("assert total <= took", 0),
        ("assert time.monotonic() - began > 5", 0),
        ("clock.wait(3600)", 0),
        ("while not stop.wait(0.02): pass", 0),
        ("with pytest.raises(Empty):\n    queue.get(timeout=2)", 0),
    ],
)
def test_what_counts_as_a_bound(source: str, found: int) -> None:
    """Literals, httpx's own limit and asserted durations are found; moved clocks and looks in a loop are not."""
    tree = ast.parse(source)
    assert len([*bounds(tree), *impatient_clients(tree), *timed(tree)]) == found


def test_only_the_helper_says_how_long() -> None:
    """One file gives the tests' patience its number."""
    assert [name for name, _ in found_in_tests()["said"]] == ["tests/support/waiting.py"]
    assert PATIENCE >= 120
