"""Tests wait by one patience: no number of theirs decides how slow a machine may be.

A bound on the wall that is a literal is patience by luck. What only ends a test that hangs is `PATIENCE` of
`tests/support/waiting.py`; what promises a time moves a clock, or counts.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.waiting import PATIENCE

LEAST_SECONDS = 0.6
"""From here on a literal that may end a wait counts as patience. Below are looks in a loop, and limits meant to run
out."""

BOUNDS = {"timeout", "patience"}
WAITS = {"wait", "join", "settimeout", "communicate", "acquire"}
CLIENTS = {"get", "post", "put", "patch", "delete", "head", "options", "request", "stream", "Client", "AsyncClient"}
CLOCKS = {"monotonic", "perf_counter", "time"}

BY_HAND = {
    "tests/support/month.py": "looks every five seconds whether the month is over",
    "tests/modal/platform/calls.py": "a container that waits for its next input: the plane's own time limit for it",
    "tests/modal/platform/sample_apps/tiny.py": "time limits that Modal is asked for; without our packages",
    "tests/modal/platform/sample_apps/serving.py": "runs in a container, without the tests' packages",
}
"""Files whose literals are no patience, each with the reason."""


@cache
def trees() -> tuple[tuple[str, ast.Module], ...]:
    return tuple(
        (str(path.relative_to(ROOT)), ast.parse(path.read_text("utf-8")))
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path != Path(__file__)
    )


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
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and any("raises" in ast.unparse(item.context_expr) for item in node.items)
    ]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = [each.value for each in call.keywords if each.arg in BOUNDS]
        called = ast.unparse(call.func)
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
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        named = {each.arg for each in call.keywords}
        if ast.unparse(call.func) in {f"httpx.{each}" for each in CLIENTS} and not named & {
            "timeout",
            "transport",
            None,
        }:
            yield call


def timed(tree: ast.AST) -> Iterator[ast.Compare]:
    """Asserts that less than a literal has passed since some moment of a real clock."""
    for claim in (node.test for node in ast.walk(tree) if isinstance(node, ast.Assert)):
        for compared in (node for node in ast.walk(claim) if isinstance(node, ast.Compare)):
            lasted, bound = compared.left, compared.comparators[-1]
            reads = {ast.unparse(each.func) for each in ast.walk(lasted) if isinstance(each, ast.Call)}
            is_limit = isinstance(compared.ops[-1], ast.Lt | ast.LtE) and number(bound) is not None
            if is_limit and reads & {f"time.{each}" for each in CLOCKS}:
                yield compared


@pytest.mark.parametrize("found", [bounds, impatient_clients, timed], ids=lambda each: each.__name__)
def test_no_number_of_a_test_says_how_slow_a_machine_may_be(found: object) -> None:
    """No wait of a test, no request and no assert has a bound of its own in real seconds."""
    assert callable(found)
    wrong = [
        f"{name}:{node.lineno}: {ast.unparse(node)}"
        for name, tree in trees()
        if name not in BY_HAND
        for node in found(tree)
    ]
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
    said = [
        name
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == "PATIENCE" and isinstance(node.ctx, ast.Store)
    ]
    assert said == ["tests/support/waiting.py"]
    assert PATIENCE >= 120
