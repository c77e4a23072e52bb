"""What is shown fits the terminal, at 80 columns and at 60, whatever the names; in a pipe all of it is."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.cli.models.loaded import until
from jobs.cli.terminal.screen import folded, painted
from jobs.cli.terminal.table import GiveWay, shortened, table
from jobs.core.clock import SystemClock
from jobs.core.model_name import ModelName
from jobs.home.home import Home, Stack
from jobs.ledger.job import Ending
from jobs.testing.models import find
from tests.support.local_stack import Shell
from tests.support.models_directory import lay
from tests.support.person import terminal
from tests.support.stores import ended_job

FLEET = Path("app/fleet.toml").absolute()
LONG = "hf.co/bartowski/deepseek-r1-distill-qwen-32b-abliterated-gguf:q4_k_m_with_imatrix"
WHY = "the registry registry.example answers 503 to a request for blob sha256:0123, and says that it is overloaded now"

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A home with jobs of long names and long reasons, and models."""
    shell = Shell(tmp_path_factory.mktemp("wide"))
    models = shell.home / "models"
    tiny = find(ModelName.parse("tiny"))
    assert tiny is not None
    lay(models, tiny, replace(tiny, name=ModelName.parse(LONG)))
    store = shell.store()
    for subject in (LONG, "llama3.2:latest"):
        ended_job(store, subject, Ending("failed", "network", WHY))
    store.ledger().post("pull", "b:latest", {"model": "b"}, by="t")
    store.close()
    Home(shell.home / "om").write_stack(
        Stack(pid=1, started_at=SystemClock().now(), simulated=True, servers=(), models=models, fleet=FLEET)
    )
    return shell


@pytest.fixture(params=[60, 80])
def columns(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def seen(shell: Shell, columns: int, *words: str) -> list[str]:
    """The lines of data on a screen, without colours; talk goes on as the terminal has it."""
    with terminal(shell, *words, columns=columns, hears=False) as person:
        person.ended()
    return ESCAPE.sub("", person.seen).replace("\r", "").splitlines()


COMMANDS = (
    "jobs", "jobs --dead", "job {id}", "models", "status", "plan", "night", "windows", "cost", "prune --dry-run",
    "help", "help up",
)  # fmt: skip


@pytest.mark.parametrize("line", COMMANDS)
def test_no_line_is_longer_than_the_screen(shell: Shell, columns: int, line: str) -> None:
    """Every command that shows something keeps within it, but for a single word that has no room."""
    id = next(job["id"] for job in shell.ask("jobs") if job["subject"] == LONG)
    lines = seen(shell, columns, *line.format(id=id).split())
    assert lines or line in {"cost", "windows", "prune --dry-run"}  # of which there is none here, and that is talk
    for each in lines:
        assert len(each) <= columns or len(each.split()) == 1 or max(map(len, each.split())) > columns // 2, each


def test_ids_kinds_and_states_stay_whole(shell: Shell, columns: int) -> None:
    """Of a list of jobs what is typed again and what tells the state is there at any width; a name loses its middle."""
    jobs = shell.ask("jobs")
    lines = seen(shell, columns, "jobs")
    for job, line in zip(jobs, lines[1:], strict=True):
        assert line.startswith(f"{job['id']}  {job['kind']} ")
        assert job["state"] in line.split()
        assert job["subject"] in line or re.search(r"hf\.co\S*…\S*matrix", line)


def test_a_long_name_is_whole_where_it_fits(shell: Shell) -> None:
    """A list of models gives up other columns before it shortens a name."""
    assert any(line.startswith(LONG) for line in seen(shell, 100, "models"))
    assert "deepseek" in "".join(seen(shell, 60, "models"))


def test_a_pipe_gets_all_of_it(shell: Shell) -> None:
    """Nothing is broken, shortened or in colour for a program, however wide a terminal is said to be."""
    said = Shell(shell.home, {"COLUMNS": "60", "TERM": "xterm"}).run("jobs").stdout
    assert LONG in said
    assert said.splitlines()[0].split() == ["JOB", "KIND", "MODEL", "STATE", "DONE", "TRIES", "POSTED", "REMARK"]
    assert "\x1b" not in said
    assert LONG in Shell(shell.home, {"COLUMNS": "60"}).run("models").stdout


@pytest.mark.parametrize(
    ("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False)]
)
def test_states_are_in_colour_on_a_terminal(shell: Shell, environ: dict[str, str], coloured: bool) -> None:
    """A failed job's state is red there, unless NO_COLOR says otherwise."""
    with terminal(Shell(shell.home, environ), "jobs") as person:
        person.ended()
    assert ("\x1b[31mfailed\x1b[0m" in person.seen) is coloured
    assert "failed" in person.seen


def test_colour_can_be_forced(shell: Shell) -> None:
    """FORCE_COLOR colours a pipe as well, for whoever pages; JSON never is."""
    forced = Shell(shell.home, {"FORCE_COLOR": "1"})
    assert "\x1b[31mfailed\x1b[0m" in forced.run("jobs").stdout
    assert "\x1b" not in forced.run("jobs", "--json").stdout
    assert "\x1b[31merror\x1b[0m: " in forced.run("job", "nope").stderr


# -- the table by itself -----------------------------------------------------------------------------------------------

HEAD = ("ID", "NAME", "WHY")
ROWS = [("a1", "n" * 30, "because of this and that and more of it"), ("a2", "short", "")]


def test_columns_give_way_in_the_order_of_the_steps() -> None:
    """First the reason is shortened, then the name, then the reason goes; the id is as it is."""
    steps = (GiveWay("WHY", 10), GiveWay("NAME", 12, "middle"), GiveWay("WHY", "left out"))
    assert list(table(HEAD, ROWS))[1] == f"a1  {'n' * 30}  because of this and that and more of it"
    assert list(table(HEAD, ROWS, 50, steps))[1] == f"a1  {'n' * 30}  because of th…"
    assert list(table(HEAD, ROWS, 40, steps))[1] == f"a1  {'n' * 12}…{'n' * 11}  because o…"
    assert list(table(HEAD, ROWS, 18, steps))[1] == "a1  nnnnnn…nnnnn"


def test_a_last_column_may_go_on_below() -> None:
    """Between words, under itself; where there is next to no room for it, on lines of its own."""
    assert list(table(HEAD, ROWS, 62, folds=True)) == [
        f"ID  NAME{' ' * 26}  WHY",
        f"a1  {'n' * 30}  because of this and that",
        f"{' ' * 36}and more of it",
        "a2  short",
    ]
    narrow = list(table(HEAD, ROWS, 44, folds=True))
    assert narrow[1:3] == [f"a1  {'n' * 30}", "    because of this and that and more of it"]


@pytest.mark.parametrize("width", range(8, 120, 7))
def test_no_table_with_steps_enough_is_wider_than_it_may(width: int) -> None:
    """Whatever the width, the steps are taken until it fits or none is left."""
    steps = (GiveWay("WHY", 5), GiveWay("NAME", 4), GiveWay("WHY", "left out"), GiveWay("NAME", "left out"))
    assert max(map(len, table(HEAD, ROWS, width, steps))) <= width


def test_a_text_is_shortened_at_its_end_or_middle() -> None:
    """By an ellipsis, to exactly the room there is."""
    assert (shortened("abcdefgh", 5), shortened("abcdefgh", 5, "middle")) == ("abcd…", "ab…gh")
    assert shortened("abc", 3) == "abc"


def test_a_line_goes_on_under_what_follows_its_label() -> None:
    """A long line of a status is broken between words, and hangs; a word is never broken."""
    said = "word word word word"
    assert list(folded(f"night    {said} {said}", 30)) == [f"night    {said}", f"         {said}"]
    assert list(folded("x" * 50, 30)) == ["x" * 50]
    assert list(folded("short", None)) == ["short"]


def test_only_a_word_of_its_own_is_a_state() -> None:
    """No part of a model's name is painted."""
    assert painted("pull of failed-bench:running: failed") == "pull of failed-bench:running: \x1b[31mfailed\x1b[0m"


def test_spans_do_not_outgrow_their_column() -> None:
    """How long a model stays is told in a few words, or that it stays."""
    assert (until(timedelta(minutes=4, seconds=5)), until(timedelta(days=9000)), until(timedelta(0))) == (
        "in 4 min 5 s", "it is unloaded", "stopping",
    )  # fmt: skip
