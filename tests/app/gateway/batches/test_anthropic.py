"""Batches of messages with Anthropic's own client, unmodified."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest

from jobs.access.keys.proofs import hash_of
from jobs.batches.limits import BatchLimits
from tests.support.batch_gateways import BatchGateway, batch_gateway, uploads
from tests.support.waiting import PATIENCE

ALICE, BOB, ROOT = "omk_alice", "omk_bob", "omk_root"
KEYS = f"alice {hash_of(ALICE)} chat\nbob {hash_of(BOB)} chat\nroot {hash_of(ROOT)} chat admin"

PARAMS: Any = {"model": "llama3.2", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "llama3.2",
    "content": [{"type": "text", "text": "Hä\u2028lo"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 5, "output_tokens": 7},
}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[BatchGateway]:
    with batch_gateway(tmp_path, keys=KEYS) as found:
        yield found


def post(asking: anthropic.Anthropic, count: int = 2, **more: Any) -> Any:
    requests: Any = [{"custom_id": f"r{n}", "params": PARAMS} for n in range(count)]
    return asking.messages.batches.create(requests=requests, **more)


def test_a_batch_from_its_post_to_its_results(served: BatchGateway) -> None:
    """The client posts a batch, sees it at work, and goes through its results, whole and as what they are."""
    asking = served.anthropic(ALICE)
    batch = post(asking, 4)
    assert (batch.type, batch.processing_status, batch.results_url, batch.ended_at) == (
        "message_batch", "in_progress", None, None,
    )  # fmt: skip
    assert batch.request_counts.model_dump() == counts(processing=4)
    assert (batch.expires_at - batch.created_at).total_seconds() == 24 * 3600
    assert served.sent == ["batches"]
    record = served.store.get(batch.id).record
    content = served.storage.read(record.input_file_id, 0, 10_000)
    assert [json.loads(line) for line in content.splitlines()] == [
        {"custom_id": f"r{n}", "params": PARAMS} for n in range(4)
    ]
    with pytest.raises(anthropic.AnthropicError, match="No `results_url`"):
        asking.messages.batches.results(batch.id)

    results = [
        {"custom_id": "r0", "result": {"type": "succeeded", "message": MESSAGE}},
        {"custom_id": "r1", "result": {"type": "errored", "error": {"type": "error", "error": {
            "type": "invalid_request_error", "message": "no"}}}},
        {"custom_id": "r2", "result": {"type": "canceled"}},
        {"custom_id": "r3", "result": {"type": "expired"}},
    ]  # fmt: skip
    served.end(batch.id, results=results)
    done = asking.messages.batches.retrieve(batch.id)
    assert done.processing_status == "ended"
    assert done.ended_at is not None
    assert done.results_url == f"/v1/messages/batches/{batch.id}/results"
    read = list(asking.messages.batches.results(batch.id))
    assert [(each.custom_id, each.result.type) for each in read] == [
        ("r0", "succeeded"), ("r1", "errored"), ("r2", "canceled"), ("r3", "expired"),
    ]  # fmt: skip
    assert read[0].result.type == "succeeded"
    assert read[0].result.message.to_dict() == MESSAGE
    assert done.request_counts.model_dump()["processing"] == 0


def counts(**more: int) -> dict[str, int]:
    return dict.fromkeys(("canceled", "errored", "expired", "processing", "succeeded"), 0) | more


def test_all_are_processing_until_all_have_ended(served: BatchGateway) -> None:
    """The counts always add up to the whole; those of a batch that was cancelled, or whose time was
    over, tell what was not run."""
    asking = served.anthropic(ALICE)
    batch = post(asking, 5)
    assert asking.messages.batches.retrieve(batch.id).request_counts.model_dump() == counts(processing=5)
    cancelling = asking.messages.batches.cancel(batch.id)
    assert cancelling.processing_status in {"canceling", "ended"}
    assert cancelling.cancel_initiated_at is not None
    served.end(batch.id, "cancelled", results=[{}, {}], failed=[{}], total=5)
    done = asking.messages.batches.retrieve(batch.id)
    assert done.request_counts.model_dump() == counts(succeeded=2, errored=1, canceled=2)
    assert done.cancel_initiated_at is not None
    batch = post(asking, 5)
    served.end(batch.id, "expired", results=[{}, {}], failed=[{}], total=5)
    done = asking.messages.batches.retrieve(batch.id)
    assert done.request_counts.model_dump() == counts(succeeded=2, errored=1, expired=2)


def test_batches_are_listed_in_pages(served: BatchGateway) -> None:
    """The client goes through all pages by itself, forwards and backwards, and finds each batch once."""
    asking = served.anthropic(ALICE)
    made = {post(asking, 1).id for _ in range(5)}
    listed = [each.id for each in asking.messages.batches.list(limit=2)]
    assert set(listed) == made
    assert len(listed) == 5
    page = asking.messages.batches.list(limit=2, after_id=listed[0])
    assert [each.id for each in page.data] == listed[1:3]
    assert (page.first_id, page.last_id, page.has_more) == (listed[1], listed[2], True)
    before = asking.messages.batches.list(limit=2, before_id=listed[4])
    assert [each.id for each in before.data] == listed[2:4]
    assert sorted(each.id for each in before) == sorted(listed[:4])
    for wrong in ({"limit": 0}, {"limit": 1001}, {"after_id": "a", "before_id": "b"}):
        with pytest.raises(anthropic.BadRequestError):
            asking.messages.batches.list(**wrong)


def test_a_batch_is_removed(served: BatchGateway) -> None:
    """A batch that has ended can be removed with its results and its requests; one at work cannot."""
    asking = served.anthropic(ALICE)
    batch = post(asking)
    with pytest.raises(anthropic.BadRequestError, match="cancel it first"):
        asking.messages.batches.delete(batch.id)
    served.end(batch.id, results=[{"custom_id": "r0"}])
    deleted = asking.messages.batches.delete(batch.id)
    assert (deleted.id, deleted.type) == (batch.id, "message_batch_deleted")
    for ask in (asking.messages.batches.retrieve, asking.messages.batches.delete, asking.messages.batches.cancel):
        with pytest.raises(anthropic.NotFoundError):
            ask(batch.id)
    assert served.storage.files() == []
    assert list(asking.messages.batches.list()) == []


def test_a_key_sees_its_own_alone(served: BatchGateway) -> None:
    """Another key's batch is not there; an admin may cancel and remove it, which is written down, but not read it."""
    asking, other, admin = (served.anthropic(key) for key in (ALICE, BOB, ROOT))
    batch = post(asking)
    own = other.messages.batches
    for ask in (own.retrieve, own.cancel, own.delete, own.results):
        with pytest.raises(anthropic.NotFoundError):
            ask(batch.id)
    assert list(own.list()) == list(admin.messages.batches.list()) == []
    admin.messages.batches.cancel(batch.id)
    served.end(batch.id, "cancelled", results=[{"custom_id": "r0"}])
    with pytest.raises(anthropic.NotFoundError):
        admin.messages.batches.results(batch.id)
    admin.messages.batches.delete(batch.id)
    served.running.composed._audit_thread.audit.write_rest()
    told = [fact for _, fact in sorted(served.running.facts.items("audit/"))]
    assert [(each["who"], each["act"], each["subject"]) for each in told] == [
        ("root", "cancel", batch.id),
        ("root", "batch-delete", batch.id),
    ]


def test_neither_dialect_finds_the_others(served: BatchGateway) -> None:
    """A batch of messages is no batch of OpenAI's routes, nor the other way round."""
    batch = post(served.anthropic(ALICE))
    headers = {"x-api-key": ALICE}
    assert httpx.get(f"{served.url}/v1/batches/{batch.id}", headers=headers, timeout=PATIENCE).status_code == 404
    assert httpx.get(f"{served.url}/v1/batches", headers=headers, timeout=PATIENCE).json()["data"] == []


def test_what_is_ours_is_taken_and_told(served: BatchGateway) -> None:
    """`start`, `max_dollars`, `by`, `completion_window` and `metadata` are taken beside the requests."""
    asking = served.anthropic(ALICE)
    more = {"start": "now", "max_dollars": 0.5, "completion_window": "7d", "metadata": {"night": "1"}}
    batch = post(asking, extra_body=more)
    assert (batch.expires_at - batch.created_at).total_seconds() == 7 * 24 * 3600
    assert (batch.start, batch.max_dollars, batch.metadata) == ("now", 0.5, {"night": "1"})
    assert post(asking, extra_body={"by": "07:00"}).expires_at.hour == 7


def test_a_post_with_the_same_name_is_one_batch(served: BatchGateway) -> None:
    """Who names his request by an `Idempotency-Key` and sends it again gets the batch that is there, with one file."""
    asking = served.anthropic(ALICE)
    first = post(asking, extra_headers={"idempotency-key": "once"})
    assert post(asking, extra_headers={"idempotency-key": "once"}).id == first.id
    assert [each.id for each in served.storage.files()] == [served.store.get(first.id).record.input_file_id]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON, or not whole"),
        (b"{}", "no list of `requests`"),
        (b'{"requests": []}', "is empty"),
        (b'{"requests": [{"custom_id": "a", "params": {}}', "not whole"),
        (b'{"requests": [{"custom_id": "a"}]}', "requests[0].params is no object"),
        (b'{"requests": [{"custom_id": 1, "params": {}}]}', "requests[0].custom_id is no text"),
        (b'{"requests": [{"custom_id": "", "params": {}}]}', "requests[0].custom_id is no text"),
        (b'{"requests": [{"custom_id": "' + b"a" * 513 + b'", "params": {}}]}', "requests[0].custom_id is no text"),
        (b'{"requests": [{"custom_id": "a", "params": {}}, {"custom_id": "a", "params": {}}]}', "of requests[0], too"),
        (b'{"requests": [{"custom_id": "a", "params": {"a": NaN}}]}', "requests[0] is no JSON"),
        (b'{"requests": [{"custom_id": "a", params: {}}]}', "requests[0] is no JSON"),
        (b'{"requests": [{"custom_id": "a", "params": {}}], "by": "soon"}', "like 07:00"),
        (b'{"requests": [{"custom_id": "a", "params": {"x": "' + b"x" * (5 << 20) + b'"}}]}', "has more than"),
        (b'{"requests": ' + b"[" * 5000, "no object"),
    ],
)  # fmt: skip
def test_what_is_no_batch_is_refused(served: BatchGateway, body: bytes, said: str) -> None:
    """What is wrong with the body is told in Anthropic's shape, with the place, and nothing of it stays."""
    headers = {"x-api-key": ALICE, "content-type": "application/json"}
    answer = httpx.post(f"{served.url}/v1/messages/batches", content=body, headers=headers, timeout=PATIENCE)
    assert answer.status_code in {400, 413}
    assert answer.json()["type"] == "error"
    assert said in answer.json()["error"]["message"]
    assert served.storage.files() == []
    assert not uploads(served.storage)
    assert served.sent == []


def test_requests_over_several_lines(served: BatchGateway) -> None:
    """A body that is set out over many lines makes one line of each request, and no text of it is changed."""
    request = {"custom_id": "ä\n", "params": {**PARAMS, "temperature": 1e-7, "big": 2**70, "empty": []}}
    body = json.dumps({"requests": [request]}, indent=2).replace("\n", "\r\n").encode()
    headers = {"x-api-key": ALICE}
    answer = httpx.post(f"{served.url}/v1/messages/batches", content=body, headers=headers, timeout=PATIENCE)
    record = served.store.get(answer.json()["id"]).record
    content = served.storage.read(record.input_file_id, 0, 10_000)
    assert content.count(b"\n") == 1
    assert json.loads(content) == request
    assert b"1e-07" in content


def test_there_are_no_more_requests_than_lines_may_be(tmp_path: Path) -> None:
    """A body of more requests than a batch may have lines is refused."""
    with batch_gateway(tmp_path, BatchLimits(most_lines=3), keys=KEYS) as served:
        asking = served.anthropic(ALICE)
        with pytest.raises(anthropic.BadRequestError, match="more than 3 requests"):
            post(asking, 4)
        assert post(asking, 3).request_counts.processing == 3
