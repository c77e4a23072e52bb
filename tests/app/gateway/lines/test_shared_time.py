"""What a line used of its tier's servers: each second of theirs belongs in equal parts to what they answer in it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.gateway.inference.proxy import taken_by
from app.gateway.inference.request_log import RequestRecord
from app.gateway.lines.line_gate import LineGate, Turn
from jobs.testing.clock import HandClock
from tests.app.gateway.lines.test_line_gate import Tier, gate_of, turn


def begun(gate: LineGate, count: int) -> list[Turn]:
    """So many lines in flight."""
    lines = [turn() for _ in range(count)]
    for each in lines:
        gate.come(each)
    assert all(each.began.is_set() for each in lines)
    return lines


def test_lines_beside_one_another_share_each_second() -> None:
    """Two lines have half of it each; one that is left alone has all of it, and what has ended has no more."""
    clock = HandClock()
    gate = gate_of(Tier(), clock)
    first, second = begun(gate, 2)
    clock.tick(10)
    gate.leave(first)
    clock.tick(3)
    gate.leave(second)
    clock.tick(100)
    gate.share()
    assert (first.shared_seconds, second.shared_seconds) == (5.0, 8.0)


def test_people_have_their_part() -> None:
    """Beside a person who is answered a line has half; beside one who waits for a start, all of it."""
    clock = HandClock()
    tier = Tier()
    gate = gate_of(tier, clock)
    [line] = begun(gate, 1)
    gate.people += 1
    clock.tick(10)
    gate.share()
    assert line.shared_seconds == 5.0
    tier.people_held = 1
    clock.tick(10)
    gate.share()
    assert line.shared_seconds == 15.0


def test_a_line_that_waits_for_a_start_uses_nothing() -> None:
    """For as long as a server starts or loads, nobody has any of it."""
    clock = HandClock()
    gate = gate_of(Tier(), clock)
    line, other = begun(gate, 2)
    for each in (line, other):
        gate.hold(each, is_held=True)
    clock.tick(60)
    gate.hold(line, is_held=False)
    clock.tick(4)
    gate.hold(other, is_held=False)
    clock.tick(2)
    gate.share()
    assert (line.shared_seconds, other.shared_seconds) == (5.0, 1.0)


def test_a_line_that_is_cut_has_what_it_had() -> None:
    """One that gives way has its part until then; what comes after is the others'."""
    clock = HandClock()
    gate = gate_of(Tier(), clock)
    *others, last = begun(gate, 3)
    clock.tick(9)
    gate.people += 2
    gate.person_came("m", 4, 4)
    clock.tick(9)
    gate.share()
    assert last not in gate.lines
    assert last.shared_seconds == pytest.approx(9 / 5)  # the people are seen from when they are counted
    assert sum(each.shared_seconds for each in others) == pytest.approx(2 * (9 / 5 + 9 / 4))


@settings(max_examples=50, derandomize=True, database=None, deadline=None)
@given(st.integers(1, 4), st.lists(st.floats(0.001, 100), min_size=1, max_size=12))
def test_lines_never_use_more_than_there_is(servers: int, waits: list[float]) -> None:
    """However lines come and go, what they used is at most the time of the servers, and all of it while nobody else is
    there and every server has one."""
    clock = HandClock()
    gate = gate_of(Tier(servers), clock)
    lines, total, full = [], 0.0, 0.0
    for number, seconds in enumerate(waits):
        if number % 3 < 2:
            lines.append(come(gate))
        elif gate.lines:
            gate.leave(next(iter(gate.lines)))
        busy = min(servers, len(gate.lines))
        clock.tick(seconds)
        total, full = total + servers * seconds, full + busy * seconds
    gate.share()
    used = sum(each.shared_seconds for each in lines)
    assert used == pytest.approx(full)
    assert used <= total * (1 + 1e-9)


def come(gate: LineGate) -> Turn:
    line = turn()
    gate.come(line)
    return line


def test_a_key_takes_what_its_lines_used() -> None:
    """Of a line its part counts in the budgets of its key, apart from people's requests and without its wait."""
    record = RequestRecord(
        request_id="r",
        at=HandClock().now(),
        key="ann",
        model="m:latest",
        tier="a10g",
        route="/v1/chat/completions",
        dialect="openai",
        ending="success",
        status=200,
        prompt_tokens=10,
        output_tokens=5,
        first_byte_seconds=1.0,
        seconds=70.0,
        held_seconds=60.0,
        woke=True,
        batch="batch_1",
        shared_seconds=2.5,
    )
    taken = taken_by(record, {"a10g": 300.0}, is_asked=True)
    assert (taken.seconds, taken.held, taken.lines) == ({}, {}, {"a10g": 2.5})
    assert (taken.cold, taken.idle, taken.tokens) == ({"a10g": 60.0}, {"a10g": 300.0}, 15)
