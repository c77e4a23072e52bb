"""What `windows --suggest` tells of windows that would have paid, here and over HTTP, and what it is made from."""

import tomllib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.accounting.window_suggestions import WORTH, Recorded, Suggestion, suggestions
from app.fleet.file import read
from app.fleet.schema import Fleet, parse
from app.gateway.dashboard.windows import Windows, WindowsResponse
from jobs.archive.archived import COLD, archive_at
from jobs.core.clock import SystemClock
from jobs.home.home import home_of
from jobs.store import keys
from jobs.telemetry import request_times
from jobs.telemetry.cold_starts import ColdStart
from jobs.telemetry.request_times import MOST, SLOT, Times
from jobs.telemetry.usage import UsageRecorder, Use, asked
from jobs.testing.clock import HandClock
from tests.app.accounting.test_window_proposals import FIRST, KNOWN, traffic
from tests.support.local_stack import Shell
from tests.support.stores import Store

NOW = KNOWN[1].astimezone(UTC)


def fleet(*windows: dict[str, Any]) -> Fleet:
    document = read()
    document["schedule"]["timezone"] = "Europe/Berlin"
    return parse({**document, "windows": list(windows)}, "test")


def entries() -> dict[str, Any]:
    """What eight weeks of traffic leave in the ledger: the days of usage, and a start of forty seconds."""
    days: dict[str, Times] = {}
    for at, models in traffic(KNOWN, 3).items():
        for model, count in models.items():
            request_times.note(days.setdefault(at.date().isoformat(), {}), "a10g", model, at, count)
    recorded: dict[str, Any] = {
        keys.usage(day, "gateway"): {"v": 1, "rows": [], "times": request_times.as_json(times)}
        for day, times in days.items()
    }
    start = ColdStart("a10g", "ta-1", 0, "start", NOW - timedelta(days=3), seconds={"container": 8.0, "engine": 32.0})
    return {**recorded, start.key: start.as_json()}


def suggested(*windows: dict[str, Any], known: dict[str, Any] | None = None) -> list[Suggestion]:
    recorded = Recorded.of(entries() if known is None else known, KNOWN[0], NOW)
    return suggestions(fleet(*windows), recorded, WORTH)


def test_a_suggestion_is_a_piece_of_a_fleet_file() -> None:
    """What is told can be written into the fleet file as it stands, and is a window of it then."""
    [each] = suggested()
    lines = list(each.lines())
    first, last = lines.index("[[windows]]"), len(lines) - lines[::-1].index("")

    windows = tomllib.loads("\n".join(lines[first : last - 1]))["windows"]

    assert fleet(*windows).windows
    assert [window["start"] for window in windows] == [proposal.start for proposal in each.windows]
    assert "pay if a cold start that nobody meets is worth $" in lines[-1]


def test_windows_that_are_declared_are_told_beside() -> None:
    """What callers would have met without windows, with those of the file, and with those proposed, each at its price;
    the recorded start counts in each cold one."""
    window = {"tier": "a10g", "start": "0 9 * * 1-5", "hours": 9, "models": ["llama3.2"]}
    [each] = suggested(window)

    assert each.without.cold_starts > each.declared.cold_starts >= each.proposed.cold_starts
    assert each.dollars(each.without) < each.dollars(each.declared)
    assert any("with those that are declared" in line for line in each.lines())
    [quick] = suggested(known={key: value for key, value in entries().items() if key.startswith(keys.USAGE)})
    assert each.without.seconds - quick.without.seconds == 40 * each.without.cold_starts


def test_few_days_say_nothing() -> None:
    """Of a tier that was asked for less than two weeks nothing is proposed, and that is told."""
    known = {key: value for key, value in entries().items() if key >= keys.usage("2026-09-20", "")}
    [each] = suggested(known=known)

    assert not each.windows
    assert list(each.lines()) == ["a10g: 8 days are recorded; habits show after 14"]


def test_a_suggestion_opens_as_it_was_told() -> None:
    """The answer of a gateway has what the command tells, word by word."""
    told = Windows(HandClock(NOW), fleet()).as_json(KNOWN[0], WORTH, entries())
    WindowsResponse.model_validate(told)

    [each] = map(Suggestion.from_json, told["suggestions"])

    assert list(each.lines()) == list(suggested()[0].lines())


@pytest.mark.parametrize("flushes", [1, 4])
def test_requests_are_recorded_by_five_minutes(store: Store, flushes: int) -> None:
    """When callers asked is written with the usage, by tier, model and five minutes; a restart adds to it."""
    clock = HandClock(datetime(2026, 3, 10, 9, 0, tzinfo=UTC))
    for number in range(4):
        recorder = UsageRecorder(store.facts, clock, "gateway")
        for _ in range(flushes):
            recorder.add(Use(clock.now(), "llama3.2:latest", "anna", "a10g", "success"))
            recorder.add(Use(clock.now(), "", "anna", "", "refused"))  # which asked no tier
            recorder.flush()
        clock.tick(300 if number % 2 else 1)

    [(tier, times)] = asked(dict(store.facts.items())).items()

    assert tier == "a10g"
    begin = datetime(2026, 3, 10, 9, 0, tzinfo=UTC)
    assert times == {begin: {"llama3.2:latest": 2 * flushes}, begin + SLOT: {"llama3.2:latest": 2 * flushes}}


def test_no_callers_text_fills_the_ledger() -> None:
    """Beyond the most entries of a day the models of a tier are counted as one."""
    times: Times = {}
    for number in range(MOST + 1):
        request_times.note(times, "a10g", f"model-{number}", FIRST + number % 288 * SLOT, 1)

    bounded = request_times.added([times])

    assert set(bounded) == {("a10g", "")}
    assert sum(bounded["a10g", ""].values()) == MOST + 1
    assert request_times.added([request_times.from_json(request_times.as_json(bounded))]) == bounded


@pytest.mark.parametrize("document", [None, 7, [1], [{"slots": 3}], [{"slots": {"x": 1, "999": 2, "-1": 1}}]])
def test_what_makes_no_sense_is_passed_over(document: Any) -> None:
    """Entries that another program wrote harm nobody."""
    assert sum(map(len, request_times.from_json(document).values())) == 0


def test_the_command_proposes(tmp_path: Any) -> None:
    """`windows --suggest` tells of this machine's callers; where none asked it says so; `--url` alone is refused."""
    shell = Shell(tmp_path)
    assert "no caller has asked a tier of the fleet since then" in shell.run("windows", "--suggest").stderr
    recorder = UsageRecorder(home_of(shell.environ).facts(), SystemClock(), "gateway")
    recorder.add(Use(SystemClock().now(), "llama3.2:latest", "anna", "a10g", "success", seconds=9))
    recorder.flush()

    told = shell.run("windows", "--suggest").stdout
    [each] = shell.ask("windows", "--suggest")

    assert told == "a10g: 0 days are recorded; habits show after 14\n"
    assert each["without"]["cold_starts"] == 1
    assert "needs --suggest" in shell.run("windows", "--url", "http://127.0.0.1:1").stderr


def test_what_is_archived_is_told_on_this_machine(tmp_path: Any) -> None:
    """`cold` and `cost` tell a cold start that has left the ledger for the archive."""
    shell = Shell(tmp_path)
    start = ColdStart("a10g", "ta-1", 0, "start", SystemClock().now() - timedelta(days=6), seconds={"engine": 32.0})
    archive_at(home_of(shell.environ).root).append(COLD, [{"key": start.key, "fact": start.as_json()}])

    assert [each["seconds"] for each in shell.ask("cold")] == [{"engine": 32.0}]
    assert [each["starts"] for each in shell.ask("cost")["cold"]] == [1]
