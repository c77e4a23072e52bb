"""The client of one Ollama server: against short scripts of frames, and against the simulator misbehaving."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.core.clock import SystemClock
from jobs.core.errors import (
    BadName,
    BadRequest,
    Cancelled,
    Corrupt,
    CutShort,
    DiskFull,
    NewerOllamaNeeded,
    NotFound,
    NotWritable,
    PartsDamaged,
    Refused,
    ServerTrouble,
    Stalled,
    TooManyRequests,
    Trouble,
    Unauthorized,
    Unreachable,
    Unsupported,
)
from jobs.core.progress import Progress
from jobs.core.retry import AT_ONCE, NEVER
from jobs.ollama import client
from jobs.ollama.client import FOREVER, OllamaClient
from jobs.ollama.errors import pull_trouble, refusal
from jobs.ollama.host import OllamaHost
from jobs.ollama.pull_progress import PullWatch
from jobs.testing.clock import HandClock
from jobs.testing.models import LIBRARY, SimModel, arbitrary
from jobs.testing.ollama.faults import OllamaFault
from jobs.testing.ollama.go_formats import SAYS
from jobs.testing.ollama.server import OllamaDouble
from jobs.testing.registry.faults import RegistryFault
from jobs.testing.registry.server import RegistryDouble
from tests.support.waiting import PATIENCE, until

D1, D2 = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def frames(*documents: Any, status: int = 200) -> Callable[[httpx.Request], httpx.Response]:
    """A server that answers these lines, whatever it is asked."""
    body = b"".join(json.dumps(each).encode() + b"\n" for each in documents)
    return lambda _: httpx.Response(status, content=body)


def asking(answer: Callable[[httpx.Request], httpx.Response], **more: Any) -> OllamaClient:
    return OllamaClient(
        "http://ollama.test", client=httpx.Client(transport=httpx.MockTransport(answer)), policy=NEVER, **more
    )


def meter() -> Progress:
    return Progress(SystemClock())


# -- a pull, frame by frame --------------------------------------------------------------------------------------------


def test_a_pull_succeeds_only_at_the_word_success() -> None:
    """Progress runs over all layers together, whichever frames were left out."""
    progress = meter()
    script = frames(
        {"status": "pulling manifest"},
        {"status": "pulling 111111111111", "digest": D1, "total": 100},
        {"status": "pulling 111111111111", "digest": D1, "total": 100, "completed": 60},
        {"status": "pulling 222222222222", "digest": D2, "total": 10, "completed": 10},
        {"status": "verifying sha256 digest"},
        {"status": "writing manifest"},
        {"status": "success"},
    )

    asking(script).pull("m", progress=progress)

    assert (progress.read().completed, progress.read().total, progress.read().status) == (110, 110, "pulled")


@pytest.mark.parametrize("count", range(1, 5))
def test_a_stream_that_ends_without_success_is_cut_short(count: int) -> None:
    """However far it came, a stream that just ends is no pulled model."""
    script = [
        {"status": "pulling manifest"},
        {"status": "pulling 111111111111", "digest": D1, "total": 100, "completed": 100},
        {"status": "verifying sha256 digest"},
        {"status": "writing manifest"},
    ]

    with pytest.raises(CutShort, match="before success"):
        asking(frames(*script[:count])).pull("m", progress=meter())


def test_an_empty_stream_is_cut_short() -> None:
    """A 200 without a line is no success either."""
    with pytest.raises(CutShort):
        asking(frames()).pull("m", progress=meter())


def test_a_frame_that_is_torn_is_cut_short() -> None:
    """Half a line means that the connection died inside it."""
    body = b'{"status":"pulling manifest"}\n{"status":"pull'

    with pytest.raises(CutShort, match="inside a frame"):
        asking(lambda _: httpx.Response(200, content=body)).pull("m", progress=meter())


def test_repeated_frames_are_no_movement() -> None:
    """Ollama repeats its frames while nothing arrives; only `completed` counts."""
    clock = HandClock()
    watch = PullWatch("pulling 'm'", Progress(clock), stall=timedelta(seconds=60), verify_budget=timedelta(hours=1))
    frame = {"status": "pulling 111111111111", "digest": D1, "total": 100, "completed": 7}
    watch.take(frame)

    for _ in range(59):
        clock.tick(1)
        watch.take(frame)
    clock.tick(2)
    with pytest.raises(Stalled, match=r"nothing moved for 61 s at 'pulling 111111111111', 7 B in"):
        watch.take(frame)


def test_a_slow_pull_that_moves_is_left_alone() -> None:
    """One byte a minute is movement; only standing still ends it."""
    clock = HandClock()
    watch = PullWatch("pulling 'm'", Progress(clock), stall=timedelta(seconds=60), verify_budget=timedelta(hours=1))

    for done in range(1, 500):
        clock.tick(59)
        watch.take({"status": "pulling 111111111111", "digest": D1, "total": 1000, "completed": done})


def test_what_a_server_had_of_a_layer_is_no_speed() -> None:
    """The first frame of a layer says what lay there before; only what comes after it counts in the rate."""
    clock = HandClock()
    progress = Progress(clock)
    watch = PullWatch("pulling 'm'", progress, stall=timedelta(seconds=60), verify_budget=timedelta(hours=1))

    for digest in (D1, D2):
        for more in range(6):
            completed = 800_000 + 1_000 * more
            watch.take({"status": f"pulling {digest}", "digest": digest, "total": 1_000_000, "completed": completed})
            clock.tick(1)

    assert progress.read().completed == 1_000_000 + 805_000  # the first is whole, or the second had not begun
    assert progress.moved_bytes < 250_000
    assert progress.read().bytes_per_second < 30_000


def test_verifying_has_a_budget_of_its_own() -> None:
    """The server re-reads every blob without a word; that may take far longer than a stall, but not for ever."""
    clock = HandClock()
    watch = PullWatch("pulling 'm'", Progress(clock), stall=timedelta(seconds=60), verify_budget=timedelta(minutes=30))
    watch.take({"status": "verifying sha256 digest"})

    clock.tick(29 * 60)
    watch.require_movement()
    clock.tick(2 * 60)
    with pytest.raises(Stalled, match="verifying sha256 digest"):
        watch.require_movement()


@given(st.lists(st.tuples(st.sampled_from([D1, D2]), st.integers(0, 1000)), max_size=50))
def test_progress_follows_what_the_server_says_up_and_down(steps: list[tuple[str, int]]) -> None:
    """`completed` may go back when an attempt is rolled back; the sum over layers follows."""
    progress = Progress(HandClock())
    watch = PullWatch("pulling", progress, stall=timedelta(minutes=1), verify_budget=timedelta(hours=1))
    last: dict[str, int] = {}

    for digest, completed in steps:
        watch.take({"status": "pulling", "digest": digest, "total": 1000, "completed": completed})
        last[digest] = completed
        assert progress.read().completed == sum(last.values())
        assert progress.read().total == 1000 * len(last)


def test_a_check_that_raises_ends_the_pull_between_two_frames() -> None:
    """A cancelled job stops at once, and the reason reaches the worker as it is."""
    seen = []

    def check() -> None:
        seen.append(1)
        if len(seen) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        asking(frames(*[{"status": "pulling manifest"}] * 10)).pull("m", progress=meter(), check=check)


# -- what texts mean ---------------------------------------------------------------------------------------------------

LIVE_TEXTS: list[tuple[str, type[Trouble]]] = [
    ("pull model manifest: file does not exist", NotFound),
    ("pull model manifest: 412: \n\nThe model you are attempting to pull requires a newer version", NewerOllamaNeeded),
    ("pull model manifest: 500: oops", ServerTrouble),
    ("pull model manifest: 429: slow down", TooManyRequests),
    ("pull model manifest: 403: no", Unauthorized),
    ("pull model manifest: 418: teapot", Refused),
    ('pull model manifest: Get "https://r.example/v2/library/m/manifests/t": dial tcp: no such host', Unreachable),
    ('pull model manifest: realm host "a" does not match original host "b"', Unauthorized),
    ("pull model manifest: unauthorized: access denied", Unauthorized),
    ("max retries exceeded: EOF", CutShort),
    ("max retries exceeded: unexpected EOF", CutShort),
    ("max retries exceeded: read tcp 1.2.3.4:5->6.7.8.9:443: read: connection reset by peer", CutShort),
    ("write /m/blobs/sha256-00-partial: no space left on device", DiskFull),
    ("max retries exceeded: write /m/blobs/sha256-00-partial: disk quota exceeded", DiskFull),
    ("open /m/blobs/sha256-00-partial-0: read-only file system", NotWritable),
    ("open /m/manifests/registry.ollama.ai/library/m/t: permission denied", NotWritable),
    ("digest mismatch, file must be downloaded again: want sha256:00, got sha256:11", Corrupt),
    ("EOF", PartsDamaged),
    ("remove /m/blobs/sha256-00-partial-3: no such file or directory", ServerTrouble),
    ("context deadline exceeded", Stalled),
    ("this model requires MLX support, but the MLX runtime is not available", Unsupported),
    ("invalid model name", BadName),
    ('use either :local or :cloud, not both: "x:cloud:local"', BadName),
    ("something nobody has seen before", ServerTrouble),
]  # fmt: skip


@pytest.mark.parametrize(("text", "trouble"), LIVE_TEXTS)
def test_each_text_of_a_pull_has_its_class(text: str, trouble: type[Trouble]) -> None:
    """The texts are Ollama's own, and the class decides whether trying again can help."""
    with pytest.raises(trouble) as raised:
        asking(frames({"status": "pulling manifest"}, {"error": text})).pull("m", progress=meter())

    assert type(raised.value) is trouble
    assert " ".join(text.split()) in str(raised.value)
    assert "'m'" in str(raised.value)


def test_what_cannot_help_is_not_tried_again() -> None:
    """Permanent texts are worth one attempt, poisoned parts two, trouble of the network as many as the job allows."""
    tries = {text: pull_trouble(text, doing="pulling").tries for text, _ in LIVE_TEXTS}

    assert tries["pull model manifest: file does not exist"] == 1
    assert tries["EOF"] == 2
    assert tries["max retries exceeded: EOF"] is None


def test_poisoned_parts_say_which_files_to_remove() -> None:
    """The hint names the files in words that fit any server's directory."""
    trouble = pull_trouble("EOF", doing="pulling 'm'")

    assert "OLLAMA_MODELS" in str(trouble.hint)
    assert "blobs/sha256-*-partial-*" in str(trouble.hint)


@pytest.mark.parametrize(
    ("status", "text", "trouble"),
    [
        (400, '"m" does not support chat', Unsupported),
        (400, 'option "x" is odd', BadRequest),
        (401, "unauthorized", Unauthorized),
        (403, "ollama cloud is disabled: remote model is unavailable", Unsupported),
        (403, "", Refused),
        (404, "model 'm' not found", NotFound),
        (405, "405 method not allowed", Unsupported),
        (499, "request canceled", CutShort),
        (500, "EOF", Corrupt),
        (500, "remove /m: read-only file system", NotWritable),
        (500, "timed out waiting for llama-server to start", ServerTrouble),
        (502, "bad gateway", ServerTrouble),
        (503, "server busy, please try again.  maximum pending requests exceeded", TooManyRequests),
    ],
)
def test_each_status_has_its_class(status: int, text: str, trouble: type[Trouble]) -> None:
    """Outside of pulls the status counts first, and the text where the status says nothing."""
    assert type(refusal(status, text, doing="chatting")) is trouble


def test_the_servers_wish_to_wait_is_kept() -> None:
    """Retry-After travels with the error."""
    answer = httpx.Response(503, headers={"Retry-After": "7"}, json={"error": "server busy"})

    with pytest.raises(TooManyRequests) as raised:
        asking(lambda _: answer).tags()

    assert raised.value.retry_after == timedelta(seconds=7)


# -- short requests ----------------------------------------------------------------------------------------------------


def test_short_requests_are_tried_again_and_deletes_are_not() -> None:
    """A list may be asked for twice; a delete whose answer was lost may have happened."""
    asked: list[str] = []

    def flaky(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        if len(asked) == 1 or request.method == "DELETE":
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={"models": None})

    ollama = OllamaClient(
        "http://ollama.test", client=httpx.Client(transport=httpx.MockTransport(flaky)), policy=AT_ONCE
    )

    assert ollama.tags() == []
    with pytest.raises(Unreachable, match=r"deleting 'm' on http://ollama\.test"):
        ollama.delete("m")
    assert asked == ["GET", "GET", "DELETE"]


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"models":5}', b'{"models":[5]}'])
def test_an_answer_that_makes_no_sense_is_the_servers_trouble(body: bytes) -> None:
    """Something else may listen on that port; that is told, not guessed around."""
    with pytest.raises(ServerTrouble):
        asking(lambda _: httpx.Response(200, content=body)).tags()


def test_times_and_durations_are_read_as_go_writes_them() -> None:
    """Nanoseconds, offsets, and an expiry in the year 2318."""
    running = {"name": "m:latest", "size": 10, "size_vram": 4, "expires_at": "2318-09-11T05:21:24.123456789+02:00"}
    ollama = asking(frames({"models": [running]}))

    (found,) = ollama.ps()

    assert (found.expires_at.year, found.expires_at.hour, found.is_on_gpu) == (2318, 3, False)


def test_tokens_per_second_come_from_the_last_frame() -> None:
    """Count over duration, and 0 rather than a division by nothing."""
    script = frames(
        {"response": "a", "done": False},
        {"response": "", "done": True, "done_reason": "stop", "eval_count": 50, "eval_duration": 2 * 10**9},
    )

    *_, last = asking(script).generate("m", "p")

    assert last.usage.tokens_per_second == 25.0
    assert next(iter(asking(frames({"response": "x", "done": True})).generate("m", "p"))).usage.tokens_per_second == 0


def test_an_answer_without_done_is_cut_short() -> None:
    """The stream may end cleanly and still be half an answer: repeated tokens end it so."""
    answer = asking(frames({"response": "a", "done": False})).generate("m", "p")

    assert next(answer).text == "a"
    with pytest.raises(CutShort, match="before it said done"):
        next(answer)


def test_an_error_inside_an_answer_is_raised_where_it_stands() -> None:
    """What came before it is still handed out."""
    script = frames({"response": "a", "done": False}, {"error": "model runner has unexpectedly stopped"})
    answer = asking(script).generate("m", "p")

    assert next(answer).text == "a"
    with pytest.raises(ServerTrouble, match="unexpectedly stopped"):
        next(answer)


def test_lines_are_cut_at_line_feeds_only() -> None:
    """JSON may hold U+0085 and U+2028 as they are; they end no frame."""
    text = "one\u0085two\u2028three"
    body = json.dumps({"response": text, "done": True}, ensure_ascii=False).encode() + b"\n"

    (only,) = asking(lambda _: httpx.Response(200, content=body)).generate("m", "p")

    assert only.text == text


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        (":5000", "http://127.0.0.1:5000"),
        ("0.0.0.0:5000", "http://127.0.0.1:5000"),
        ("gpu-box", "http://gpu-box:11434"),
        ("gpu-box:99999", "http://gpu-box:11434"),
        ("http://gpu-box", "http://gpu-box:80"),
        ("https://gpu.example/path", "https://gpu.example:443"),
        ("[::1]:7", "http://[::1]:7"),
        ("::1", "http://[::1]:11434"),
        (' "1.2.3.4:8" ', "http://1.2.3.4:8"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(text: str, url: str) -> None:
    """Ports by scheme, quotes and blanks trimmed, a bind address turned into one that can be reached."""
    assert OllamaHost.parse(text).url == url


# -- against the simulator ---------------------------------------------------------------------------------------------

BIG = arbitrary("big", 8_000_000)


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryDouble]:
    with RegistryDouble((*LIBRARY, BIG)) as double:
        yield double


@pytest.fixture
def double(registry: RegistryDouble, tmp_path: Path) -> Iterator[OllamaDouble]:
    registry.faults.clear()
    with OllamaDouble(tmp_path, registry=registry.url, retry_seconds=0.01) as double:
        yield double


@pytest.fixture
def ollama(double: OllamaDouble) -> Iterator[OllamaClient]:
    with OllamaClient(double.url, policy=NEVER, stall=timedelta(seconds=PATIENCE)) as ollama:
        yield ollama


@pytest.fixture
def impatient(double: OllamaDouble) -> Iterator[OllamaClient]:
    """One that lets go of a pull in which nothing moves for a moment."""
    with OllamaClient(double.url, policy=NEVER, stall=timedelta(seconds=2.5)) as ollama:
        yield ollama


def test_a_model_is_pulled_listed_loaded_asked_and_deleted(ollama: OllamaClient) -> None:
    """The whole life of a model on one server."""
    progress = meter()
    ollama.pull("tiny", progress=progress)
    assert progress.read().completed == progress.read().total
    (listed,) = ollama.tags()
    assert (listed.name, listed.details.format) == ("tiny:latest", "gguf")
    assert listed.capabilities == ("completion",)

    ollama.load("tiny", keep_alive=FOREVER)
    running = ollama.running("Tiny:latest")
    assert running is not None
    assert running.is_on_gpu
    assert running.expires_at.year > 2200

    answer = list(ollama.generate("tiny", "hello"))
    assert "".join(frame.text for frame in answer) == f"{SAYS} You said: hello"
    assert answer[-1].usage.tokens == len(answer) - 1
    assert answer[-1].done

    ollama.unload("tiny")
    assert ollama.running("tiny") is None
    ollama.delete("tiny")
    assert ollama.tags() == []


def test_a_model_that_only_embeds_is_loaded_by_embedding(ollama: OllamaClient) -> None:
    """Generating is refused for it, so an empty embedding request loads it."""
    ollama.pull("nomic-embed-text", progress=meter())

    ollama.load("nomic-embed-text")

    assert ollama.running("nomic-embed-text") is not None


@pytest.mark.parametrize(
    ("fault", "trouble"),
    [
        (OllamaFault("/api/pull", "status", 500, text="open /m/manifests: permission denied"), NotWritable),
        (OllamaFault("/api/pull", "error", 1, text="max retries exceeded: EOF"), CutShort),
        (OllamaFault("/api/pull", "hang", 1), Stalled),
        (OllamaFault("/api/pull", "hang", 0), Stalled),
        (OllamaFault("/api/pull", "cut", 40), CutShort),
        (OllamaFault("/api/pull", "digest"), Corrupt),
        (OllamaFault("/api/pull", "full"), DiskFull),
    ],
)
def test_each_way_a_pull_goes_wrong_has_its_class(
    double: OllamaDouble, ollama: OllamaClient, impatient: OllamaClient, fault: OllamaFault, trouble: type[Trouble]
) -> None:
    """And the next pull, when all is well again, succeeds."""
    double.faults.add(fault)

    with pytest.raises(trouble):
        (impatient if trouble is Stalled else ollama).pull("tiny", progress=meter())

    ollama.pull("tiny", progress=meter())
    assert [each.name for each in ollama.tags()] == ["tiny:latest"]


def parts_of(double: OllamaDouble, model: SimModel) -> list[Path]:
    """The part files of a model's weights: eight of them, of which any may be the one that hangs."""
    blob = model.layers[0].digest.replace(":", "-")
    return list((double.settings.models / "blobs").glob(f"{blob}-partial-*"))


def test_a_pull_whose_cdn_falls_silent_is_stalled_though_frames_go_on(
    registry: RegistryDouble, double: OllamaDouble, ollama: OllamaClient, impatient: OllamaClient
) -> None:
    """The server repeats its frames; the client leaves, and the next pull goes on from the parts that were kept."""
    registry.faults.add(RegistryFault("cdn", "hang", 300_000, after=1, digest=BIG.layers[0].digest))

    with pytest.raises(Stalled, match=r"in$"):
        impatient.pull("big", progress=meter())
    until(lambda: any('"Completed":300000' in part.read_text() for part in parts_of(double, BIG)))
    registry.reset()
    ollama.pull("big", progress=meter())

    assert registry.served["cdn"] < BIG.layers[0].size


def test_a_cancelled_pull_ends_while_nothing_comes(double: OllamaDouble, ollama: OllamaClient) -> None:
    """The check is asked in silence too, and what it raises ends the exchange at once."""
    double.faults.add(OllamaFault("/api/pull", "hang", 1))
    asked = threading.Event()
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            asked.set()
            raise Cancelled

    with pytest.raises(Cancelled):
        ollama.pull("tiny", progress=meter(), check=check)
    assert asked.is_set()


@pytest.mark.parametrize(
    ("fault", "trouble"),
    [
        (OllamaFault("/api/generate", "status", 503, text="server busy, please try again.  maximum"), TooManyRequests),
        (OllamaFault("/api/generate", "error", 2), CutShort),
        (OllamaFault("/api/generate", "cut", 150), CutShort),
        (OllamaFault("/api/generate", "hang", 1), Stalled),
    ],
)
def test_each_way_an_answer_goes_wrong_has_its_class(
    double: OllamaDouble, ollama: OllamaClient, fault: OllamaFault, trouble: type[Trouble]
) -> None:
    """No half answer looks like a whole one."""
    ollama.pull("tiny", progress=meter())
    double.faults.add(fault)

    patience = timedelta(seconds=0.6 if trouble is Stalled else PATIENCE)
    with pytest.raises(trouble):
        list(ollama.generate("tiny", "hi", patience=patience))


def test_nobody_there_is_unreachable(double: OllamaDouble) -> None:
    """A stopped server is told apart from one that answers badly."""
    url = double.url
    double.stop()
    with OllamaClient(url, policy=NEVER) as ollama:
        with pytest.raises(Unreachable):
            ollama.version()
        with pytest.raises(Unreachable):
            ollama.pull("tiny", progress=meter())
    double.start()


def test_certificates_are_read_where_tls_is_spoken() -> None:
    """A server's own client, which speaks plain HTTP to it, reads no certificates: its start would wait for that."""
    assert client._tls("http").cert_store_stats()["x509"] == 0
    assert client._tls("https").cert_store_stats()["x509"] > 0
