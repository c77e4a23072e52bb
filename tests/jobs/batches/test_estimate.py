"""What a batch will take is told before it runs: from what was measured, else from usage, else as a guess."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.batches.estimate import (
    DollarLimit,
    PricedTier,
    ServedLines,
    estimate,
    model_estimate,
    served,
    too_dear,
)
from jobs.batches.records import BatchUse, Estimate
from jobs.batches.speed import LineTook, Speed, added, known_speeds, learn, length, made_within
from jobs.core.errors import NotFound
from jobs.store import keys
from jobs.telemetry.usage import About, Row, Sums
from tests.support.failing_stores import MemoryDict

NOW = datetime(2026, 10, 5, 22, tzinfo=UTC)
A10G = PricedTier(dollars_per_second=0.0004, beside=4)
TIERS = {"a10g": A10G, "h100": PricedTier(dollars_per_second=0.0012, beside=8)}
FEW = settings(max_examples=60, derandomize=True, database=None, deadline=None)


@dataclass(frozen=True)
class Server:
    """One that takes so long for a line, a token that it reads and one that it makes, and four lines beside another."""

    line: float = 0.1
    read: float = 0.001
    made: float = 0.02
    beside: float = 4.0
    overhead: int = 18
    bytes_of_token: float = 4.2

    def took(self, size: int, answer: int, limit: int | None) -> LineTook:
        read = round(self.overhead + size / self.bytes_of_token)
        made = answer if limit is None else min(answer, limit)
        return LineTook(size, read, made, self.line + self.read * read + self.made * made, limit)

    def speed(self, lines: Iterable[LineTook]) -> Speed:
        total = added(map(Speed.of, lines))
        return replace(total, gpu_seconds=total.seconds / self.beside)


def lines_of(seed: int, count: int, size: int, answer: float, limit: int | None) -> list[tuple[int, int, int | None]]:
    """Lines about so long, whose answers would be about so long."""
    dice = random.Random(seed)
    return [
        (max(1, round(dice.gauss(size, size / 5))), max(1, round(dice.expovariate(1 / answer))), limit)
        for _ in range(count)
    ]


def counted(lines: Iterable[tuple[int, int, int | None]], model: str = "m", tier: str = "a10g") -> ServedLines:
    known = list(lines)
    limits = [limit for _, _, limit in known if limit is not None]
    return ServedLines(model, tier, len(known), sum(size for size, _, _ in known), len(limits), sum(limits))


def usage_row(model: str, seconds: float, *, made: int = 200, count: int = 10, **about: Any) -> Row:
    named = {"day": "2026-10-04", "model": model, "key": "ann", "tier": "a10g", "ending": "success", **about}
    return Row(About(**named), Sums(count, 100 * count, made * count, count, 1.0, seconds, NOW))


# -- by what is known --------------------------------------------------------------------------------------------------


def test_what_was_measured_comes_first() -> None:
    """What finished batches measured is told as measured; else people's requests are, and else a guess says why."""
    lines = counted(lines_of(1, 100, 400, 200, None))
    server = Server()
    speeds = {("a10g", "m"): server.speed(server.took(*each) for each in lines_of(2, 100, 400, 200, None))}
    rows = [usage_row("m", 40.0)]

    bases = [
        estimate([lines], TIERS, known, used, NOW)
        for known, used in ((speeds, rows), ({}, rows), ({}, [usage_row("other", 9.0)]))
    ]

    assert [each.basis for each in bases] == ["measured", "usage", "guess"]
    assert bases[1].reason == "by 10 requests of people to m on a10g: no batch has measured it yet"
    assert bases[2].reason == "nothing was asked of m on a10g yet: it is taken to be as fast as is usual"
    assert all(each.use.gpu_seconds > 0 for each in bases)


def test_usage_is_that_of_people_who_were_answered() -> None:
    """Requests that broke off, those to another tier, and lines of batches say nothing of how people are served."""
    lines = counted([(400, 0, None)])
    others = [
        usage_row("m", 9000.0, ending="upstream_cut"),
        usage_row("m", 9000.0, tier="h100"),
        usage_row("m", 9000.0, batch="batch_1"),
        usage_row("n", 9000.0),
    ]

    assert model_estimate(lines, A10G, {}, others).basis == "guess"
    assert model_estimate(lines, A10G, {}, [*others, usage_row("m", 40.0)]) == model_estimate(
        lines, A10G, {}, [usage_row("m", 40.0)]
    )


def test_a_guess_of_one_model_makes_a_guess_of_the_whole() -> None:
    """A batch is told as the least sure of its models is, with the reason of that one."""
    server = Server()
    speeds = {("a10g", "m"): server.speed([server.took(400, 100, None)])}
    found = estimate([counted([(9, 9, None)]), counted([(9, 9, None)], "n")], TIERS, speeds, [], NOW)
    assert found.basis == "guess"
    assert "n on a10g" in found.reason
    assert "m on a10g" not in found.reason


SHAPES = {
    "short": (60, 40.0, None),
    "long prompts": (6000, 40.0, None),
    "long answers": (300, 600.0, None),
    "limited": (300, 600.0, 128),
    "hardly limited": (300, 100.0, 1000),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_again_is_told_nearly_right(shape: str) -> None:
    """Once a batch was measured, another one like it is told within 5 % of its tokens, its time and its price."""
    server, like = Server(), SHAPES[shape]
    speeds = {("a10g", "m"): server.speed(server.took(*each) for each in lines_of(1, 800, *like))}
    coming = lines_of(2, 800, *like)
    really = server.speed(server.took(*each) for each in coming)

    told = estimate([counted(coming)], TIERS, speeds, [], NOW).use

    assert told.prompt_tokens == pytest.approx(really.read, rel=0.02)
    assert told.output_tokens == pytest.approx(really.made, rel=0.08)
    assert told.gpu_seconds == pytest.approx(really.gpu_seconds, rel=0.08)
    assert told.dollars == pytest.approx(really.gpu_seconds * 0.0004, rel=0.08)


def test_other_shapes_follow_from_mixed_lines() -> None:
    """Lines of many lengths tell what a line, a token that is read and one that is made take: what is quite unlike them
    is told within 10 %."""
    server = Server()
    mixed = [each for n, like in enumerate(SHAPES.values()) for each in lines_of(n, 300, *like)]
    speeds = {("a10g", "m"): server.speed(server.took(*each) for each in mixed)}

    for size, answers, limit in ((10, 5, 5), (20_000, 64, 64), (500, 900, 900)):
        coming = [(size, answers, limit)] * 100
        really = server.speed(server.took(*each) for each in coming)
        of_tokens = speeds["a10g", "m"].seconds_of(100, really.read, really.made) / 4
        assert of_tokens == pytest.approx(really.gpu_seconds, rel=0.1), (size, answers)
        assert speeds["a10g", "m"].read_of(100, 100 * size) == pytest.approx(really.read, rel=0.1), size


def test_lines_that_are_all_alike_tell_nothing_wrong_of_others() -> None:
    """Where nothing tells a line from its tokens, twice the tokens take more, and at most twice as long."""
    server = Server()
    speed = server.speed([server.took(400, 100, 100)] * 50)
    once, twice = (speed.seconds_of(10, 10 * 113 * n, 1000 * n) for n in (1, 2))
    assert once == pytest.approx(10 * server.took(400, 100, 100).seconds, rel=0.01)
    assert once < twice <= 2 * once


def test_answers_follow_from_their_limits() -> None:
    """Half of a limit that is made tells how long answers are; they fill a small one, and never exceed a large one."""
    of_length = length(200, 0.5)
    assert made_within(of_length, 10, 2000) == pytest.approx(1000)
    assert made_within(of_length, 10, 10) == pytest.approx(10, rel=0.05)
    assert made_within(of_length, 10, 10**6) == pytest.approx(10 * of_length, rel=0.01)
    assert made_within(length(16, 1.0), 1, 16) == pytest.approx(16, rel=0.03)


def test_embeddings_make_no_tokens() -> None:
    """Lines of embeddings are told by what they read; that others of the model make tokens is nothing to them."""
    server = Server()
    speeds = {("a10g", "m"): server.speed([LineTook(400, 110, 0, 0.2)] * 50)}
    lines = replace(counted([(400, 0, None)] * 1000), makes_tokens=False)
    told = estimate([lines], TIERS, speeds, [], NOW).use
    assert told.output_tokens == 0
    assert told.gpu_seconds == pytest.approx(1000 * 0.2 / 4, rel=0.01)
    assert estimate([lines], TIERS, {}, [], NOW).use.output_tokens == 0


def test_answers_that_fill_their_limit_tell_little_of_others() -> None:
    """Where all that was measured was cut by its limit, answers without one are taken to be as long as is usual, or as
    the limit."""
    server = Server()
    for limit, longest in ((16, 400), (2000, 2000)):
        speed = server.speed([server.took(400, 10**6, limit)] * 50)
        assert speed.made_of(0, 0, 1) == pytest.approx(longest)


def test_answers_that_are_alike_fill_their_limit_longer() -> None:
    """Answers whose lengths hardly differ are cut by a limit below their length alone, and never by one above it."""
    spread, alike = (made_within(100, 1, 100, each) for each in (1, 16))
    assert spread == pytest.approx(63.2, abs=0.1)
    assert alike == pytest.approx(90, abs=1)
    assert made_within(100, 1, 50, 16) == pytest.approx(50, rel=0.01)
    assert made_within(length(200, 0.45, 8), 10, 2000, 8) == pytest.approx(900)


# -- when, and for how much --------------------------------------------------------------------------------------------


def test_wakes_and_idle_time_are_named_apart() -> None:
    """The price of a start and of the time after the last line stand beside the price of the lines."""
    tiers = {"a10g": replace(A10G, start_seconds=60, idle_seconds=300)}
    told = estimate([counted(lines_of(1, 100, 400, 200, None))], tiers, {}, [], NOW)
    assert told.use.dollars == pytest.approx(told.use.gpu_seconds * 0.0004)
    assert told.wake_dollars == pytest.approx(0.024)
    assert told.idle_dollars == pytest.approx(0.12)
    assert told.extra_dollars == pytest.approx(0.144)
    assert told.dollars == pytest.approx((told.use.dollars or 0) + 0.144)
    assert told.done_at == NOW + timedelta(seconds=told.seconds + 60)
    assert "a wake $0.02, idle $0.12" in told.price
    assert Estimate.from_json(told.as_json()).as_json() == told.as_json()


def test_nothing_is_paid_on_ones_own_machine() -> None:
    """Where no tier has a price, none is told; tokens and time are."""
    told = estimate([counted(lines_of(1, 100, 400, 200, None))], {}, {}, [], NOW)
    assert (told.dollars, told.use.dollars, told.extra_dollars) == (None, None, None)
    assert told.price == "nothing: nothing here is paid by the second"
    assert told.seconds > 0
    assert too_dear(0.01, told) is None
    assert not DollarLimit(0.01)(told.use)


def test_tiers_work_beside_one_another() -> None:
    """Models of one tier take turns, those of two do not wait for each other; each server more halves the time."""
    lines = counted(lines_of(1, 100, 400, 200, None))
    alone = estimate([lines], TIERS, {}, [], NOW)
    two = estimate([lines, replace(lines, model="n")], TIERS, {}, [], NOW)
    apart = estimate([lines, replace(lines, tier="h100")], TIERS, {}, [], NOW)
    servers = estimate([lines], {"a10g": replace(A10G, servers=2)}, {}, [], NOW)
    assert two.seconds == pytest.approx(2 * alone.seconds)
    assert apart.seconds == pytest.approx(alone.seconds)
    assert servers.seconds == pytest.approx(alone.seconds / 2)


def test_what_costs_too_much_is_refused_with_its_price() -> None:
    """A batch above its `max_dollars` is refused in words that say what it costs, and that a guess is one."""
    lines = counted(lines_of(1, 10_000, 400, 200, None))
    told = estimate([lines], {"a10g": replace(A10G, start_seconds=60)}, {}, [], NOW)
    refusal = too_dear(0.01, told)
    assert refusal is not None
    assert (refusal.code, refusal.param) == ("max_dollars_exceeded", "max_dollars")
    assert told.price in refusal.message
    assert "max_dollars is $0.01; raise it, or post fewer lines (nothing was asked of m on a10g yet" in refusal.message
    assert too_dear((told.dollars or 0) + 0.01, told) is None
    assert too_dear(None, told) is None


def test_a_batch_ends_when_its_dollars_are_spent() -> None:
    """While it runs, the price of its lines and of its wake counts; then it ends with `budget_spent`, in words."""
    limit = DollarLimit(1.0, extra_dollars=0.25)
    assert not limit(BatchUse(dollars=0.74))
    assert limit(BatchUse(dollars=0.75))
    assert not DollarLimit(None)(BatchUse(dollars=99.0))
    error = limit.error(BatchUse(dollars=0.75))
    assert error.code == "budget_spent"
    assert error.message.startswith("it has cost about $1.00, and max_dollars is $1.00; what is done is kept")


# -- whatever the numbers ----------------------------------------------------------------------------------------------

sizes = st.integers(0, 10**7)
takes = st.builds(
    LineTook,
    prompt_bytes=st.integers(0, 10**6),
    prompt_tokens=st.integers(0, 10**5),
    output_tokens=st.integers(0, 10**4),
    seconds=st.floats(0, 1000),
    max_tokens=st.none() | st.integers(1, 10**5),
)
measured = (
    st.lists(takes.map(Speed.of), max_size=12)
    .map(added)
    .flatmap(lambda sums: st.floats(0.1, 1).map(lambda part: sums + Speed(gpu_seconds=sums.seconds * part)))
)
served_lines = st.builds(
    ServedLines,
    model=st.sampled_from(["m", "n"]),
    tier=st.sampled_from(["a10g", "h100", "other"]),
    lines=st.integers(1, 10**6),
    prompt_bytes=sizes,
    limited=st.just(0),
    asked=st.just(0),
) | st.integers(1, 10**6).flatmap(
    lambda lines: st.builds(
        ServedLines,
        model=st.just("m"),
        tier=st.just("a10g"),
        lines=st.just(lines),
        prompt_bytes=sizes,
        limited=st.integers(0, lines),
        asked=sizes,
    )
)
AMOUNTS = ("prompt_tokens", "output_tokens", "line_seconds", "gpu_seconds", "dollars")


@FEW
@given(served_lines, measured, sizes, sizes)
def test_more_never_takes_less(lines: ServedLines, speed: Speed, more_bytes: int, more_tokens: int) -> None:
    """With more lines, more bytes, or larger limits no amount of an estimate is smaller, whatever was measured."""
    larger = [
        replace(lines, lines=lines.lines * 2),
        replace(lines, prompt_bytes=lines.prompt_bytes + more_bytes),
        replace(lines, asked=lines.asked + more_tokens) if lines.limited else lines,
        replace(lines, lines=lines.lines + 3, limited=lines.limited + 3, asked=lines.asked + 30),
    ]
    for speeds in ({(lines.tier, lines.model): speed}, {}):
        less = estimate([lines], TIERS, speeds, [], NOW)
        for each in larger:
            more = estimate([each], TIERS, speeds, [], NOW)
            assert more.done_at >= less.done_at
            for name in AMOUNTS:
                one, other = getattr(less.use, name), getattr(more.use, name)
                assert (one is None and other is None) or other >= one * (1 - 1e-9), name


@FEW
@given(st.lists(served_lines, min_size=1, max_size=5), measured)
def test_an_estimate_adds_up_over_models(lines: list[ServedLines], speed: Speed) -> None:
    """What a batch takes is the sum of what the lines to each of its models take by themselves."""
    speeds = {("a10g", "m"): speed}
    whole = estimate(lines, TIERS, speeds, [], NOW)
    parts = [estimate([each], TIERS, speeds, [], NOW) for each in lines]
    for name in AMOUNTS:
        amounts = [getattr(each.use, name) or 0 for each in parts]
        assert (getattr(whole.use, name) or 0) == pytest.approx(sum(amounts)), name
    assert whole.seconds <= sum(each.seconds for each in parts) * (1 + 1e-9)
    assert whole.seconds >= max(each.seconds for each in parts) * (1 - 1e-9)


@FEW
@given(measured)
def test_a_speed_reads_the_same_after_it_was_stored(speed: Speed) -> None:
    """What is written down of a speed is read as it was; what makes no sense, as nothing."""
    again = Speed.from_json(speed.as_json(NOW))
    assert again.lines == speed.lines
    assert again.gpu_seconds == pytest.approx(speed.gpu_seconds, abs=1e-6)
    nonsense: Any
    for nonsense in (None, {}, {"lines": "many"}, {"lines": -3}, {"lines": float("nan")}, []):
        assert Speed.from_json(nonsense) == Speed()


# -- learning ----------------------------------------------------------------------------------------------------------


def test_a_changed_gpu_is_learnt_in_a_few_batches() -> None:
    """After a tier got a GPU that is three times as fast, the fourth batch is told within 10 %, whatever was before."""
    facts, slow, fast = MemoryDict(), Server(), Server(line=0.03, read=0.0003, made=0.007)
    for number in range(30):
        learn(
            facts, {("a10g", "m"): slow.speed(slow.took(*each) for each in lines_of(number, 1000, 400, 200, None))}, NOW
        )
    off = []
    for number in range(30, 36):
        coming = lines_of(number, 1000, 400, 200, None)
        told = estimate([counted(coming)], TIERS, known_speeds(dict(facts.items())), [], NOW).use.gpu_seconds
        really = fast.speed(fast.took(*each) for each in coming)
        off.append(told / really.gpu_seconds - 1)
        learn(facts, {("a10g", "m"): really}, NOW)
    assert off[0] > 1
    assert max(map(abs, off[3:])) < 0.1


def test_a_small_batch_moves_little() -> None:
    """One line that was slow for once changes what a thousand have measured by less than a hundredth."""
    facts, server = MemoryDict(), Server()
    learn(facts, {("a10g", "m"): server.speed(server.took(*each) for each in lines_of(1, 1000, 400, 200, None))}, NOW)
    before = known_speeds(dict(facts.items()))["a10g", "m"].seconds_of(100, 10_000, 20_000)
    learn(facts, {("a10g", "m"): server.speed([replace(server.took(400, 200, None), seconds=8.0)])}, NOW)
    assert known_speeds(dict(facts.items()))["a10g", "m"].seconds_of(100, 10_000, 20_000) == pytest.approx(
        before, rel=0.01
    )


def test_what_measured_nothing_is_not_written_down() -> None:
    """A batch of which no line was answered leaves what was known; a model's own slashes are part of its name."""
    facts, server = MemoryDict(), Server()
    learn(facts, {("a10g", "m"): Speed()}, NOW)
    assert known_speeds(dict(facts.items())) == {}
    name = "hf.co/user/repo:Q4"
    learn(facts, {("a10g", name): server.speed([server.took(400, 200, None)])}, NOW)
    assert [*known_speeds(dict(facts.items()))] == [("a10g", name)]
    assert facts.get(keys.batch_speed("a10g", name))["lines"] == 1


# -- as the read-through counts ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    model: str
    lines: int = 10
    prompt_bytes: int = 100
    max_tokens: int = 50
    unlimited: int = 5


def test_names_of_one_model_are_counted_as_one() -> None:
    """An alias and the model behind it are lines to one model; a model that is not here is told as such."""

    def where(model: str) -> tuple[str, str]:
        if model == "gone":
            raise NotFound("there is no model 'gone'")
        return "m:latest", "a10g"

    found = served([Counts("m"), Counts("alias")], where, "/v1/chat/completions")
    assert found == [ServedLines("m:latest", "a10g", 20, 200, 10, 100)]
    assert not served([Counts("m")], where, "/v1/embeddings")[0].makes_tokens
    with pytest.raises(NotFound):
        served([Counts("gone")], where, "/v1/embeddings")
