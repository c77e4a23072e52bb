"""The registry client, against the registry double over real sockets."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from jobs.core.clock import SystemClock
from jobs.core.errors import (
    Cancelled,
    Corrupt,
    CutShort,
    NewerOllamaNeeded,
    NotFound,
    ServerTrouble,
    Stalled,
    TooManyRequests,
    Trouble,
    Unauthorized,
    Unreachable,
    Unsupported,
)
from jobs.core.model_name import ModelName
from jobs.core.progress import Progress
from jobs.core.retry import AT_ONCE, NEVER, Policy
from jobs.registry.allowlist import Registries, is_loopback
from jobs.registry.client import Registry
from jobs.registry.egress import shown_host
from jobs.registry.range_journal import journal_of, resume
from jobs.testing.models import arbitrary
from jobs.testing.registry.faults import RegistryFault
from jobs.testing.registry.server import RegistryDouble
from jobs.weights.manifest import Layer, Manifest
from tests.support.waiting import PATIENCE

NAME = ModelName.parse("odd")
MODEL = arbitrary("odd", 3_000_000, layers=3)
BIG = MODEL.layers[0].digest
RANGE = 200_000


@pytest.fixture
def double() -> Iterator[RegistryDouble]:
    with RegistryDouble([MODEL]) as double:
        yield double


def registry_of(double: RegistryDouble, *, policy: Policy = AT_ONCE, stall: float = PATIENCE) -> Registry:
    return Registry(
        mirrors={"registry.ollama.ai": double.url},
        connections=4,
        range_bytes=RANGE,
        stall=timedelta(seconds=stall),
        policy=policy,
        requests=policy,
    )


def pull(
    registry: Registry, folder: Path, check: Callable[[], None] = lambda: None, limit: int | None = None
) -> Progress:
    manifest = registry.manifest(NAME)
    progress = Progress(SystemClock())
    staged = lambda layer: folder / layer.filename  # noqa: E731 - one line says it
    registry.fetch_all(NAME, manifest.blobs, staged, progress=progress, check=check, limit=limit)
    return progress


def assert_whole(folder: Path) -> None:
    for digest in MODEL.blobs:
        raw = (folder / digest.replace(":", "-")).read_bytes()
        assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == digest


def test_a_pull_brings_every_byte_once(double: RegistryDouble, tmp_path: Path) -> None:
    """Manifest and blobs arrive whole, no byte is served twice, and each blob's address is asked for once."""
    progress = pull(registry_of(double), tmp_path)
    assert_whole(tmp_path)
    assert double.served == {digest: blob.size for digest, blob in MODEL.blobs.items()}
    assert double.requests["blob"] == len(MODEL.blobs)
    assert progress.read().completed == MODEL.size
    assert registry_of(double).manifest(NAME).raw == MODEL.manifest


def test_a_registry_that_serves_blobs_itself(double: RegistryDouble, tmp_path: Path) -> None:
    """Without a redirect the ranges come from the registry."""
    double.redirect = False
    pull(registry_of(double), tmp_path)
    assert_whole(tmp_path)
    assert double.requests["cdn"] == 0


def test_one_blob_can_be_fetched_alone(double: RegistryDouble, tmp_path: Path) -> None:
    """What is there already is not fetched again."""
    layer = Layer("x", BIG, MODEL.blobs[BIG].size)
    for _ in range(2):
        registry_of(double).fetch_all(NAME, [layer], lambda _: tmp_path / "blob", progress=Progress(SystemClock()))
    assert double.served[BIG] == layer.size


def test_a_manifest_is_verified(double: RegistryDouble) -> None:
    """A manifest has the digest that the registry says it has; one whose bytes were changed is Corrupt."""
    registry = registry_of(double)
    assert registry.manifest(NAME).digest == MODEL.digest
    double.faults.add(RegistryFault("manifest", "flip", 20))
    with pytest.raises(Corrupt, match="has digest"):
        registry.manifest(NAME)


STATUSES: list[tuple[int, type[Trouble], str]] = [
    (401, Unauthorized, "wants a login for 'odd:latest'"),
    (403, Unauthorized, "answers 403"),
    (404, NotFound, "has no odd:latest"),
    (412, NewerOllamaNeeded, "requires a newer version of Ollama"),
    (429, TooManyRequests, "answers 429"),
    (400, Unsupported, "answers 400"),
    (500, ServerTrouble, "answers 500"),
    (503, ServerTrouble, "answers 503"),
]


@pytest.mark.parametrize(("status", "trouble", "message"), STATUSES)
def test_a_status_becomes_the_trouble_it_means(
    double: RegistryDouble, status: int, trouble: type[Trouble], message: str
) -> None:
    """Each refusal of a manifest is named, with what it was about and, where one exists, what to do."""
    double.faults.add(RegistryFault("manifest", "status", status, times=None, retry_after=3 if status == 429 else None))
    with pytest.raises(trouble, match=message) as caught:
        registry_of(double, policy=NEVER).manifest(NAME)
    if status == 429:
        assert caught.value.retry_after == timedelta(seconds=3)
    if status in {401, 403, 404, 412}:
        assert caught.value.hint


def test_the_hint_for_an_unknown_model_names_its_tags(double: RegistryDouble) -> None:
    """A wrong tag is answered with where the right ones are listed."""
    with pytest.raises(NotFound) as caught:
        registry_of(double).manifest(ModelName.parse("odd:13b"))
    assert caught.value.hint == "check the spelling, and the tags at https://ollama.com/library/odd/tags"


def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    """A refused connection is Unreachable, and can be tried again."""
    with RegistryDouble([MODEL]) as double:
        registry = registry_of(double)
    with pytest.raises(Unreachable, match=r"asking 127\.0\.0\.1:\d+ for 'odd:latest'") as caught:
        registry.manifest(NAME)
    assert caught.value.can_retry


# Faults that pass: the pull completes anyway

# Fewer than a range is tried: on a busy machine all of them may meet the same one.
PASSING = {
    "5xx before the body": [RegistryFault("blob", "status", 502), RegistryFault("cdn", "status", 500)],
    "cut inside the body": [RegistryFault("cdn", "cut", 70_000, times=6)],
    "hang inside the body": [RegistryFault("cdn", "hang", 1000, times=2)],
    "silent": [RegistryFault("cdn", "silent", times=2), RegistryFault("manifest", "silent")],
    "crawl": [RegistryFault("cdn", "crawl", 400_000, times=3)],
    "short": [RegistryFault("cdn", "short", 1, times=2)],
    "another range": [RegistryFault("cdn", "shift", 4096, times=2, after=1)],
    "ranges ignored once": [RegistryFault("cdn", "whole", after=2)],
    "ranges ignored always": [RegistryFault("cdn", "whole", times=None)],
    "ranges ignored and cut": [
        RegistryFault("cdn", "whole", times=None),
        RegistryFault("cdn", "cut", 600_000, times=2),
    ],
    "address expired half-way": [RegistryFault("cdn", "expire", after=4)],
    "address refused, then fine": [RegistryFault("cdn", "status", 403, times=1, after=3)],
    "asked to slow down": [RegistryFault("blob", "status", 429, retry_after=0)],
}


@pytest.mark.parametrize("faults", PASSING.values(), ids=PASSING.keys())
def test_a_pull_outlives_what_passes(double: RegistryDouble, faults: list[RegistryFault], tmp_path: Path) -> None:
    """Trouble that passes costs a range, never the pull, and never a wrong byte."""
    for fault in faults:
        double.faults.add(fault)
    stalls = {fault.kind for fault in faults} & {"hang", "silent"}
    progress = pull(registry_of(double, stall=12) if stalls else registry_of(double), tmp_path)
    assert_whole(tmp_path)
    assert progress.read().completed == MODEL.size


def test_an_address_that_another_learnt_may_be_refused(double: RegistryDouble, tmp_path: Path) -> None:
    """Whoever waited for an address which has expired when he asks there has the registry tell him another one: it is
    no failure of his range."""
    double.faults.add(RegistryFault("cdn", "expire", times=3))
    pull(registry_of(double, policy=NEVER), tmp_path)
    assert_whole(tmp_path)
    assert double.requests["blob"] > len(MODEL.blobs)


# Faults that stay: the pull ends with the right trouble

STAYING: dict[str, tuple[RegistryFault, type[Trouble]]] = {
    "cut before the first byte": (RegistryFault("cdn", "cut", 0, times=None), CutShort),
    "silent": (RegistryFault("cdn", "silent", times=None), Stalled),
    "5xx": (RegistryFault("cdn", "status", 503, times=None), ServerTrouble),
    "refused though fresh": (RegistryFault("cdn", "status", 403, times=None), ServerTrouble),
    "blob gone": (RegistryFault("blob", "status", 404, times=None), NotFound),
    "another range": (RegistryFault("cdn", "shift", 1, times=None), ServerTrouble),
}


@pytest.mark.parametrize(("fault", "trouble"), STAYING.values(), ids=STAYING.keys())
def test_a_pull_ends_with_what_stays(
    double: RegistryDouble, fault: RegistryFault, trouble: type[Trouble], tmp_path: Path
) -> None:
    """Trouble that stays ends the pull in bounded time, with all threads joined."""
    double.faults.add(fault)
    with pytest.raises(trouble):
        pull(registry_of(double, stall=0.5) if trouble is Stalled else registry_of(double), tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]


def test_wrong_bytes_are_thrown_away(double: RegistryDouble, tmp_path: Path) -> None:
    """A flipped byte is Corrupt with both digests; blob and journal are removed, and the next pull is whole."""
    double.faults.add(RegistryFault("cdn", "flip", 100, digest=BIG))
    with pytest.raises(Corrupt, match=f"fetched for {BIG} have digest sha256:"):
        pull(registry_of(double), tmp_path)
    staged = tmp_path / BIG.replace(":", "-")
    assert not staged.exists()
    assert not journal_of(staged).exists()
    pull(registry_of(double), tmp_path)
    assert_whole(tmp_path)


def test_a_blob_of_another_size_is_corrupt(double: RegistryDouble, tmp_path: Path) -> None:
    """A manifest that is wrong about a size is found out at the first answer."""
    for size in (MODEL.blobs[BIG].size - 1, MODEL.blobs[BIG].size + 1):
        with pytest.raises(Corrupt, match=f"its manifest says {size}"):
            registry_of(double).fetch_all(
                NAME, [Layer("x", BIG, size)], lambda _: tmp_path / "blob", progress=Progress(SystemClock())
            )


def test_a_stall_ends_the_pull_and_slowness_does_not(double: RegistryDouble, tmp_path: Path) -> None:
    """A pull that crawls past the stall limit goes on; it ends as Stalled once nothing moves."""
    double.throttle.bytes_per_second = 400_000
    began = time.monotonic()
    pull(registry_of(double, stall=5), tmp_path)
    assert time.monotonic() - began > 5
    assert_whole(tmp_path)


def test_a_cancelled_pull_waits_for_no_connection(double: RegistryDouble, tmp_path: Path) -> None:
    """Cancelling while every connection is blocked in a read waits for none of them."""
    double.faults.add(RegistryFault("cdn", "silent", times=None))
    cancelled = threading.Event()

    def check() -> None:
        if double.requests["cdn"] and not cancelled.is_set():
            cancelled.at = time.monotonic()  # type: ignore[attr-defined]
            cancelled.set()
        if cancelled.is_set():
            raise Cancelled

    with pytest.raises(Cancelled):
        pull(registry_of(double, stall=2 * PATIENCE), tmp_path, check)
    assert time.monotonic() - cancelled.at < PATIENCE  # type: ignore[attr-defined]


def test_a_rate_limit_holds(double: RegistryDouble, tmp_path: Path) -> None:
    """A limited pull takes as long as its bytes need at that rate."""
    began = time.monotonic()
    pull(registry_of(double), tmp_path, limit=3_000_000)
    assert time.monotonic() - began > 0.9
    assert_whole(tmp_path)


# Tokens


def test_an_anonymous_token_opens_the_registry_and_stays_there(double: RegistryDouble, tmp_path: Path) -> None:
    """The token is fetched from the registry's own host, sent to it, and never to the CDN."""
    double.wants_token = True
    pull(registry_of(double), tmp_path)
    assert_whole(tmp_path)
    assert {each.authorization for each in double.seen if each.route == "cdn"} == {None}
    assert any(each.authorization for each in double.seen if each.route == "blob")


def test_a_token_is_never_fetched_from_another_host(double: RegistryDouble) -> None:
    """A challenge that points elsewhere is refused without a request to that place."""
    double.wants_token = True
    double.realm = f"{double.cdn_url}/token"
    elsewhere = httpx.URL(double.cdn_url).netloc.decode()
    with pytest.raises(Unauthorized, match=f"sends us to '{elsewhere}' for a token, which is another host"):
        registry_of(double).manifest(NAME)
    assert double.requests["token"] == 0


@pytest.mark.parametrize("status", [401, 403, 404, 412, 429, 500, 503])
def test_whoever_refuses_is_told_with_its_port(double: RegistryDouble, status: int) -> None:
    """On one machine several listen: a message that names the host alone does not tell which of them it was."""
    double.faults.add(RegistryFault("manifest", "status", status, times=None))
    with pytest.raises(Trouble) as refused:
        registry_of(double).manifest(NAME)
    assert status == 412 or httpx.URL(double.url).netloc.decode() in str(refused.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://registry.example/v2", "registry.example"),
        ("https://registry.example:443", "registry.example"),
        ("http://registry.example:443", "registry.example:443"),
        ("http://127.0.0.1:5000/x", "127.0.0.1:5000"),
        ("https://[::1]:5000", "[::1]:5000"),
        ("https://user:secret@registry.example:5000", "registry.example:5000"),
    ],
)
def test_a_host_keeps_its_port(address: str, shown: str) -> None:
    """Shown is the port that its scheme does not imply, and never what stands before the host."""
    assert shown_host(httpx.URL(address)) == shown


def test_a_token_that_does_not_help_is_unauthorized(double: RegistryDouble) -> None:
    """A registry that refuses its own token is asked no third time."""
    double.wants_token = True
    double.faults.add(RegistryFault("manifest", "status", 401, times=None, challenge=True))
    with pytest.raises(Unauthorized, match="answers 401"):
        registry_of(double).manifest(NAME)
    assert (double.requests["manifest"], double.requests["token"]) == (2, 1)


def test_a_token_that_expires_is_renewed(double: RegistryDouble, tmp_path: Path) -> None:
    """A 401 in the middle of a pull costs one more token, not the pull."""
    double.wants_token = True
    double.faults.add(RegistryFault("blob", "status", 401, after=2, challenge=True))
    pull(registry_of(double), tmp_path)
    assert_whole(tmp_path)


# Where requests may go


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("llama3.2", "https://registry.ollama.ai/v2/library/llama3.2/manifests/latest"),
        ("hf.co/acme/demo:Q4_K_M", "https://hf.co/v2/acme/demo/manifests/Q4_K_M"),
        ("127.0.0.1:5000/a/b", "http://127.0.0.1:5000/v2/a/b/manifests/latest"),
        ("localhost:5000/a/b", "http://localhost:5000/v2/a/b/manifests/latest"),
        ("10.0.0.1:5000/a/b", "https://10.0.0.1:5000/v2/a/b/manifests/latest"),
        ("lan:5000/a/b", "http://lan:5000/v2/a/b/manifests/latest"),
        ("127.0.0.1.example.com/a/b", "https://127.0.0.1.example.com/v2/a/b/manifests/latest"),
    ],
)
def test_plain_http_is_for_loopback_and_those_named(name: str, url: str) -> None:
    """Every host is spoken to over HTTPS but loopback and those that were named."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        assert request.headers["User-Agent"].startswith("ollama/")
        return httpx.Response(200, content=iter([MODEL.manifest]))

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        Registry(client=client, registries=Registries.of(["*", "http://lan:5000"])).manifest(ModelName.parse(name))
    assert asked == [url]


def test_loopback_is_told_from_what_looks_like_it() -> None:
    """All of 127/8, ::1 and localhost are this machine; names that begin like it are not."""
    assert all(map(is_loopback, ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"]))
    assert not any(map(is_loopback, ["127.0.0.1.example.com", "0.0.0.0", "10.0.0.1", "localhost.example.com"]))


def test_a_redirect_never_leaves_https() -> None:
    """A redirect from HTTPS to plain HTTP is refused before it is followed."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(302, headers={"Location": "http://169.254.169.254/"})

    with (
        httpx.Client(transport=httpx.MockTransport(answer)) as client,
        pytest.raises(Unsupported, match="from https to"),
    ):
        Registry(client=client, requests=AT_ONCE).manifest(NAME)
    assert len(asked) == 1


def test_a_manifest_without_end_is_refused() -> None:
    """A body that goes on and on is no manifest, and is not kept in memory."""

    def forever() -> Iterator[bytes]:
        while True:
            yield bytes(1 << 20)

    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=forever()))
    with httpx.Client(transport=transport) as client, pytest.raises(Unsupported, match="longer than"):
        Registry(client=client).manifest(NAME)


# Sudden death

CHILD = """
import sys
from pathlib import Path
from jobs.core.clock import SystemClock
from jobs.core.model_name import ModelName
from jobs.core.progress import Progress
from jobs.registry.client import Registry
url, folder, connections, range_bytes = sys.argv[1:]
registry = Registry(mirrors={"registry.ollama.ai": url}, connections=int(connections), range_bytes=int(range_bytes))
name = ModelName.parse("odd")
manifest = registry.manifest(name)
registry.fetch_all(name, manifest.blobs, lambda layer: Path(folder) / layer.filename, progress=Progress(SystemClock()))
"""


def test_a_killed_pull_fetches_at_most_a_range_per_connection_twice(tmp_path: Path) -> None:
    """After any number of SIGKILLs the model is whole, and each kill cost at most one range per connection."""
    model = arbitrary("odd", 24_000_000, layers=2)
    connections, range_bytes, kills = 3, 500_000, 0
    with RegistryDouble([model], throttle=16_000_000) as double:
        command = [sys.executable, "-c", CHILD, double.url, str(tmp_path), str(connections), str(range_bytes)]
        for share in (0.15, 0.4, 0.6, 0.85, 2):
            with subprocess.Popen(command, env=dict(os.environ)) as child:
                while child.poll() is None and sum(double.served.values()) < share * model.size:
                    time.sleep(0.01)
                if child.poll() is None:
                    child.send_signal(signal.SIGKILL)
                    kills += 1
        double.stop()
        served = sum(double.served.values())
    assert kills >= 3
    assert child.returncode == 0
    assert served <= model.size + kills * connections * range_bytes
    for blob in Manifest.parse(model.manifest).blobs:
        raw = (tmp_path / blob.filename).read_bytes()
        assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == blob.digest
        assert resume(tmp_path / blob.filename, blob) == [(0, blob.size)]
