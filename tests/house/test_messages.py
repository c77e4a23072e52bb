"""What the product says: the commands that its messages name exist, and one thing is not said to be several."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.checkout import ROOT

SOURCES = sorted(path for folder in ("app", "jobs") for path in (ROOT / folder).rglob("*.py"))

ALWAYS_SEVERAL = " (bytes|characters|layers|jobs begin|models are)\\b"
"""Of these a message tells only when there are more than may be, or than one."""


def formatted(path: Path) -> Iterator[ast.JoinedStr]:
    tree = ast.parse(path.read_text("utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr))


def test_counts_agree_with_their_nouns() -> None:
    """What is counted is worded by `counted`, so that no message tells of 1 jobs: no noun in the plural follows a
    length."""
    by_hand = [
        f"{path.relative_to(ROOT)}:{node.lineno}: …{{{ast.unparse(count.value)}}}{noun.value}"
        for path in SOURCES
        if "testing" not in path.parts
        for node in formatted(path)
        for count, noun in zip(node.values, node.values[1:], strict=False)
        if isinstance(count, ast.FormattedValue) and isinstance(noun, ast.Constant)
        if isinstance(count.value, ast.Call) and ast.unparse(count.value.func) == "len"
        if re.match(r" ([a-z]+ )?[a-z]{2,}[^s\W]s\b", str(noun.value)) and not re.match(ALWAYS_SEVERAL, str(noun.value))
    ]

    assert not by_hand
