"""Files and batches with OpenAI's own client, unmodified."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from jobs.access.keys.proofs import hash_of
from jobs.batches.records import LineError
from tests.support.batch_gateways import BatchGateway, batch_gateway, uploads
from tests.support.gateways import gateway
from tests.support.waiting import PATIENCE

ALICE, BOB, ROOT, KEEPER = "omk_alice", "omk_bob", "omk_root", "omk_keeper"
KEYS = (
    f"alice {hash_of(ALICE)} chat\nbob {hash_of(BOB)} chat\nroot {hash_of(ROOT)} chat admin\n"
    f"keeper {hash_of(KEEPER)} admin models=llama*"
)

LINE = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}]},
}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[BatchGateway]:
    with batch_gateway(tmp_path, keys=KEYS) as found:
        yield found


def client(served: BatchGateway, key: str = ALICE) -> openai.OpenAI:
    return served.openai(key)


def lines(*more: dict[str, Any]) -> bytes:
    return b"".join(json.dumps({**LINE, **each}).encode() + b"\n" for each in more or ({},))


def upload(asking: openai.OpenAI, content: bytes | None = None, name: str = "prompts.jsonl") -> Any:
    return asking.files.create(file=(name, io.BytesIO(lines() if content is None else content)), purpose="batch")


def post(asking: openai.OpenAI, file_id: str, **more: Any) -> Any:
    asked: dict[str, Any] = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **more}
    return asking.batches.create(input_file_id=file_id, **asked)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_is_brought_and_read_again(served: BatchGateway) -> None:
    """What was uploaded is told with every field that the client knows, and its content is the same bytes."""
    asking = client(served)
    content = lines() + '{"näme": "\\u2028"}\n'.encode() + bytes(range(256)) * 5000
    file = upload(asking, content, 'my "lines".jsonl')
    assert (file.object, file.bytes, file.purpose, file.status) == ("file", len(content), "batch", "processed")
    assert file.filename == "my %22lines%22.jsonl"
    assert file.expires_at == file.created_at + 30 * 24 * 3600
    assert asking.files.retrieve(file.id) == file
    assert asking.files.content(file.id).read() == content
    assert asking.files.wait_for_processing(file.id, poll_interval=0.01) == file
    assert [each.id for each in asking.files.list()] == [file.id]
    assert not uploads(served.storage)


def test_a_file_is_kept_as_long_as_it_is_wanted(served: BatchGateway) -> None:
    """`expires_after` says when a file may be removed, wherever in the form it stands; nonsense is refused."""
    asking = client(served)
    file = asking.files.create(file=b"{}", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at is not None
    assert abs(file.expires_at - file.created_at - 3600) <= 1
    form = {"expires_after[seconds]": (None, "7200"), "expires_after[anchor]": (None, "created_at")}
    later = post_form(served, {"file": ("a.jsonl", b"{}"), "purpose": (None, "batch"), **form})
    assert abs(later.json()["expires_at"] - later.json()["created_at"] - 7200) <= 1
    for wrong in ({"anchor": "created_at", "seconds": 3599}, {"anchor": "now", "seconds": 3600}):
        with pytest.raises(openai.BadRequestError, match="seconds from 3600 to 2592000"):
            asking.files.create(file=b"{}", purpose="batch", expires_after=wrong)  # type: ignore[arg-type]


def post_form(served: BatchGateway, form: Any, key: str = ALICE) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{served.url}/v1/files", files=form, headers=headers, timeout=PATIENCE)


@pytest.mark.parametrize("purpose", ["fine-tune", "assistants", "vision", "user_data", "evals", "batch_output"])
def test_files_for_anything_else_are_refused(served: BatchGateway, purpose: Any) -> None:
    """A file for something that is not done here is refused with the purpose that is, and nothing of it stays."""
    with pytest.raises(openai.BadRequestError, match="say `batch`"):
        client(served).files.create(file=lines(), purpose=purpose)
    assert not served.storage.files()
    assert not uploads(served.storage)


def test_files_are_listed_in_pages(served: BatchGateway) -> None:
    """The client goes through all pages by itself, in either order, and finds each file once."""
    asking = client(served)
    made = [upload(asking).id for _ in range(5)]
    newest = [each.id for each in asking.files.list(limit=2)]
    assert sorted(newest) == sorted(made)
    assert [each.id for each in asking.files.list(limit=2, order="asc")] == newest[::-1]
    assert [each.id for each in asking.files.list(purpose="batch_output")] == []
    page = asking.files.list(limit=2, after=newest[1])
    assert [each.id for each in page.data] == newest[2:4]
    assert page.has_more
    for wrong in ({"limit": 0}, {"limit": 10_001}, {"after": "file-nowhere"}, {"order": "up"}):
        with pytest.raises(openai.BadRequestError):
            asking.files.list(**wrong)


def test_a_file_is_removed(served: BatchGateway) -> None:
    """A file that was removed is gone, and there is none to remove the next time."""
    asking = client(served)
    file = upload(asking)
    deleted = asking.files.delete(file.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "file")
    for ask in (asking.files.retrieve, asking.files.content, asking.files.delete):
        with pytest.raises(openai.NotFoundError, match="there is no file"):
            ask(file.id)
    assert list(asking.files.list()) == []


def test_a_file_that_is_read_stays(served: BatchGateway) -> None:
    """The lines of a batch that has not ended cannot be taken away from it; afterwards they can."""
    asking = client(served)
    file = upload(asking)
    batch = post(asking, file.id)
    with pytest.raises(openai.BadRequestError, match=f"is read by batch '{batch.id}'; cancel it first"):
        asking.files.delete(file.id)
    served.end(batch.id)
    assert asking.files.delete(file.id).deleted


@pytest.mark.parametrize("id", ["file-x", "file-..%2f..%2fx", "%2e%2e", "file-" + "a" * 5000, "batch_x", "ä", "a/b"])
def test_a_wrong_id_is_not_found(served: BatchGateway, id: str) -> None:
    """Whatever stands where an id should be, there is no such file, and no such batch."""
    headers = {"authorization": f"Bearer {ALICE}"}
    for path in (f"/v1/files/{id}", f"/v1/files/{id}/content", f"/v1/batches/{id}"):
        answer = httpx.get(f"{served.url}{path}", headers=headers, timeout=PATIENCE)
        assert answer.status_code == 404, path
        assert answer.json()["error"]["type"] == "not_found_error"
    assert httpx.delete(f"{served.url}/v1/files/{id}", headers=headers, timeout=PATIENCE).status_code == 404
    cancel = httpx.post(f"{served.url}/v1/batches/{id}/cancel", headers=headers, timeout=PATIENCE)
    assert cancel.status_code == 404


def test_ranges_of_a_file(served: BatchGateway) -> None:
    """Who asks for a range gets it, and who asks for what is not there is told how much is; HEAD tells the length."""
    content = bytes(range(256)) * 2000
    file = upload(client(served), content)
    url, key = f"{served.url}/v1/files/{file.id}/content", {"authorization": f"Bearer {ALICE}"}

    def asked(wanted: str | None, method: str = "GET") -> httpx.Response:
        headers = key if wanted is None else {**key, "range": wanted}
        return httpx.request(method, url, headers=headers, timeout=PATIENCE)

    for wanted, part in (
        ("bytes=0-9", content[:10]),
        ("bytes=300000-300009", content[300_000:300_010]),
        ("bytes=511990-", content[-10:]),
        ("bytes=-5", content[-5:]),
        ("bytes=511999-999999999", content[-1:]),
    ):
        answer = asked(wanted)
        assert (answer.status_code, answer.content) == (206, part), wanted
        first = len(content) - len(part) if wanted.startswith("bytes=-") else int(wanted[6:].partition("-")[0])
        assert answer.headers["content-range"] == f"bytes {first}-{first + len(part) - 1}/{len(content)}"
    for other in (None, "bytes=0-1,5-6", "lines=0-1", "bytes=9-1", "bytes=-", "nonsense"):
        assert (asked(other).status_code, asked(other).content) == (200, content), other
    beyond = asked("bytes=512000-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */512000")
    head = asked(None, "HEAD")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "512000", b"")
    assert head.headers["accept-ranges"] == "bytes"


def test_an_empty_file_is_one(served: BatchGateway) -> None:
    """A file without a byte is brought and read as any other; that it has no line, its batch will say."""
    asking = client(served)
    file = upload(asking, b"")
    assert file.bytes == 0
    assert asking.files.content(file.id).read() == b""


# -- batches -----------------------------------------------------------------------------------------------------------


def test_a_batch_from_its_post_to_its_results(served: BatchGateway) -> None:
    """The client posts a batch, sees it at work, and reads its results and its failed lines."""
    asking = client(served)
    file = upload(asking)
    batch = post(asking, file.id, metadata={"night": "1"})
    assert (batch.object, batch.status, batch.endpoint) == ("batch", "validating", "/v1/chat/completions")
    assert (batch.input_file_id, batch.completion_window) == (file.id, "24h")
    assert batch.expires_at == batch.created_at + 24 * 3600
    assert batch.metadata == {"night": "1"}
    assert (batch.output_file_id, batch.errors, batch.in_progress_at) == (None, None, None)
    assert served.sent == ["batches"]

    served.say(batch.id, note="waits for a window")
    at_work = asking.batches.retrieve(batch.id)
    assert at_work.status == "in_progress"
    assert at_work.model_extra is not None
    assert at_work.model_extra["note"] == "waits for a window"

    result = {"id": "1", "custom_id": "a", "response": {"status_code": 200}, "error": None}
    failed = {"id": "2", "custom_id": "b", "response": None, "error": {"code": "x", "message": "y"}}
    ended_at = served.end(batch.id, results=[result], failed=[failed])
    done = asking.batches.retrieve(batch.id)
    assert (done.status, done.completed_at) == ("completed", int(ended_at.timestamp()))
    assert (done.failed_at, done.expired_at, done.cancelled_at, done.cancelling_at) == (None, None, None, None)
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (2, 1, 1)
    assert done.output_file_id is not None
    assert done.error_file_id is not None
    assert json.loads(asking.files.content(done.output_file_id).text) == result
    assert json.loads(asking.files.content(done.error_file_id).text) == failed
    assert asking.files.retrieve(done.output_file_id).purpose == "batch_output"


def test_lines_that_were_not_run_in_time_count_as_failed(served: BatchGateway) -> None:
    """They are in the file of errors, as the failed ones are."""
    asking = client(served)
    batch = post(asking, upload(asking).id)
    served.end(batch.id, "expired", results=[{}, {}], failed=[{}], total=5)
    done = asking.batches.retrieve(batch.id)
    assert done.request_counts is not None
    assert (done.status, done.request_counts.model_dump()) == ("expired", {"completed": 2, "failed": 3, "total": 5})
    if done.usage is not None:  # the oldest clients do not know it
        assert (done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens) == (5, 7, 12)
    assert done.model_extra is not None
    assert done.model_extra["use"]["gpu_seconds"] == 1.0


def test_a_batch_whose_file_is_wrong(served: BatchGateway) -> None:
    """A batch that failed tells the client which lines are wrong, and how."""
    asking = client(served)
    batch = post(asking, upload(asking).id)
    served.end(batch.id, "failed", errors=[LineError("invalid_json_line", "no JSON", 7312, "body")])
    failed = asking.batches.retrieve(batch.id)
    assert failed.status == "failed"
    assert failed.failed_at
    assert failed.errors is not None
    assert failed.errors.data is not None
    (error,) = failed.errors.data
    assert (error.code, error.message, error.line, error.param) == ("invalid_json_line", "no JSON", 7312, "body")


def test_a_batch_is_cancelled(served: BatchGateway) -> None:
    """Who cancels a batch sees it cancelling, a worker is sent to keep what is done, and later it is cancelled."""
    asking = client(served)
    batch = post(asking, upload(asking).id)
    cancelling = asking.batches.cancel(batch.id)
    assert cancelling.status in {"cancelling", "cancelled"}
    assert served.sent == ["batches", "batches"]
    served.end(batch.id, "cancelled", results=[{"custom_id": "a"}], total=5)
    done = asking.batches.cancel(batch.id)
    assert done.status == "cancelled"
    assert done.cancelled_at
    assert done.cancelling_at
    assert done.output_file_id


def test_batches_are_listed_in_pages(served: BatchGateway) -> None:
    """The client goes through all pages by itself and finds each batch once, the newest first."""
    asking = client(served)
    file = upload(asking).id
    made = [post(asking, file).id for _ in range(5)]
    served.end(made[0])
    listed = [each.id for each in asking.batches.list(limit=2)]
    assert sorted(listed) == sorted(made)
    assert {each.id: each.status for each in asking.batches.list()}[made[0]] == "completed"
    for wrong in ({"limit": 0}, {"limit": 101}, {"limit": "x"}):
        with pytest.raises(openai.BadRequestError, match="say 1 to 100"):
            asking.batches.list(**wrong)
    with pytest.raises(openai.NotFoundError):
        asking.batches.list(after="batch_nowhere")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"completion_window": "soon"}, "like 24h, 1h or 7d"),
        ({"completion_window": "31d"}, "from 1min to 30d"),
        ({"completion_window": 24}, "say 24h, 1h or 7d"),
        ({"endpoint": "/v1/moderations"}, "/v1/embeddings or /v1/responses"),
        ({"endpoint": "/v1/messages"}, "/v1/chat/completions"),
        ({"input_file_id": "file-nowhere"}, "there is no file"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata has 17 entries"),
        ({"metadata": {"a" * 65: "x"}}, "a name in metadata has 65 characters"),
        ({"metadata": {"a": "x" * 513}}, "metadata 'a' has 513 characters"),
        ({"metadata": {"a": 1}}, "metadata 'a' is no text"),
        ({"extra_body": {"start": "later"}}, "say now, awake, window or cheapest"),
        ({"extra_body": {"max_dollars": -1}}, "say a number above 0"),
        ({"extra_body": {"max_dollars": True}}, "say a number above 0"),
        ({"extra_body": {"by": "yesterday"}}, "say a time of day like 07:00"),
        ({"extra_body": {"by": 7}}, "say a time like 07:00"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "seconds from 3600 to 2592000"),
    ],
)
def test_what_means_nothing_is_refused(served: BatchGateway, more: dict[str, Any], said: str) -> None:
    """What is wrong with a batch is told when it is posted, with what would be right, and nothing is posted."""
    asking = client(served)
    asked = {"input_file_id": upload(asking).id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    with pytest.raises((openai.BadRequestError, openai.NotFoundError), match=said.replace("'", "['\"]")):
        asking.batches.create(**{**asked, **more})
    assert list(asking.batches.list()) == []
    assert served.sent == []


def test_metadata_may_be_as_large_as_openais(served: BatchGateway) -> None:
    """Sixteen texts of 512 characters come back as they were; a body that is far larger is refused unread."""
    asking = client(served)
    file = upload(asking).id
    metadata = {f"{n:064}": "ä" * 512 for n in range(16)}
    assert post(asking, file, metadata=metadata).metadata == metadata
    with pytest.raises(openai.APIStatusError) as refusal:
        post(asking, file, metadata={"a": "x" * 2_000_000})
    assert refusal.value.status_code == 413


def test_what_is_ours_is_taken_and_told(served: BatchGateway) -> None:
    """`start`, `max_dollars` and `by` are taken beside OpenAI's own fields, and told again."""
    asking = client(served)
    by = served.clock.now().replace(microsecond=0).isoformat().replace("+00:00", "Z")
    with pytest.raises(openai.BadRequestError, match="has passed"):
        post(asking, upload(asking).id, extra_body={"by": by})
    batch = post(asking, upload(asking).id, extra_body={"start": "window", "max_dollars": 3, "by": "07:00"})
    assert batch.model_extra["start"] == "window"
    assert batch.model_extra["max_dollars"] == 3
    assert batch.expires_at % (24 * 3600) == 7 * 3600
    usual = post(asking, upload(asking).id)
    assert (usual.model_extra["start"], usual.model_extra["max_dollars"]) == ("cheapest", None)


def test_a_post_with_the_same_name_is_one_batch(served: BatchGateway) -> None:
    """Who names his request by an `Idempotency-Key` and sends it again gets the batch that is there, his alone."""
    asking, named = client(served), {"idempotency-key": "once"}
    file = upload(asking).id
    first = post(asking, file, extra_headers=named)
    assert post(asking, file, extra_headers=named).id == first.id
    served.end(first.id)
    assert post(asking, file, extra_headers=named).status == "completed"
    assert len(list(asking.batches.list())) == 1
    other = client(served, BOB)
    assert post(other, upload(other).id, extra_headers=named).id != first.id


# -- whose -------------------------------------------------------------------------------------------------------------


def test_a_key_sees_its_own_alone(served: BatchGateway) -> None:
    """Of another key's files and batches nothing is seen, read, used or changed: they are not there."""
    asking, other = client(served), client(served, BOB)
    file = upload(asking)
    batch = post(asking, file.id)
    served.end(batch.id, results=[{"custom_id": "a"}])
    output = str(asking.batches.retrieve(batch.id).output_file_id)
    for id in (file.id, output):
        for ask in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(openai.NotFoundError):
                ask(id)
    for ask_batch in (other.batches.retrieve, other.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            ask_batch(batch.id)
    with pytest.raises(openai.NotFoundError):
        post(other, file.id)
    assert not list(other.files.list())
    assert not list(other.batches.list())
    assert len(list(asking.files.list())) == 2


def test_an_administrator_may_end_but_not_read(served: BatchGateway) -> None:
    """An admin looks at others' files and batches, cancels and removes them, which is written down; he reads none."""
    asking, admin = client(served), client(served, ROOT)
    file = upload(asking)
    batch = post(asking, file.id)
    assert admin.batches.retrieve(batch.id).id == batch.id
    assert admin.files.retrieve(file.id).id == file.id
    with pytest.raises(openai.NotFoundError):
        admin.files.content(file.id)
    with pytest.raises(openai.NotFoundError):
        post(admin, file.id)
    assert not list(admin.batches.list())
    assert not list(admin.files.list())
    admin.batches.cancel(batch.id)
    served.end(batch.id, "cancelled")
    admin.files.delete(file.id)
    served.running.composed._audit_thread.audit.write_rest()
    told = [fact for _, fact in sorted(served.running.facts.items("audit/"))]
    assert [(each["who"], each["act"], each["subject"], each["outcome"]) for each in told] == [
        ("root", "cancel", batch.id, "done"),
        ("root", "file-delete", file.id, "done"),
    ]


def test_who_may_not_infer_posts_nothing(served: BatchGateway) -> None:
    """A key without the scope `chat` uploads and posts nothing; one for some models does not look after others'."""
    keeper = client(served, KEEPER)
    batch = post(client(served), upload(client(served)).id)
    messages = httpx.post(
        f"{served.url}/v1/messages/batches", json={"requests": []}, headers={"x-api-key": KEEPER}, timeout=PATIENCE
    )
    assert messages.status_code == 403
    with pytest.raises(openai.PermissionDeniedError, match="this needs chat"):
        upload(keeper)
    with pytest.raises(openai.PermissionDeniedError, match="this needs chat"):
        post(keeper, "file-x")
    with pytest.raises(openai.NotFoundError):
        keeper.batches.cancel(batch.id)
    assert not list(keeper.batches.list())


def test_without_keys_all_is_everybodys(tmp_path: Path) -> None:
    """Where no keys are configured, whoever is on this machine sees and reads everything."""
    with batch_gateway(tmp_path) as served:
        asking = client(served)
        file = upload(asking)
        batch = post(asking, file.id)
        assert [each.id for each in asking.batches.list()] == [batch.id]
        assert asking.files.content(file.id).read() == lines()
        assert served.store.get(batch.id).record.owner == ""


def test_a_gateway_without_a_place_says_so(tmp_path: Path) -> None:
    """Where there is no place for files, each route says why it is not served, and the client does not try again."""
    with gateway(tmp_path, {}) as running, openai.OpenAI(base_url=f"{running.url}/v1", api_key="x") as asking:
        for ask in (asking.files.list, asking.batches.list, lambda: upload(asking)):
            with pytest.raises(openai.APIStatusError, match="has no place for files") as refusal:
                ask()
            assert refusal.value.status_code == 501
