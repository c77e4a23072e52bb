"""A batch from its post to its results, against a gateway that answers as a test says."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.batches.records import LineCounts
from jobs.ledger.job import JobState
from tests.support.batch_files import line
from tests.support.batch_runs import GOOD, Gateway, Said, failed, ids, not_now, runs
from tests.support.stores import Store
from tests.support.waiting import until


def test_each_line_is_answered_once(live_store: Store, tmp_path: Path) -> None:
    """All lines have one result each, in the order of the input; the job has done its work, and the pass is gone."""
    with runs(live_store, tmp_path) as (at, gateway):
        record = at.post(100)
        batch = at.run(record)
        assert (batch.status, batch.counts.completed, batch.counts.failed) == ("completed", 100, 0)
        found = at.output(batch)
        assert ids(found) == [f"id-{n}" for n in range(1, 101)]
        assert found[6]["response"]["body"]["choices"][0]["message"]["content"] == "you said line 7"
        assert at.errors(batch) == []
        assert sorted(gateway.came) == list(range(1, 101))
        assert (batch.use.prompt_tokens, batch.use.output_tokens) == (300, 400)
        job = live_store.ledger().reader.latest("batch", record.id)
        until(lambda: live_store.ledger().reader.get(job.id).state is JobState.SUCCEEDED)  # type: ignore[union-attr]
        assert live_store.facts.get(f"batch_pass/{record.id}") is None


def test_no_more_lines_are_under_way_than_there_is_room(live_store: Store, tmp_path: Path) -> None:
    """At most the room that the gateway tells of, and two."""

    def says(number: int, _: int) -> Said:
        if number > 20:
            until(lambda: gateway.most_beside >= 5)
        return GOOD

    gateway = Gateway(says, room=3)
    with runs(live_store, tmp_path, gateway) as (at, _):
        at.run(at.post(60))
        assert gateway.most_beside == 5


def test_what_fails_now_and_then_is_tried_again(live_store: Store, tmp_path: Path) -> None:
    """A 500, a cut and a 429 in its turn: each line has its answer in the end, and none is an error."""

    def says(number: int, times: int) -> Said:
        if times > 1:
            return GOOD
        match number % 4:
            case 1:
                return failed(500)
            case 2:
                return Said(cut=True)
            case 3:
                return failed(429, "slower", "Retry-After: 0.05")
        return GOOD

    with runs(live_store, tmp_path, Gateway(says)) as (at, _):
        batch = at.run(at.post(12))
        assert (batch.status, batch.counts.completed) == ("completed", 12)


def test_what_fails_for_good_is_an_error_with_its_reason(live_store: Store, tmp_path: Path) -> None:
    """Five tries of a 500 and of a cut; one of a 400: the other lines have their answers."""

    def says(number: int, _: int) -> Said:
        return {2: failed(500, "the GPU fell off"), 3: failed(400, "no such option"), 4: Said(cut=True)}.get(
            number, GOOD
        )

    with runs(live_store, tmp_path, Gateway(says)) as (at, gateway):
        batch = at.run(at.post(6))
        assert (batch.status, batch.counts.completed, batch.counts.failed) == ("completed", 3, 3)
        assert ids(at.output(batch)) == ["id-1", "id-5", "id-6"]
        errors = at.errors(batch)
        assert ids(errors) == ["id-2", "id-3", "id-4"]
        assert [each["response"] and each["response"]["status_code"] for each in errors] == [500, 400, None]
        assert errors[0]["response"]["body"]["error"]["message"] == "the GPU fell off"
        assert errors[2]["error"]["code"] == "request_failed"
        assert [gateway.times(n) for n in (2, 3, 4)] == [5, 1, 5]


def test_a_line_that_is_sent_back_counts_no_try(live_store: Store, tmp_path: Path) -> None:
    """A tier that has no room says so ten times, and the line is answered the eleventh."""

    def says(number: int, times: int) -> Said:
        return not_now() if number == 2 and times <= 10 else GOOD

    with runs(live_store, tmp_path, Gateway(says)) as (at, gateway):
        batch = at.run(at.post(3))
        assert (batch.status, batch.counts.completed, gateway.times(2)) == ("completed", 3, 11)


def test_a_bad_line_ends_it_before_one_runs(live_store: Store, tmp_path: Path) -> None:
    """It is told which line, and why; nothing was sent."""
    lines = [line(n) for n in range(1, 11)]
    lines[6] = line(7, url="/v1/embeddings")
    lines[8] = line(9, body={"model": "gone", "messages": []})
    with runs(live_store, tmp_path) as (at, gateway):
        batch = at.run(at.post(lines))
        assert batch.status == "failed"
        assert [(each.code, each.line) for each in batch.errors] == [("invalid_url", 7), ("model_not_found", 9)]
        assert (gateway.came, at.output(batch), at.errors(batch)) == ([], [], [])


@pytest.mark.parametrize(
    ("says", "code"),
    [
        (failed(429, "the month is over", "x-batch-line: spent"), "budget_spent"),
        (failed(401, "no key", "x-batch-line: refused"), "key_revoked"),
    ],
)
def test_what_ends_it_early_keeps_what_is_done(live_store: Store, tmp_path: Path, says: Said, code: str) -> None:
    """A budget that is spent, a key that is revoked: what was answered can be read, the others say why not."""
    with runs(live_store, tmp_path, Gateway(lambda n, _: says if n > 20 else GOOD)) as (at, gateway):
        batch = at.run(at.post(50))
        assert (batch.status, [each.code for each in batch.errors]) == ("failed", [code])
        assert ids(at.output(batch)) == [f"id-{n}" for n in range(1, 21)]
        errors = at.errors(batch)
        assert ids(errors) == [f"id-{n}" for n in range(21, 51)]
        assert {each["error"]["code"] for each in errors} == {code}
        assert batch.counts.failed == 30
        assert len(set(gateway.passes)) == (2 if code == "key_revoked" else 1)


def test_a_model_that_vanishes_ends_it(live_store: Store, tmp_path: Path) -> None:
    """A 404 of a model that is here no more ends it; one of a model that is still here is that line's error."""
    lines = [line(n) for n in range(1, 11)]

    def says(number: int, _: int) -> Said:
        return failed(404, "model 'm' not found") if number == 5 else GOOD

    with runs(live_store, tmp_path, Gateway(says)) as (at, _):
        batch = at.run(at.post(lines))
        assert (batch.status, ids(at.errors(batch))) == ("completed", ["id-5"])

    calls: list[str] = []

    def vanishes(model: str) -> object:
        from jobs.batches.running.batch_context import ModelRoute  # noqa: PLC0415
        from jobs.core.errors import NotFound  # noqa: PLC0415

        calls.append(model)
        if len(calls) > 2:
            raise NotFound("it was deleted")
        return ModelRoute(model, "a10g")

    with runs(live_store, tmp_path, Gateway(says, room=1), route=vanishes) as (at, _):
        batch = at.run(at.post(lines))
        assert (batch.status, batch.errors[0].code) == ("failed", "model_not_found")
        assert "id-5" in ids(at.errors(batch))
        assert {"id-1", "id-2"} <= set(ids(at.output(batch)))


def test_a_cancel_keeps_what_is_done(live_store: Store, tmp_path: Path) -> None:
    """Lines that were answered can be read; the others were cancelled; and so was the job."""
    with runs(live_store, tmp_path, Gateway(lambda n, _: not_now(60) if n > 10 else GOOD, room=1)) as (at, _):
        record = at.post(30)
        with at.working():
            until(lambda: at.batches.get(record.id).counts.completed == 10)
            assert at.batches.cancel(record.id, by="test").status == "cancelling"
            batch = at.ended(record)
            until(lambda: live_store.ledger().reader.latest("batch", record.id).has_ended)  # type: ignore[union-attr]
        assert batch.status == "cancelled"
        assert ids(at.output(batch)) == [f"id-{n}" for n in range(1, 11)]
        assert {each["error"]["code"] for each in at.errors(batch)} == {"batch_cancelled"}
        job = live_store.ledger().reader.latest("batch", record.id)
        assert job is not None
        assert job.state is JobState.CANCELLED


def test_a_batch_is_over_at_its_deadline(live_store: Store, tmp_path: Path) -> None:
    """What is not done by then is not done, and says so."""
    with runs(live_store, tmp_path, Gateway(lambda n, _: not_now(60) if n > 10 else GOOD, room=1)) as (at, _):
        batch = at.run(at.post(12, expires_in=timedelta(seconds=2)))
        assert (batch.status, batch.counts) == ("expired", LineCounts(12, 10, 0))
        assert ids(at.output(batch)) == [f"id-{n}" for n in range(1, 11)]
        assert [(each["custom_id"], each["error"]["code"]) for each in at.errors(batch)] == [
            ("id-11", "batch_expired"),
            ("id-12", "batch_expired"),
        ]


def message(number: int, model: str = "m") -> dict[str, Any]:
    return {"custom_id": f"id-{number}", "params": {"model": model, "max_tokens": 5, "messages": []}}


def test_each_message_has_a_result_though_none_was_sent(live_store: Store, tmp_path: Path) -> None:
    """Anthropic's clients look for the result of each request: what is wrong with one stands in its own, and others
    say why they were not run."""
    asks = {"dialect": "anthropic", "endpoint": "/v1/messages"}
    with runs(live_store, tmp_path) as (at, gateway):
        batch = at.run(at.post([message(1), message(2, "gone"), message(3)], **asks))
        assert (batch.status, batch.counts, gateway.came) == ("failed", LineCounts(3), [])
        assert [each.line for each in batch.errors] == [2]
        found = at.output(batch)
        assert ids(found) == ["id-1", "id-2", "id-3"]
        said = [each["result"]["error"]["error"] for each in found]
        assert {each["type"] for each in said} == {"invalid_request_error"}
        assert said[1]["message"].startswith("there is no model 'gone'")
        assert [said[n]["message"].partition(":")[0] for n in (0, 2)] == ["it was not run"] * 2
        assert all("of line 2: there is no model 'gone'" in said[n]["message"] for n in (0, 2))

        late = at.run(at.post([message(1), message(2)], **asks, expires_in=timedelta(0)))
        cancelled = at.post([message(1), message(2)], **asks)
        at.batches.cancel(cancelled.id, by="test")
        for ended, status, told in ((late, "expired", "expired"), (at.run(cancelled), "cancelled", "canceled")):
            assert (ended.status, ended.counts, at.output(ended)) == (
                status,
                LineCounts(2),
                [{"custom_id": f"id-{n}", "result": {"type": told}} for n in (1, 2)],
            )


def test_a_worker_that_stops_hands_it_back(live_store: Store, tmp_path: Path) -> None:
    """Lines under way end, their results are kept, and another worker goes on with the others alone."""
    with runs(live_store, tmp_path, Gateway(room=2)) as (at, gateway):
        record = at.post(300)
        with at.working():
            until(lambda: len(gateway.came) > 50)
        before = len(gateway.came)
        assert before < 300
        batch = at.run(record)
        assert (batch.status, batch.counts.completed) == ("completed", 300)
        assert sorted(gateway.came) == list(range(1, 301))


def test_lines_wait_for_a_gateway_that_is_not_there(live_store: Store, tmp_path: Path) -> None:
    """It is told, no try is counted, and they go on when it is back."""
    from tests.support.scripted_server import ScriptedServer  # noqa: PLC0415

    with runs(live_store, tmp_path) as (at, gateway):
        pass  # and closed: its port answers nobody
    port = int(at.context.gateway.rpartition(":")[2])
    record = at.post(10)
    with at.working():
        until(lambda: "the gateway is not there" in at.batches.get(record.id).note)
        with ScriptedServer(gateway, port):
            assert at.ended(record).counts.completed == 10


def test_lines_of_one_model_go_before_those_of_the_next(live_store: Store, tmp_path: Path) -> None:
    """Models do not push each other out of memory; results stand in the order of the file all the same."""
    lines = [line(n, body={"model": "ab"[n % 2], "messages": [{"content": f"line {n}"}]}) for n in range(1, 41)]
    with runs(live_store, tmp_path, Gateway(room=1)) as (at, gateway):
        batch = at.run(at.post(lines))
        assert ids(at.output(batch)) == [f"id-{n}" for n in range(1, 41)]
        assert {n % 2 for n in gateway.came[:18]} == {1}
        assert {n % 2 for n in gateway.came[22:]} == {0}


def test_messages_of_anthropic_have_one_file(live_store: Store, tmp_path: Path) -> None:
    """Good and bad, as their clients read them."""

    def says(number: int, _: int) -> Said:
        return failed(400, "no") if number == 2 else Said(body={"type": "message", "usage": {"input_tokens": 2}})

    lines = [{"custom_id": f"id-{n}", "params": {"model": "m", "max_tokens": 5, "messages": []}} for n in (1, 2)]
    with runs(live_store, tmp_path, Gateway(says)) as (at, _):
        batch = at.run(at.post(lines, dialect="anthropic", endpoint="/v1/messages"))
        good, bad = at.output(batch)
        assert (good["custom_id"], good["result"]["type"]) == ("id-1", "succeeded")
        assert (bad["custom_id"], bad["result"]["type"], at.errors(batch)) == ("id-2", "errored", [])
        assert (batch.counts.completed, batch.counts.failed) == (1, 1)


def test_an_attempt_that_is_given_up_doubles_no_result(live_store: Store, tmp_path: Path) -> None:
    """A sweep gives it up while its lines are under way: it stops, and another one goes on; only what was under way is
    asked again."""
    with runs(live_store, tmp_path, Gateway(room=3)) as (at, gateway):
        record = at.post(200)
        with at.working():
            until(lambda: len(gateway.came) > 50)
            assert live_store.ledger().sweep(no_worker_lives={"batches"}).lost
            batch = at.ended(record)
        assert (batch.status, batch.counts.completed) == ("completed", 200)
        assert ids(at.output(batch)) == [f"id-{n}" for n in range(1, 201)]
        job = live_store.ledger().reader.latest("batch", record.id)
        assert job is not None
        assert job.attempts[0].outcome == "lost"
