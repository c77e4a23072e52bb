"""`ollama-modal batch` and `batches`: the same words for this machine and for a gateway elsewhere."""

import csv
import io
import json
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.gateway.batches.parts import BatchParts
from jobs.access.keys.proofs import hash_of, new_key
from jobs.batches.files.storage import BatchStorage
from jobs.batches.records import BatchEnd, BatchState, LineError
from tests.support.batch_hands import CLOCK, BatchHand, batch_hand
from tests.support.command_server import Piped
from tests.support.gateways import gateway
from tests.support.local_stack import COMMAND, Shell
from tests.support.waiting import PATIENCE, until

ROOT = new_key()


@dataclass
class Person:
    """At a shell, with a file of lines; beside a hand that stands in for the worker."""

    shell: Shell
    hand: BatchHand
    folder: Path

    def file(self, name: str = "in.jsonl", *, lines: int = 3, **body: Any) -> str:
        """A file of so many lines."""
        asked = (
            {
                "custom_id": f"line-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": "llama3.2", "messages": [{"role": "user", "content": f"hello {number}"}], **body},
            }
            for number in range(1, lines + 1)
        )
        return self.write(name, "".join(json.dumps(each) + "\n" for each in asked))

    def write(self, name: str, text: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    def posted(self, *words: str) -> str:
        """The id of a batch that nobody follows."""
        done = self.shell.run("batch", *words, "--no-wait")
        assert done.returncode == 0, done.stderr
        (id,) = done.stdout.split()
        return id

    def follow(self, *words: str) -> tuple[Piped, str]:
        """A command that follows a batch, and the batch's id."""
        process = self.shell.start("batch", *words)
        return process, until(self.newest, "the batch")

    def newest(self) -> str | None:
        found = self.hand.store.list(limit=1).batches
        return found[0].id if found else None


@pytest.fixture(params=["here", "there"])
def person(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Person]:
    """With a home of his own, in which a model is; or with a gateway's address in his environment."""
    folder = tmp_path / "files"
    folder.mkdir()
    if request.param == "here":
        home = tmp_path / "om"
        shell = Shell(tmp_path)
        shell.store().close()
        with batch_hand(home / "ledger.sqlite", home / "batches") as hand:
            yield Person(shell, hand, folder)
        return
    parts = BatchParts(BatchStorage(tmp_path / "batches", CLOCK))
    line = f"root {hash_of(ROOT)} chat admin"
    with (
        gateway(tmp_path, {"local": "http://127.0.0.1:9"}, keys=line, batches=parts) as running,
        batch_hand(running.path, tmp_path / "batches") as hand,
    ):
        shell = Shell(tmp_path, {"OLLAMA_MODAL_URL": running.url, "OLLAMA_MODAL_KEY": ROOT})
        yield Person(shell, hand, folder)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Person]:
    """At a machine that has a home."""
    shell = Shell(tmp_path)
    shell.store().close()
    with batch_hand(tmp_path / "om" / "ledger.sqlite", tmp_path / "om" / "batches") as hand:
        yield Person(shell, hand, tmp_path)


def test_a_batch_from_its_posting_to_its_results(person: Person) -> None:
    """Posted, listed, told of, and its results fetched: as lines in the order of the input."""
    id = person.posted(person.file(lines=4), "--by", "8h", "--start", "now", "--max-dollars", "3")
    told = person.shell.ask("batch", id)
    assert (told["id"], told["status"], told["start"], told["max_dollars"]) == (id, "validating", "now", 3.0)
    assert [each["id"] for each in person.shell.ask("batches")] == [id]
    assert person.shell.run("batch", id, "--results").returncode == 2

    person.hand.say(id, total=4, completed=2)
    assert "2 of 4 lines" in person.shell.run("batch", id).stdout
    person.hand.end(id, failed=["line-2"])

    found = person.shell.run("batch", id, "--results")
    assert found.returncode == 0, found.stderr
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert [each["custom_id"] for each in lines] == ["line-1", "line-2", "line-3", "line-4"]
    assert lines[0]["response"]["body"]["choices"][0]["message"]["content"] == "You said: hello 1"
    assert lines[1]["error"]["code"] == "timeout"
    counts = {"total": 4, "completed": 3, "failed": 1}
    until(lambda: person.shell.ask("batches")[0]["lines"] == counts, "the counts in the list")


def test_a_followed_batch_is_written_when_it_is_done(person: Person) -> None:
    """It tells of lines, tokens and dollars as they come, writes the file once, and exits 0 where none failed."""
    out = person.folder / "out.jsonl"
    process, id = person.follow(person.file(), "--out", str(out))
    person.hand.say(id, total=3, completed=1)
    until(lambda: person.hand.store.get(id).counts.total, "the state")
    assert not out.exists()
    person.hand.end(id)

    said, talk = process.communicate(timeout=PATIENCE)

    assert process.wait() == 0, talk
    assert said == ""
    assert f"posted {id}" in talk
    assert f"batch {id} is done: 3 of 3 lines, 450 tokens" in talk
    assert "$0.0" in talk
    assert [json.loads(line)["custom_id"] for line in out.read_text().splitlines()] == ["line-1", "line-2", "line-3"]
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(("status", "failed", "code"), [("completed", ["line-1"], 1), ("failed", [], 1)])
def test_a_batch_that_is_not_whole_exits_1(here: Person, status: Any, failed: list[str], code: int) -> None:
    """Whether some lines failed or it ended early; what is done is written all the same."""
    out = here.folder / "out.jsonl"
    process, id = here.follow(here.file(), "--out", str(out))
    here.hand.end(id, status, failed=failed, errors=[LineError("budget_spent", "it has cost enough")])

    _, talk = process.communicate(timeout=PATIENCE)

    assert process.wait() == code
    assert "it has cost enough" in talk
    assert len(out.read_text().splitlines()) == 3


def test_a_batch_that_ended_without_results_exits_1(here: Person) -> None:
    """It says why it ended; no file is written, and what was there stays."""
    out = here.folder / "out.jsonl"
    process, id = here.follow(here.file(), "--out", str(out))
    now = CLOCK.now()
    error = LineError("model_not_found", "llama3.2 is not here", 1)
    here.hand.store.end(id, BatchEnd("failed", now, BatchState("failed", "hand", now), (error,)))

    _, talk = process.communicate(timeout=PATIENCE)

    assert process.wait() == 1
    assert "line 1: llama3.2 is not here" in talk
    assert not out.exists()


def test_a_reader_of_results_may_leave(here: Person) -> None:
    """`| head` gets its lines, and nothing complains."""
    id = here.posted(here.file(lines=2_000))
    here.hand.end(id)
    line = f"{shlex.join(COMMAND)} batch {id} --results | head -n 1"
    done = subprocess.run(
        ["sh", "-c", line], env=here.shell.environ, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert json.loads(done.stdout)["custom_id"] == "line-1"
    assert done.stderr == ""


def test_rows_of_csv_come_back_with_their_answers(person: Person) -> None:
    """Columns of the input in its order, then the answer and the error; however it was written, later as well."""
    text = '\ufeffid;text;answer\r\n1;"a; ""b""\nc";x\r\n2;two;y\r\n'
    file = person.write("in.csv", text)
    id = person.posted(file, "--model", "llama3.2", "--prompt", "{id}: {text}")
    Path(file).unlink()
    person.hand.end(id, failed=["row-2"])
    out = person.folder / "out.csv"

    done = person.shell.run("batch", id, "--results", "--out", str(out))

    assert done.returncode == 0, done.stderr
    raw = out.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbfid;text;answer;answer_2;error\r\n")
    rows = list(csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""), delimiter=";"))[1:]
    assert rows == [
        ["1", 'a; "b"\nc', "x", 'You said: 1: a; "b"\nc', ""],
        ["2", "two", "y", "", "timeout: no answer came"],
    ]


def test_a_bad_line_is_named_and_nothing_is_posted(person: Person) -> None:
    """By its number, before a line runs; exit 2."""
    good = Path(person.file(lines=10_000)).read_text().splitlines(keepends=True)
    good[7311] = '{"custom_id": "torn\n'
    done = person.shell.run("batch", person.write("bad.jsonl", "".join(good)))
    assert done.returncode == 2
    assert "line 7,312" in done.stderr
    assert person.newest() is None


def test_all_bad_lines_are_named_at_once(here: Person) -> None:
    """Each on a line of its own, up to a hundred; whoever mends a file mends it once."""
    lines = [json.loads(line) for line in Path(here.file(lines=300)).read_text().splitlines()]
    for each in lines[:150]:
        each["url"] = "/v1/embeddings"
    lines[200]["custom_id"] = "line-1"
    done = here.shell.run(
        "batch", here.write("bad.jsonl", "\n".join(map(json.dumps, lines))), "--endpoint", "/v1/chat/completions"
    )
    assert done.returncode == 2
    assert "151 of 300 lines cannot run" in done.stderr
    assert "  line 100: " in done.stderr
    assert "  and 51 more" in done.stderr


def test_a_bad_row_is_named_by_its_line_in_the_file(here: Person) -> None:
    """Not by its number among the rows."""
    done = here.shell.run(
        "batch", here.write("in.csv", 'id,text\n1,"a\nb"\n2\n'), "--model", "llama3.2", "--prompt", "{text}"
    )
    assert done.returncode == 2
    assert "line 4 has 1 cell" in done.stderr


def test_a_dry_run_posts_nothing(person: Person) -> None:
    """It tells what it takes, with what that rests on; and as JSON."""
    file = person.file()
    done = person.shell.run("batch", file, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "3 lines, " in done.stderr
    assert "nothing is posted" in done.stderr
    told = person.shell.ask("batch", file, "--dry-run")
    assert (told["lines"], told["endpoint"]) == (3, "/v1/chat/completions")
    assert told["models"] == [{"model": "llama3.2", "lines": 3, "missing": False}]
    assert person.newest() is None
    assert not list((person.hand.storage.root / "files").glob("*"))


def test_one_model_answers_all_lines_if_so_asked(person: Person) -> None:
    """Whatever they name; all else of them stays."""
    id = person.posted(person.file(model="gpt-4o", temperature=0.5, seed=2**60), "--model", "llama3.2")
    assert [
        (each["body"]["model"], each["body"]["temperature"], each["body"]["seed"]) for each in person.hand.lines(id)
    ] == [("llama3.2", 0.5, 2**60)] * 3


def test_a_file_that_is_there_is_not_overwritten(here: Person) -> None:
    """Known before anything is posted; with --yes it is replaced."""
    out = here.folder / "out.jsonl"
    out.write_text("mine")
    done = here.shell.run("batch", here.file(), "--out", str(out))
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert here.newest() is None
    assert out.read_text() == "mine"

    id = here.posted(here.file())
    here.hand.end(id)
    assert here.shell.run("batch", id, "--results", "--out", str(out), "--yes").returncode == 0
    assert len(out.read_text().splitlines()) == 3


def test_lines_are_not_replaced_by_their_results(here: Person) -> None:
    """Neither by the file's own name nor by a link to it, and not with --yes either."""
    file = here.file()
    before, link = Path(file).read_bytes(), here.folder / "link.jsonl"
    link.symlink_to(file)
    for out in (file, str(link)):
        done = here.shell.run("batch", file, "--out", out, "--yes")
        assert (done.returncode, here.newest()) == (2, None)
        assert "is the file that is posted" in done.stderr
    assert Path(file).read_bytes() == before


def test_results_that_could_not_be_written_are_told_to_be_kept(here: Person) -> None:
    """Whoever waited for them need not post again."""
    folder = here.folder / "out"
    folder.mkdir()
    process, id = here.follow(here.file(), "--out", str(folder / "out.jsonl"))
    folder.rmdir()
    here.hand.end(id)
    _, talk = process.communicate(timeout=PATIENCE)
    assert process.wait() == 1, talk
    assert "error: writing" in talk
    assert f"hint: they are kept: `ollama-modal batch {id} --results --out FILE`" in talk


def test_a_batch_is_cancelled_by_its_id(person: Person) -> None:
    """As a job is; one that has ended is told to have, exit 1."""
    id = person.posted(person.file())
    assert person.shell.ask("cancel", id)["status"] in {"cancelling", "cancelled"}
    other = person.posted(person.file("other.jsonl"))
    person.hand.end(other)
    done = person.shell.run("cancel", other)
    assert done.returncode == 1
    assert "has already completed" in done.stderr
    assert person.shell.run("cancel", "batch_000000000000000000000000").returncode == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nope.jsonl"], "there is no file 'nope.jsonl'"),
        (["FILE", "--by", "yesterday"], "--by 'yesterday' is no time"),
        (["FILE", "--start", "never"], "there is no start 'never'"),
        (["FILE", "--max-dollars", "0"], "--max-dollars 0 makes no sense"),
        (["FILE", "--endpoint", "/v1/images"], "no line asks for '/v1/images'"),
        (["FILE", "--prompt", "{text}", "--model", "m"], "--prompt is for CSV"),
        (["FILE", "--system", "x"], "--system goes with --prompt"),
        (["FILE", "--results"], "--results goes with a batch's id"),
        (["FILE", "--out", "x.jsonl", "--no-wait"], "nobody waits for that"),
        (["CSV"], "nothing says what to ask"),
        (["CSV", "--prompt", "{text}"], "which model answers?"),
        (["CSV", "--prompt", "{title}", "--model", "m"], "there is no column 'title'"),
        (["batch_000000000000000000000000"], "there is no batch"),
        (["batch_000000000000000000000000", "--model", "m"], "--model goes with a file"),
        (["/dev/null"], "is no file"),
        (["FILE", "--out", "x.csv"], "results of lines are no CSV"),
        (["FILE", "--out", "/dev/null"], "is no file that could be written"),
        (["FILE", "--out", "/no/such/folder/x"], "there is no folder"),
    ],
)
def test_a_wrong_call_exits_2(here: Person, words: list[str], says: str) -> None:
    """With what is wrong with it; nothing is posted."""
    named = {"FILE": here.file(), "CSV": here.write("in.csv", "id,text\n1,one\n")}
    done = here.shell.run("batch", *(named.get(word, word) for word in words))
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert here.newest() is None


def test_who_follows_may_leave(here: Person) -> None:
    """Ctrl-C leaves the batch running, and says how to go on: 130."""
    process, id = here.follow(here.file())
    here.hand.say(id, total=3, completed=1)
    assert process.stderr is not None
    until(lambda: "1 of 3 lines" in process.stderr.readline(), "that it follows")
    process.send_signal(2)
    _, talk = process.communicate(timeout=PATIENCE)
    assert process.wait() == 130
    assert f"batch {id} goes on without you" in talk
    assert f"`ollama-modal batch {id} --follow`" in talk
    assert not here.hand.store.get(id).cancel_asked


def test_an_empty_list_says_so(here: Person) -> None:
    """And is an empty list to programs."""
    done = here.shell.run("batches")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no batches\n")
    assert here.shell.ask("batches") == []
