"""Things bear the name that the field gives them: words that stood for something else here are not used any more."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

ONCE_OURS = {
    "bell", "bells", "clerk", "clerks", "counter", "crew", "desk", "doorbell", "errand", "errands", "intake", "lookout",
    "neighbor", "neighbors", "neighbour", "neighbours", "office", "pulse", "reception", "rounds", "rung", "shelf",
    "stranger", "strangers", "teller", "workshop",
}  # fmt: skip
"""Words that named our own things once. What others call so keeps its name: `collections.Counter`, a counter of
Prometheus."""

IN_PROSE = ONCE_OURS - {"counter", "neighbor", "neighbour", "office", "workshop"}
"""Those that no comment, document, log line or page uses either. The rest mean in prose what they mean to everybody."""

OF_BENCHMARKS = {"rounds"}
"""Those that have their usual meaning in a benchmark and in the test that runs it."""


def words(identifier: str) -> list[str]:
    """Of which an identifier is made: `shelf_of`, `TheDesk`, `NOT_OURS`."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)]


def taken_over(tree: ast.Module) -> set[str]:
    """The names that a file imports from elsewhere than from us."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not re.match(r"(app|jobs|tests)\b", node.module or "")
        for alias in node.names
    }


def wrong_names(text: str) -> Iterator[tuple[int, str]]:
    """Identifiers, and words of comments and strings, docstrings among them, of a Python file, with their lines."""
    theirs = taken_over(ast.parse(text))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and token.string not in theirs and ONCE_OURS & set(words(token.string)):
            yield token.start[0], token.string
        elif token.type in {tokenize.STRING, tokenize.COMMENT}:
            for number, line in enumerate(token.string.splitlines()):
                yield from ((token.start[0] + number, word) for word in in_prose(line))


def in_prose(line: str) -> list[str]:
    return [word for word in re.findall(r"[A-Za-z]+", line) if word.lower() in IN_PROSE]


def found_in(path: Path) -> list[str]:
    name, text = str(path.relative_to(ROOT)), path.read_text("utf-8")
    if name == "CHANGELOG.md":
        text = unreleased(text)
    if not any(word in text.lower() for word in ONCE_OURS):  # quick, where to take a text apart is not
        return []
    if path.suffix == ".py" or re.match("#!.*python", text):
        found = list(wrong_names(text))
    else:
        found = [(number, word) for number, line in enumerate(text.splitlines(), 1) for word in in_prose(line)]
    allowed = OF_BENCHMARKS if re.match("scripts/bench_|tests/house/test_scripts", name) else set()
    return [f"{name}:{number} {word}" for number, word in found if word not in allowed]


def unreleased(text: str) -> str:
    """A changelog's head: what is released was said in the words of its day."""
    head, mark, rest = text.partition("\n## Unreleased\n")
    return head + mark + rest.partition("\n## ")[0]


def texts(*folders: str) -> list[Path]:
    """The texts in these folders, programs whose name has no ending among them; not this file, which has the words."""
    kinds = {"", ".css", ".html", ".js", ".md", ".py", ".service", ".toml"}
    files = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    return sorted(path for path in files if path.is_file() and path.suffix in kinds and path != Path(__file__))


def test_no_word_that_was_once_ours() -> None:
    """Neither a name nor the prose of the code, its tests, the scripts and the documents uses one of those words."""
    documents = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
    found = [each for path in [*texts("app", "jobs", "tests", "scripts"), *documents] for each in found_in(path)]

    assert not found, "\n".join(found)


def test_no_file_is_called_so() -> None:
    """Nor does the name of a file."""
    files = texts("app", "jobs", "tests", "scripts")
    found = [str(path.relative_to(ROOT)) for path in files if ONCE_OURS & set(words(path.stem))]

    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from collections import Counter\ncounts: Counter[str] = Counter()\n", []),
        ("from jobs.cli.commands import Counter\n", ["Counter"]),
        ("class _FrontDesk: ...\n", ["_FrontDesk"]),
        ("def of(shelf_of):\n    shelf_of.crew = 1\n", ["shelf_of", "shelf_of", "crew"]),
        ("round_trips = round(rounding)  # goes round\n", []),
        ('def of():\n    """The desk.\n\n    Between rounds."""\n', ["desk", "rounds"]),
        ('log.info(f"{len(all)} clerks")  # of the office\n', ["clerks"]),
        ("def test_a_bell_is_rung(): ...  # by a stranger\n", ["test_a_bell_is_rung", "stranger"]),
    ],
)
def test_such_words_are_found(text: str, found: list[str]) -> None:
    """In identifiers, however they are put together, in comments, docstrings and log lines; not in what others made."""
    assert [word for _, word in wrong_names(text)] == found


def test_of_a_changelog_the_head_counts() -> None:
    """What is released already keeps its words."""
    assert (
        unreleased("# C\n\n## Unreleased\n\n- a bell\n\n## 1.0\n\n- a desk\n") == "# C\n\n## Unreleased\n\n- a bell\n"
    )
