"""What the product says: the commands that its messages name exist, and one thing is not said to be several."""

import ast
import importlib.util
import inspect
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import modal
import typer.main
from typer.exceptions import TyperException

from app import jobs
from app.deployment.modal_cli import ENTRY_POINTS, worded
from app.scheduler.alert_rules import hint_on_one_machine
from jobs.cli import main
from jobs.cli.main import with_url
from tests.house.test_documents import fenced
from tests.support.call_counts import uncollected
from tests.support.checkout import ROOT

SOURCES = sorted(path for folder in ("app", "jobs") for path in (ROOT / folder).rglob("*.py"))

ALWAYS_SEVERAL = " (bytes|characters|layers|jobs begin|models are)\\b"
"""Of these a message tells only when there are more than may be, or than one."""


@cache
def read(path: Path) -> tuple[Sequence[ast.JoinedStr], Sequence[ast.Constant]]:
    """The texts of a source that are put together as it runs, and those that stand in it as they are. The rest of the
    tree is let go."""
    with uncollected():
        tree = ast.parse(path.read_text("utf-8"))
    joined, constants = list[ast.JoinedStr](), list[ast.Constant]()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            joined.append(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            constants.append(node)
    return joined, constants


def formatted(path: Path) -> Sequence[ast.JoinedStr]:
    return read(path)[0]


def test_counts_agree_with_their_nouns() -> None:
    """What is counted is worded by `counted`, so that no message tells of 1 jobs: no noun in the plural follows a
    length."""
    by_hand = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path in SOURCES
        if "testing" not in path.parts
        for node in formatted(path)
        for count, noun in zip(node.values, node.values[1:], strict=False)
        if isinstance(count, ast.FormattedValue) and isinstance(noun, ast.Constant)
        if isinstance(count.value, ast.Call) and ast.unparse(count.value.func) == "len"
        if re.match(r" ([a-z]+ )?[a-z]{2,}[^s\W]s\b", str(noun.value)) and not re.match(ALWAYS_SEVERAL, str(noun.value))
    ]

    assert not by_hand


def test_a_host_is_shown_with_its_port() -> None:
    """No message is made from the host of an address alone."""
    alone = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path in SOURCES
        if path.name != "egress.py"  # where it is put together with its port
        for node in formatted(path)
        for part in node.values
        if isinstance(part, ast.FormattedValue)
        if re.search(r"(url|base|target|realm)\.host(name)?$", ast.unparse(part.value))
    ]

    assert not alone


# -- commands ----------------------------------------------------------------------------------------------------------

URL = "https://gateway.example"

COMMAND = re.compile(r"`((?:ollama-modal|modal run|modal deploy) (?! |\()[^`\n]+)`")

STANDS_FOR_ANY = {"NAME", "COMMAND", "X"}
"""In place of a command's name."""


@cache
def strings(path: Path) -> Sequence[str]:
    """The texts of a source, X in place of what is put in when it runs."""
    joined, constants = read(path)
    within = {id(part) for node in joined for part in ast.walk(node)}
    put_together = (
        "".join(str(each.value) if isinstance(each, ast.Constant) else "X" for each in node.values) for node in joined
    )
    plain = (str(node.value) for node in constants if id(node) not in within)
    return [*put_together, *(re.sub(r"\{\w+(![rs])?\}", "X", text) for text in plain)]


def pages() -> Iterator[tuple[str, str]]:
    """The texts of the status page, and the documents, where commands stand in blocks as well."""
    for path in sorted((ROOT / "app/gateway/dashboard/ui").glob("*.*")):
        yield str(path.relative_to(ROOT)), re.sub(r"</?code>", "`", path.read_text("utf-8"))
    for path in (ROOT / name for name in ("README.md", "app/README.md", "app/clients.md", "jobs/README.md")):
        text = path.read_text("utf-8")
        lines = [line.split("#")[0].strip() for block in fenced(text) for line in block.splitlines()]
        yield path.name, "\n".join([text, *(f"`{line}`" for line in lines)])


def told() -> Iterator[tuple[str, str]]:
    """Each command that somebody may be told to type, and where; as it is typed on one machine, at a gateway, and on
    Modal."""
    texts = [(str(path.relative_to(ROOT)), text) for path in SOURCES for text in strings(path) if COMMAND.search(text)]
    for where, text in texts:
        forms = [("", text), (", on Modal", worded(text)), (", with a URL", with_url(text, URL))]
        if where == "app/scheduler/alert_rules.py":
            forms.append((", on one machine", hint_on_one_machine(text)))
        yield from ((command, f"{where}{place}") for place, said in forms for command in COMMAND.findall(said))
    yield from ((command, where) for where, text in pages() for command in COMMAND.findall(text))


def what_is_wrong(command: str) -> str:
    """Why nobody can type this; empty when somebody can."""
    words = shlex.split(command.replace("…", "X"), comments=True)
    if words[0] == "ollama-modal":
        return _wrong_here(words[1:])
    if "-m" not in words:
        return "it lacks -m" if any("app" in word for word in words) else ""
    module, _, name = words[words.index("-m") + 1].partition("::")
    if importlib.util.find_spec(module) is None:
        return f"there is no {module}"
    return _wrong_on_modal(name, words[words.index("-m") + 2 :]) if name.strip("X") not in {"", *STANDS_FOR_ANY} else ""


@cache
def commands() -> Any:
    importlib.import_module("app.local.main")  # adds its commands
    return typer.main.get_command(main.app)


def _wrong_here(words: list[str]) -> str:
    command = commands()
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] in STANDS_FOR_ANY:
            return ""
        if words[0] not in command.commands:
            return f"there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    context = command.make_context("it", [], resilient_parsing=True)
    try:
        _, rest, _ = command.make_parser(context).parse_args([word for word in words if word != "--help"])
    except TyperException as error:
        return error.format_message()
    return f"it takes no {rest[0]}" if rest and not hasattr(command, "commands") else ""


def _wrong_on_modal(name: str, words: list[str]) -> str:
    point = getattr(jobs, name, None)
    if point is None:
        return f"there is no entry point {name}"
    parameters = inspect.signature(point.info.raw_f).parameters
    options = {f"--{each.replace('_', '-')}": of for each, of in parameters.items()}
    options |= {f"--no-{each}": of for each, of in parameters.items() if of.annotation in {bool, "bool"}}
    given = set()
    while words:
        word, *words = words
        if word not in options:
            return f"it takes no {word}"
        given.add(options[word].name)
        if options[word].annotation not in {bool, "bool"}:
            words = words[1:]
    needed = {each for each, of in parameters.items() if of.default is of.empty} - given
    return f"it needs {min(needed)}" if needed else ""


@cache
def all_told() -> list[tuple[str, str]]:
    return sorted(set(told()))


def test_messages_name_commands() -> None:
    """What is collected is not empty by mistake: each place has some."""
    assert len({command for command, _ in all_told()}) > 80
    assert {"jobs/ledger/job_text.py, on Modal", "jobs/ledger/job_text.py, with a URL", "README.md"} <= {
        where for _, where in all_told()
    }
    assert "modal run -m app.jobs::dismiss --id X" in dict(all_told())


def test_commands_that_are_named_exist() -> None:
    """Whatever a message, a page, a help text or a document tells somebody to type is a command with such options; also
    as it is worded for a deployment, for a gateway elsewhere, and for one machine."""
    wrong = [f"{where}: `{command}`: {why}" for command, where in all_told() if (why := what_is_wrong(command))]

    assert not wrong, "\n".join(wrong)


def test_commands_are_told_apart_from_words() -> None:
    """A command in a message stands between backticks: only so is it worded for each place."""
    verbs = "|".join(commands().commands)
    bare = [
        f"{path.relative_to(ROOT)}: {text}"
        for path in SOURCES
        for text in strings(path)
        if re.search(rf"ollama-modal ({verbs})\b", re.sub(r"`[^`]*`", "", text))
    ]

    assert not bare


def test_the_entry_points_are_those_that_modal_run_finds() -> None:
    """Hints are worded for what `app.jobs` has, neither more nor less."""
    assert {name for name, value in vars(jobs).items() if isinstance(value, modal.app.LocalEntrypoint)} == ENTRY_POINTS
