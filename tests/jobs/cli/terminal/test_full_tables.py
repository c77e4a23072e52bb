"""Tables with much in them, at 60 and at 80 columns: a row stays a row, and what is typed again is whole."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.access.audit import Audit
from jobs.cli.terminal.table import GiveWay, table_rows
from jobs.core.clock import SystemClock, isoformat
from jobs.core.errors import NotFound
from jobs.home.home import Home, LocalServer, Stack
from jobs.ledger.job import Ending
from jobs.store import keys
from jobs.telemetry.cold_starts import PHASES, ColdStart, Kind
from jobs.telemetry.nightly_report import NightJob, Ran, ReadShare
from jobs.telemetry.usage import UsageRecorder, Use
from tests.support.local_stack import Shell
from tests.support.person import terminal
from tests.support.processes import free_port
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.stores import ended_job

LONG = "hf.co/bartowski/deepseek-r1-distill-qwen-32b-abliterated-gguf:q4_k_m_with_imatrix"
MODELS = (LONG, "llama3.2:latest", "registry.example/team/summaries-of-contracts:2026-09-15")
KEY_NAMES = ("alice", "the-nightly-evaluation-of-all-prompts", "bob")
TIERS = ("a10g", "rtx-pro-6000-double", "cpu")
WHY = "the registry registry.example answers 503 to a request for blob sha256:0123, and says that it is overloaded now"
PINNED = "the fleet pins it, and it is not here in whole"
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")

FLEET = Path("app/fleet.toml").read_text("utf-8")
WINDOWS = "".join(
    f'\n[[windows]]\ntier = "a10g"\nstart = "{minute} 8 * * 1-5"\nhours = 10\nmodels = ["{LONG}", "llama3.2"]\n'
    for minute in (0, 30)
)


def server(heard: HeardRequest, line: Connection) -> None:
    """An Ollama with models of long names in memory, one of them for ever, one partly on the CPU."""
    until = SystemClock().now() + timedelta(minutes=4, seconds=5)
    loaded = [
        {
            "name": name, "model": name, "digest": f"{index}" * 64, "size": 20 << 30, "size_vram": (20 - index) << 30,
            "context_length": 131_072, "expires_at": isoformat(until + timedelta(days=9000 * index)),
        }
        for index, name in enumerate(MODELS)
    ]  # fmt: skip
    line.document({"models": loaded} if heard.path == "/api/ps" else {"version": "0.12.3"})


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A home with servers, of which one is dead, usage of many models and keys, dead letters, a night and windows."""
    shell = Shell(tmp_path_factory.mktemp("full"))
    clock = SystemClock()
    now = clock.now()
    fleet = shell.home / "fleet.toml"
    fleet.write_text(FLEET.replace('allowed = ["registry.ollama.ai"', 'allowed = ["*"') + WINDOWS)
    models = shell.home / "models"
    models.mkdir()
    store = shell.store()
    recorder = UsageRecorder(store.facts, clock, "test")
    for model in MODELS:
        for key in KEY_NAMES:
            for tier in TIERS:
                recorder.add(Use(now, model, key, tier, "success", 10, 10_000, 0.1, 4_000.0))
    recorder.flush()
    for n, (name, tier) in enumerate(zip((*MODELS, ""), (*TIERS, "a10g"), strict=True)):
        kind: Kind = "load" if n == 1 else "start"
        at = now - timedelta(minutes=n)
        took = dict.fromkeys(PHASES if kind == "start" else PHASES[3:], 12.34 + n)
        start = ColdStart(tier, "ta-01HZX4", n, kind, at, name, 20 << 30 if name else None, took)
        store.facts.put(start.key, start.as_json())
    failed = [ended_job(store, name, Ending("failed", "network", WHY)) for name in MODELS]
    ran = Ran(
        now, now,
        tuple(NightJob(job.id, "pull", job.subject, PINNED, 20 << 30) for job in failed),
        (f"{LONG} is left as it is: nobody pins it, and it was used 3 days ago",),
        ReadShare(123 << 30, 30, now + timedelta(days=9)),
    )  # fmt: skip
    store.facts.put(keys.NIGHT_RAN, ran.as_json())
    for name in KEY_NAMES:
        audit = Audit(store.facts, clock)
        audit.record(who=name, request="3f9a0c1200000007", act="pull", subject=LONG, outcome="posted", job=failed[0].id)
        refused = NotFound("no")
        audit.refused(who=name, request="3f9a0c1200000007", act="delete", subject=LONG, error=refused)
    store.close()
    with ScriptedServer(server, opening=server) as first, ScriptedServer(server, opening=server) as second:
        urls = (first.url, second.url, f"http://127.0.0.1:{free_port()}")
        servers = tuple(map(LocalServer, TIERS, urls))
        Home(shell.home / "om").write_stack(Stack(1, now, simulated=False, servers=servers, models=models, fleet=fleet))
        yield shell


@pytest.fixture(params=[60, 80])
def columns(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def seen(shell: Shell, columns: int, line: str, *, hears: bool = False) -> list[str]:
    """What is on the screen, line by line, without colours."""
    with terminal(shell, *line.split(), columns=columns, hears=hears) as person:
        assert person.ended() in {0, 1, 2}
    return ESCAPE.sub("", person.seen).replace("\r", "").splitlines()


def fits(line: str, columns: int) -> bool:
    """Or is a word that no line has room for, with no more than its label before it."""
    *before, last = line.split() or [""]
    return len(line) <= columns or (len(before) <= 1 and len(last) > columns - len("incident "))


COMMANDS = (
    "status", "ps", "cost", "cold", "night", "windows", "plan", "plan --fleet {fleet}", "jobs --dead", "jobs", "models",
    "audit", "retry --all --class disk", "job nope", "run llama3.2 hello", "prune --dry-run",
)  # fmt: skip


@pytest.mark.parametrize("line", COMMANDS)
def test_no_line_is_broken_by_the_terminal(shell: Shell, columns: int, line: str) -> None:
    """Data and talk, hints among it: all of it fits, broken between words where it has to be."""
    lines = seen(shell, columns, line.format(fleet=shell.home / "fleet.toml"), hears=True)
    assert lines
    assert [each for each in lines if not fits(each, columns)] == []


def test_a_row_of_the_cost_stays_a_row(shell: Shell, columns: int) -> None:
    """Of many models and keys each has one line, with its key, its part of the name, and what it cost."""
    title, head, *rows = seen(shell, columns, "cost")
    assert title == "serving, by model and key:"
    rows = rows[: rows.index("cold starts that were waited for, by phase:")]
    assert {"TIER", "MODEL", "KEY", "COST"} <= set(head.split())
    assert len(rows) == len(MODELS) * len(KEY_NAMES) * len(TIERS)
    for row in rows:
        tier, model, key, *_, dollars = row.split()
        assert dollars == "$0.00"
        assert any(key == name or is_shortened(key, name) for name in KEY_NAMES)
        assert any(model == name or is_shortened(model, name) for name in MODELS)
        assert any(tier == name or is_shortened(tier, name) for name in TIERS)
    assert len({tuple(row.split()[:3]) for row in rows}) == len(rows)  # each can be told from each other


def test_an_act_stays_a_row(shell: Shell, columns: int) -> None:
    """Who did what has a line each, with who, the act, and how it went."""
    head, *rows = seen(shell, columns, "audit")
    assert {"WHO", "ACT", "WHAT", "OUTCOME"} <= set(head.split())
    assert len(rows) == 2 * len(KEY_NAMES)
    for row in rows:
        assert any(word == name or is_shortened(word, name) for word in row.split() for name in KEY_NAMES)
        assert re.search(r" pull .* posted| delete .* refused: NotFound", row)


def test_a_cold_start_has_its_phases(shell: Shell, columns: int) -> None:
    """When, on which tier, of which model, how long and by which phases: each start and load, the newest first, and
    what they took in the median by tier."""
    head, *rows = seen(shell, columns, "cold")
    assert {"WHEN", "TIER", "MODEL", "TOOK", "PHASES"} <= set(head.split())
    starts = shell.ask("cold")
    assert [each["model"] for each in starts] == [*MODELS, ""]
    said = " ".join(" ".join(rows).split())
    for phase in PHASES:
        assert f"{phase}=12.3" in said
    assert "a10g: 2 cold, 0 of a load alone; in the median container 14 s" in said
    days = [each for each in rows if re.match(r"(\d{4}-)?\d\d-\d\d \d\d:\d\d  ", each)]
    assert len(days) == len(starts)
    assert [each["total_seconds"] for each in starts][:2] == [pytest.approx(7 * 12.34), pytest.approx(4 * 13.34)]


def is_shortened(text: str, name: str) -> bool:
    begin, ellipsis, end = text.partition("…")
    return bool(ellipsis) and name.startswith(begin) and name.endswith(end)


def test_what_is_in_memory_has_a_row_each(shell: Shell, columns: int) -> None:
    """Its name, as far as there is room, on what, on which tier and until when."""
    head, *rows = seen(shell, columns, "ps")
    assert {"NAME", "PROCESSOR", "TIER", "UNTIL"} <= set(head.split())
    assert len(rows) == 2 * len(MODELS)
    for row, (tier, name) in zip(rows, [(tier, name) for tier in TIERS[:2] for name in MODELS], strict=True):
        shown = row.split()[0]
        assert shown == name or is_shortened(shown, name)
        assert any(word == tier or is_shortened(word, tier) for word in row.split())
        assert row.endswith(("in 4 min 5 s", "in 4 min 4 s", "in 4 min 3 s", "in 4 min 2 s", "it is unloaded"))


def test_a_night_has_a_row_for_each_job(shell: Shell, columns: int) -> None:
    """With its kind, model and state; why it failed stands below it, with the command that tells more."""
    lines = seen(shell, columns, "night")
    ids = [job["id"] for job in shell.ask("jobs", "--state", "failed")]
    rows = [each for each in lines if each.startswith("  pull  ")]
    assert len(rows) == len(MODELS)
    assert all(" failed" in row for row in rows)
    assert all(f"    more: `ollama-modal job {id}`" in lines for id in ids)


def test_dead_letters_have_their_ids_whole(shell: Shell, columns: int) -> None:
    """Whatever else is broken into lines, an id is what is typed again."""
    lines = seen(shell, columns, "jobs --dead")
    for job in shell.ask("jobs", "--dead"):
        assert any(line.startswith(f"  {job['id']}  pull") for line in lines)


def test_a_gateway_with_trouble_is_told_in_lines_that_fit(columns: int, tmp_path: Path) -> None:
    """Problems, tiers with reasons and the night of a gateway elsewhere; each problem whole, word by word."""
    problems = [f"tier rtx-pro-6000-double cannot start: {WHY}", f"the model {LONG} is pinned and not here"]
    since = isoformat(SystemClock().now())
    night = {"at": None, "summary": "no night has come yet", "failing": None}
    document = {
        "version": "1", "problems": problems, "notes": [WHY], "jobs": {"failed": 3},
        "tiers": [{"tier": tier, "state": "waking", "since": since, "why": WHY, "held": 3} for tier in TIERS],
        "models": {"count": 3, "bytes": 3 << 30},
    }  # fmt: skip

    def answer(heard: HeardRequest, line: Connection) -> None:
        line.document(night if heard.path == "/ops/v1/night" else document)

    with ScriptedServer(answer) as gateway:
        lines = seen(Shell(tmp_path, {"OLLAMA_MODAL_URL": gateway.url}), columns, "status")
    assert [each for each in lines if not fits(each, columns)] == []
    said = " ".join(" ".join(lines).split())
    for text in (*problems, WHY):
        assert text in said


def test_hints_are_broken_between_words(tmp_path: Path) -> None:
    """Talk is broken where a word ends, and not at all where nobody looks."""
    quiet = Shell(tmp_path)
    whole = quiet.run("status", "--url", "http://127.0.0.1:9").stderr.splitlines()
    lines = seen(quiet, 60, "status --url http://127.0.0.1:9", hears=True)
    assert len(whole) == 2
    assert len(lines) > 2
    assert max(map(len, lines)) <= 60
    assert " ".join(each.strip() for each in lines) == " ".join(whole)


def test_rows_may_have_something_below_them() -> None:
    """The lines of each row come together; without the names of columns these take no room."""
    rows = [("a", "x" * 9, "one two three four five"), ("b", "y", "")]
    head, steps = ("A", "LONG NAME OF IT", "WHY"), (GiveWay("LONG NAME OF IT", 5),)
    assert list(table_rows(head, rows, 38, steps, folds=True)) == [
        ["a  xxxxxxxxx  one two three four five"], ["b  y"],
    ]  # fmt: skip
    assert list(table_rows(head, rows, 33, steps, folds=True)) == [["a  xxxx…  one two three four five"], ["b  y"]]


def test_json_is_never_folded(shell: Shell) -> None:
    """A program gets all of it, on a terminal as well."""
    assert json.loads("".join(f"{line}\n" for line in seen(shell, 60, "cost --json")))["uses"][0]["model"] in MODELS
