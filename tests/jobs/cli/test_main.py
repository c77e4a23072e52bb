"""The command line on a simulated stack, typed as a person would type it: what it prints where, and how it exits."""

import json
import os
import pty
import shlex
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.core.model_name import ModelName
from jobs.core.progress import Reading
from jobs.ledger.job import Ending
from jobs.testing.models import SimModel, find
from jobs.weights.manifest import Manifest
from tests.support.local_stack import COMMAND, Shell, Up, both, up
from tests.support.stores import Store, ended_job
from tests.support.waiting import PATIENCE, until

LEASE = timedelta(seconds=30)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A simulated stack of two tiers."""
    shell = Shell(tmp_path_factory.mktemp("home"))
    with up(shell, "--simulate", "--tier", "a10g", "--tier", "h100") as running:
        yield running


@pytest.fixture
def shell(stack: Up) -> Shell:
    return stack.shell


@pytest.fixture
def quiet(tmp_path: Path) -> Shell:
    """A home where nothing runs."""
    return Shell(tmp_path)


@pytest.fixture
def quiet_store(quiet: Shell) -> Iterator[Store]:
    """What that home's commands read."""
    store = quiet.store()
    yield store
    store.close()


def simulated(name: str) -> SimModel:
    model = find(ModelName.parse(name))
    assert model is not None
    return model


def test_a_pull_ends_with_the_model_listed(shell: Shell) -> None:
    """`pull` follows the job to its end and exits 0; data is on stdout, talk on stderr; `models` lists the model."""
    done = shell.run("pull", "llama3.2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pull done: llama3.2:latest, 20 MB, digest ")
    assert "posted job " in done.stderr
    (model,) = [each for each in shell.ask("models") if each["name"] == "llama3.2:latest"]
    sim = simulated("llama3.2")
    assert (model["digest"], model["size"]) == (sim.digest, sim.size)
    assert "llama3.2:latest" in shell.run("models").stdout


def test_a_job_as_json_has_its_shape(shell: Shell) -> None:
    """`pull --json` prints the ended job, `job --json` the same, `jobs --json` a list of them."""
    job = shell.ask("pull", "tiny")
    assert {
        "id",
        "kind",
        "subject",
        "state",
        "progress",
        "attempts",
        "request",
        "posted_at",
        "ended_at",
        "result",
    } <= set(job)
    assert (job["kind"], job["subject"], job["state"]) == ("pull", "tiny:latest", "succeeded")
    assert set(job["progress"]) == {"completed", "total", "bytes_per_second", "status"}
    assert {"n", "started_at", "ended_at", "outcome", "class", "message"} <= set(job["attempts"][0])
    assert job["result"]["way"] == "registry"
    assert shell.ask("job", job["id"]) == job
    assert job in shell.ask("jobs", "--limit", "0")


def test_no_wait_prints_the_id_alone(shell: Shell) -> None:
    """`pull --no-wait` prints the job's id on stdout and nothing else; `job ID --follow` sees it through."""
    done = shell.run("pull", "qwen2.5:0.5b", "--no-wait")
    assert done.returncode == 0
    id = done.stdout.strip()
    assert done.stdout == f"{id}\n"
    followed = shell.run("job", id, "--follow")
    assert followed.returncode == 0, followed.stderr
    assert "pull of qwen2.5:0.5b: succeeded" in followed.stdout
    assert "attempts 1 of 8 allowed" in followed.stdout


def test_two_pulls_at_once_are_one_job(shell: Shell) -> None:
    """The same pull typed twice at once is one job, and both follow it to its end (P2)."""
    words = ("pull", "deepseek-r1:32b", "--rate-limit", "120MB")
    (first, second) = both([shell.start(*words), shell.start(*words)])
    assert (first[0], second[0]) == (0, 0), (first, second)
    told = first[2] + second[2]
    assert told.count("posted job") == 1
    assert told.count("that is already under way") == 1
    assert len([job for job in shell.ask("jobs", "--limit", "0") if job["subject"] == "deepseek-r1:32b"]) == 1


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("../../etc/passwd", "has 3 slashes; two is the most"),
        ("../etc/passwd", "is not a model name: bad host '..'"),
        ("", "the model name is empty"),
        ("x" * 10_000, "(10000 characters)"),
        ("a/b/c/d", "has 3 slashes; two is the most"),
        ("llama3.2@sha256:abc", "pins a digest"),
        ("llama 3", "bad model 'llama 3'"),
        ("llama3.2:", "bad tag ''"),
        ("-x", None),
        ("a\x1b[31m", "bad model"),
    ],
)
def test_what_is_no_name_is_refused(quiet: Shell, name: str, complaint: str | None) -> None:
    """What Ollama's grammar does not know exits 2 at once, says why and what a name looks like, and posts nothing."""
    done = quiet.run("pull", name)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "\x1b" not in done.stderr
    if complaint is not None:
        assert complaint in done.stderr
        assert "hint: a name looks like llama3.2, deepseek-r1:32b" in done.stderr
    assert quiet.ask("jobs") == []


@pytest.mark.parametrize("name", ["hf.co/acme/demo:Q4_K_M", "library/tiny", "https://registry.ollama.ai/library/tiny"])
def test_names_of_every_shape_are_pulled(shell: Shell, name: str) -> None:
    """Names with a host, a namespace or a scheme are names."""
    done = shell.run("pull", name)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["no/such:thing", "UPPER:Tag", "hf.co/a/b:Q4"])
def test_a_name_that_nobody_has_is_a_job_that_fails(shell: Shell, name: str) -> None:
    """A proper name that no registry knows is a job: it fails once, as not_found, and exits 1 with what to do."""
    done = shell.run("pull", name)
    assert done.returncode == 1
    assert "failed" in done.stderr
    assert "hint: " in done.stderr
    id = done.stderr.split("posted job ")[1].split(":")[0]
    job = shell.ask("job", id)
    assert [attempt["class"] for attempt in job["attempts"]] == ["not_found"]
    story = shell.run("job", id).stdout
    assert "failed" in story
    assert "1 of 8 allowed" in story


def test_verify_warm_and_delete_do_what_they_say(shell: Shell) -> None:
    """`verify` hashes, `warm` loads on the tier that fits, `delete` removes; each exits 0, with its result as data."""
    shell.run("pull", "nomic-embed-text")
    assert "every byte is what it should be" in shell.run("verify", "nomic-embed-text").stdout
    shell.run("pull", "llama3.2")
    warmed = shell.ask("warm", "llama3.2")["result"]
    assert (warmed["tier"], warmed["on_gpu"]) == ("a10g", True)
    assert shell.ask("warm", "llama3.2", "--tier", "h100")["result"]["tier"] == "h100"
    assert shell.run("delete", "nomic-embed-text").returncode == 0
    assert "nomic-embed-text:latest" not in [model["name"] for model in shell.ask("models")]
    assert shell.run("delete", "nomic-embed-text").returncode == 2


def test_an_unknown_tier_is_told(shell: Shell) -> None:
    """Warming on a tier that is not there fails and names those that are."""
    done = shell.run("warm", "llama3.2", "--tier", "tpu")
    assert done.returncode == 1
    assert "there is no tier 'tpu'" in done.stderr
    assert "hint: tiers are a10g, h100" in done.stderr


def test_verify_mends_a_flipped_byte(shell: Shell, stack: Up) -> None:
    """A blob with one byte flipped is found by `verify` and fetched again, alone; the exit code is 0."""
    shell.run("pull", "qwen2.5:0.5b")
    sim = simulated("qwen2.5:0.5b")
    models = Path(shell.ask("status")["models"]["directory"])
    largest = max(Manifest.parse(sim.manifest).blobs, key=lambda layer: layer.size)
    blob = models / "blobs" / largest.filename
    data = bytearray(blob.read_bytes())
    data[1234] ^= 1
    blob.write_bytes(data)
    job = shell.ask("verify", "qwen2.5:0.5b")
    assert [each["damage"] for each in job["result"]["mended"]] == ["flipped"]
    assert shell.ask("verify", "qwen2.5:0.5b")["result"]["mended"] == []


def test_interrupting_leaves_the_job(shell: Shell) -> None:
    """Ctrl-C ends the following, not the job: it exits 130, and says how to follow it again or end it."""
    shell.run("delete", "deepseek-r1:32b")
    following = shell.start("pull", "deepseek-r1:32b", "--rate-limit", "5MB")
    assert following.stderr is not None
    first = following.stderr.readline()
    id = first.split("posted job ")[1].split(":")[0]
    until(lambda: shell.ask("job", id)["state"] == "running")
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=PATIENCE)
    assert following.returncode == 130
    assert f"job {id} goes on without you" in said
    assert f"`ollama-modal job {id} --follow`" in said
    assert shell.ask("job", id)["state"] == "running"
    assert shell.run("cancel", id[:6]).returncode == (0 if id.endswith("-1") else 2)  # a prefix, where it is unique
    cancelled = shell.run("cancel", id)
    assert cancelled.returncode == 0
    assert shell.run("job", id, "--follow").returncode == 1
    assert shell.ask("job", id)["state"] == "cancelled"


@pytest.mark.parametrize(("answer", "code", "open_jobs"), [("n\n", 1, 0), ("y\n", 0, 1)])
def test_a_bulk_retry_asks_on_a_terminal(
    quiet: Shell, quiet_store: Store, answer: str, code: int, open_jobs: int
) -> None:
    """`retry --all` says what it posts and asks, where somebody sits at a terminal; no posts nothing."""
    ended_job(quiet_store, "a:latest", Ending("failed", "network", "cut"))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "retry", "--all"], env=quiet.environ, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.write(ours, answer.encode())
    assert process.wait(timeout=PATIENCE) == code
    seen = os.read(ours, 65_536).decode()
    os.close(theirs)
    os.close(ours)
    assert "to post again: pull a:latest" in seen
    assert "post 1 again? [y/N]" in seen
    assert sum(not job.has_ended for job in quiet_store.ledger().reader.jobs()) == open_jobs


@pytest.mark.parametrize("kind", ["delete", "verify", "rollback", "warm"])
def test_a_typo_is_no_job(shell: Shell, kind: str) -> None:
    """What is not here is refused with the names that come near, before anything is posted."""
    assert shell.run("pull", "llama3.2").returncode == 0
    before = shell.ask("jobs", "--limit", "0")
    typo = shell.run(kind, "lama3.2")
    assert typo.returncode == 2
    assert "there is no model 'lama3.2:latest' here" in typo.stderr
    assert "did you mean llama3.2:latest" in typo.stderr
    assert shell.ask("jobs", "--limit", "0") == before


def test_what_is_being_pulled_is_no_typo(shell: Shell, stack: Up) -> None:
    """A job about a model that a pull under way brings is posted: it may find it."""
    coming = shell.run("pull", "qwen2.5:0.5b", "--rate-limit", "1MB", "--no-wait").stdout.strip()
    assert shell.run("verify", "qwen2.5:0.5b", "--no-wait").returncode == 0
    shell.run("cancel", coming)


def test_an_unlisted_registry_is_no_job(tmp_path: Path) -> None:
    """A pull from a registry that `up` does not list is refused before it is posted."""
    shell = Shell(tmp_path, {"OLLAMA_MODAL_PULL_FROM": "registry.ollama.ai"})
    with up(shell, "--simulate"):
        refused = shell.run("pull", "registry.example/user/model")
        assert (refused.returncode, "it is not listed" in refused.stderr) == (2, True)
        assert shell.ask("jobs") == []


def test_a_terminal_gets_a_bar(shell: Shell) -> None:
    """On a terminal a pull is shown as a bar with bytes, rate and time left."""
    shell.run("delete", "llama3.2")
    ours, theirs = pty.openpty()
    environ = {**shell.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [*COMMAND, "pull", "llama3.2", "--rate-limit", "10MB"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
    )
    os.close(theirs)
    seen = bytearray()

    def read() -> None:
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                return
            if not piece:
                return
            seen.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    process.communicate(timeout=PATIENCE)
    reader.join(timeout=PATIENCE)
    os.close(ours)
    text = seen.decode(errors="replace")
    assert process.returncode == 0
    assert "MB/s" in text
    assert "%" in text
    assert "\r" in text or "\x1b[" in text


def test_status_tells_what_runs(shell: Shell, stack: Up) -> None:
    """`status` names the pid of `up`, says that it is simulated, and whether each tier answers."""
    said = shell.run("status").stdout
    assert f"pid {stack.process.pid}" in said
    assert "SIMULATED" in said
    assert "a10g" in said
    assert "h100" in said
    assert stack.url in said


def test_nothing_running_is_told(quiet: Shell) -> None:
    """With no `up`, `status` exits 0 and says so, and a posted pull says that it waits and for what."""
    done = quiet.run("status")
    assert done.returncode == 0
    assert "up" in done.stdout
    posted = quiet.run("pull", "llama3.2", "--no-wait")
    assert posted.returncode == 0
    assert "nothing is working the queue" in posted.stderr
    assert "hint: start it: `ollama-modal up`" in posted.stderr
    assert [job["state"] for job in quiet.ask("jobs")] == ["queued"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("job", "nope"), "there is no job 'nope'"),
        (("job", ""), "the job's id is empty"),
        (("cancel", "nope"), "there is no job 'nope'"),
        (("retry", "nope"), "there is no job 'nope'"),
        (("jobs", "--state", "sleepy"), "there is no state 'sleepy'"),
        (("jobs", "--kind", "bake"), "there is no kind of job 'bake'"),
        (("jobs", "--since", "long"), "--since 'long' is no time"),
        (("pull", "llama3.2", "--way", "up"), "there is no way to pull called 'up'"),
        (("pull", "llama3.2", "--rate-limit", "fast"), "'fast'"),
        (("pull", "llama3.2", "--attempts", "0"), "0"),
        (("pull",), "MODEL"),
        (("bake",), "bake"),
        ((), ""),
        (("up", "--tier", "A 10"), "names no tier"),
        (("up", "--tier", "a", "--tier", "a"), "is named twice"),
        (("up", "--quota", "lots"), "'lots'"),
    ],
)
def test_a_wrong_call_exits_2(quiet: Shell, words: tuple[str, ...], complaint: str) -> None:
    """A call that is wrong exits 2, says what is wrong on stderr, and prints no data."""
    done = quiet.run(*words)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_home_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """A home that is a file exits 2 and names the variable and its value."""
    (tmp_path / "om").write_text("")
    done = Shell(tmp_path).run("jobs")
    assert done.returncode == 2
    assert f"the home '{tmp_path / 'om'}' cannot be used" in done.stderr
    assert "OLLAMA_MODAL_HOME" in done.stderr


def test_a_failed_job_is_retried_with_one_command(quiet: Shell, quiet_store: Store) -> None:
    """`retry` posts a failed job again exactly as it was posted (P6); a job that has not ended is not retried."""
    ledger = quiet_store.ledger()
    request = {"model": "llama3.2", "way": "registry", "rate_limit": 5_000_000}
    id = ledger.post("pull", "llama3.2:latest", request, by="test", attempts=2).job.id
    assert quiet.run("retry", id, "--no-wait").returncode == 2
    claim = ledger.claim(id, worker="w", lease=LEASE)
    assert claim is not None
    ledger.end(claim, Ending("failed", "network", "the line went dead", "look at the cable"), Reading(5, 10))
    again = quiet.run("retry", id, "--no-wait").stdout.strip()
    job = quiet.ask("job", again)
    assert (job["request"], job["attempts_allowed"], job["state"]) == (request, 2, "queued")
    story = quiet.run("job", id).stdout
    assert "the line went dead" in story
    assert "look at the cable" in story
    assert "ollama-modal retry" in story


def test_a_registrys_words_cannot_draw_on_the_terminal(quiet: Shell, quiet_store: Store) -> None:
    """Control characters in a message from outside are shown as text."""
    ledger = quiet_store.ledger()
    id = ledger.post("pull", "llama3.2:latest", {"model": "llama3.2"}, by="test").job.id
    claim = ledger.claim(id, worker="w", lease=LEASE)
    assert claim is not None
    ledger.end(claim, Ending("failed", "refused", "\x1b[2J[bold]gone[/bold]\nhint: run rm"), Reading())
    for words in (("jobs",), ("job", id)):
        shown = quiet.run(*words).stdout
        assert "\x1b" not in shown
        assert "[bold]gone[/bold]" in shown
        assert "\nhint: run rm" not in shown


def test_a_reader_that_leaves_is_no_failure(quiet: Shell, quiet_store: Store) -> None:
    """Output into a pipe that closed early ends quietly."""
    ledger = quiet_store.ledger()
    for number in range(200):
        ledger.post("pull", f"m{number}:latest", {"model": f"m{number}"}, by="test")
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(COMMAND)} jobs --limit 0 | head -1"],
        env=quiet.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout.startswith("JOB")
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_ten_thousand_jobs_are_listed(quiet: Shell, quiet_store: Store) -> None:
    """A ledger of ten thousand jobs is listed whole, and the newest twenty when nothing is said."""
    quiet_store.ledger()
    rows = []
    for number in range(10_000):
        minute, second = divmod(number, 60)
        fact = {
            "v": 1,
            "id": f"j{number:05}-1",
            "kind": "pull",
            "subject": f"m{number}:latest",
            "lane": "weights",
            "posted_at": f"2026-01-{1 + minute // 1440:02}T{minute // 60 % 24:02}:{minute % 60:02}:{second:02}Z",
        }
        rows.append(("ollama-ledger", f"job/j{number:05}-1", json.dumps(fact)))
    with sqlite3.connect(quiet.home / "om" / "ledger.sqlite") as file:
        file.executemany("INSERT INTO entries VALUES (?, ?, ?)", rows)
    file.close()
    newest = quiet.ask("jobs")
    assert [job["id"] for job in newest] == [f"j{number:05}-1" for number in range(9_999, 9_979, -1)]
    assert len(quiet.ask("jobs", "--limit", "0")) == 10_000
    assert "there are more; --limit 0 lists all" in quiet.run("jobs").stderr


def test_a_full_disk_behind_stdout_is_a_failure(quiet: Shell) -> None:
    """Data that cannot be written exits 1 and says so; talk that cannot be written is dropped."""
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(COMMAND)} status >/dev/full"],
        env=quiet.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: writing to stdout: No space left on device")
    assert "Traceback" not in done.stderr
    assert subprocess.run(
        ["sh", "-c", f"{shlex.join(COMMAND)} pull tiny --no-wait 2>/dev/full"],
        env=quiet.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    ).stdout.strip()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_do_no_harm(quiet: Shell, closed: str) -> None:
    """With stdin, stdout or stderr closed from the start, the job is posted, and the ledger stays whole."""
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(COMMAND)} pull tiny --no-wait {closed}"],
        env=quiet.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert [job["subject"] for job in quiet.ask("jobs")] == ["tiny:latest"]


def test_json_is_json(quiet: Shell) -> None:
    """Listings have a JSON form, also of an empty home."""
    for words in (("jobs",), ("status",)):
        done = quiet.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)


def test_prune_shows_its_plan_and_follows_it(shell: Shell, stack: Up) -> None:
    """`--dry-run` changes and posts nothing; the real one does what was shown; then nothing is left, and the trash is
    emptied when asked for. A file that is not ours is told, and stays."""
    shell.ask("pull", "tiny")
    models = Path(shell.ask("status")["models"]["directory"])
    orphan, notes = models / "blobs" / f"sha256-{'0' * 64}", models / "blobs" / "notes.txt"
    orphan.write_bytes(b"x" * 2000)
    notes.write_text("mine")
    count = len(shell.ask("jobs", "--limit", "0"))

    dry = shell.run("prune", "--dry-run")

    assert dry.returncode == 0
    row = next(line for line in dry.stdout.splitlines() if orphan.name in line)
    assert row.split()[:2] == ["to", "trash"]
    assert "2.0 kB" in row
    assert row.endswith("no model needs it")
    assert "note: 1 file that is not ours is never touched: 'notes.txt'" in dry.stderr
    assert "go to the trash, and count there until 7 days are over" in dry.stderr
    assert orphan.exists()
    assert len(shell.ask("jobs", "--limit", "0")) == count
    done = shell.run("prune")
    assert done.stdout.startswith("prune done: 2.0 kB moved to the trash; 1 file that is not ours is never touched")
    assert not orphan.exists()
    assert "nothing to prune" in shell.run("prune", "--dry-run").stderr
    assert shell.run("prune", "--empty-trash").stdout.startswith("prune done: 2.0 kB deleted for good")
    assert not [path for path in (models / "trash").rglob("*") if path.is_file()]
    assert notes.read_text() == "mine"
    notes.unlink()
    wrong = shell.run("prune", "--dry-run", "--unused-days", "0")
    assert (wrong.returncode, wrong.stderr.splitlines()[0]) == (2, "error: --unused-days 0 makes no sense")


def test_a_rollback_needs_something_to_roll_back_to(shell: Shell, stack: Up) -> None:
    """Where the trash holds no earlier version the job fails with 1, and says what may be done."""
    shell.ask("pull", "tiny")
    done = shell.run("rollback", "tiny")
    assert done.returncode == 1
    assert "not_found: the trash holds no earlier 'tiny:latest'" in done.stderr
