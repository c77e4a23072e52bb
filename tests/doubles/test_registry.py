"""The registry double keeps to the protocol, and misbehaves only when told to."""

import hashlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jobs.core.model_name import ModelName
from jobs.testing.models import LIBRARY, find
from jobs.testing.registry.faults import RegistryFault
from jobs.testing.registry.server import RegistryDouble
from tests.support.waiting import PATIENCE

TINY = find(ModelName.parse("tiny"))
assert TINY is not None
WEIGHTS = TINY.layers[0]
MANIFEST = "/v2/library/tiny/manifests/latest"
BLOB = f"/v2/library/tiny/blobs/{WEIGHTS.digest}"


@pytest.fixture
def double() -> Iterator[RegistryDouble]:
    with RegistryDouble([model for model in LIBRARY if model.name.model == "tiny"]) as double:
        yield double


@pytest.fixture
def client(double: RegistryDouble) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=double.url, follow_redirects=True, timeout=PATIENCE) as client:
        yield client


def test_manifests_come_by_tag_and_by_digest(client: httpx.Client) -> None:
    """A manifest is the same bytes by tag and by digest, and names its digest; HEAD sends none of it."""
    by_tag = client.get(MANIFEST)
    digest = by_tag.headers["Docker-Content-Digest"]
    assert by_tag.content == client.get(f"/v2/library/tiny/manifests/{digest}").content
    assert digest == f"sha256:{hashlib.sha256(by_tag.content).hexdigest()}"
    assert int(client.head(MANIFEST).headers["Content-Length"]) == len(by_tag.content)


def test_what_it_does_not_have_is_404_in_the_protocols_shape(client: httpx.Client) -> None:
    """An unknown model or blob is a 404 with an error code."""
    missing = client.get("/v2/library/nothing/manifests/latest")
    assert (missing.status_code, missing.json()["errors"][0]["code"]) == (404, "MANIFEST_UNKNOWN")
    blob = client.get(f"/v2/library/tiny/blobs/sha256:{'0' * 64}")
    assert (blob.status_code, blob.json()["errors"][0]["code"]) == (404, "BLOB_UNKNOWN")


def test_blobs_are_redirected_to_a_signed_address_elsewhere(double: RegistryDouble, client: httpx.Client) -> None:
    """A blob's address redirects to another port, where any range of it is served until the address expires."""
    address = client.get(BLOB, follow_redirects=False).headers["Location"]
    assert address.startswith(double.cdn_url)
    assert client.get(address).content == WEIGHTS.read()
    part = client.get(address, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, WEIGHTS.read(10, 20))
    assert part.headers["Content-Range"] == f"bytes 10-19/{WEIGHTS.size}"
    assert client.get(address, headers={"Range": f"bytes={WEIGHTS.size}-"}).status_code == 416
    double.expire()
    assert client.get(address).status_code == 403
    assert double.served[WEIGHTS.digest] == WEIGHTS.size + 10


def test_a_token_is_asked_for_when_so_told(double: RegistryDouble, client: httpx.Client) -> None:
    """Without a token the answer is 401 with a challenge, and the token from its realm lets the request in."""
    double.wants_token = True
    refused = client.get(MANIFEST)
    assert refused.status_code == 401
    assert f'realm="{double.url}/token"' in refused.headers["WWW-Authenticate"]
    token = client.get("/token").json()["token"]
    assert client.get(MANIFEST, headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_faults_are_set_and_cleared_over_http(client: httpx.Client) -> None:
    """A posted fault strikes as often as it says, after as many requests as it says; a wrong one is refused."""
    fault = {"route": "manifest", "kind": "status", "value": 429, "retry_after": 7, "times": 1, "after": 1}
    assert client.post("/_faults", json=fault).status_code == 204
    statuses = [client.get(MANIFEST) for _ in range(3)]
    assert [each.status_code for each in statuses] == [200, 429, 200]
    assert statuses[1].headers["Retry-After"] == "7"
    client.post("/_faults", json={"route": "manifest", "kind": "status", "value": 500, "times": None})
    assert client.get(MANIFEST).status_code == 500
    client.delete("/_faults")
    assert client.get(MANIFEST).status_code == 200
    assert client.post("/_faults", json={"route": "manifest", "kind": "mischief"}).status_code == 400
    assert client.get("/_counters").json()["requests"]["manifest"] == 5


def test_bodies_are_spoilt_as_told(double: RegistryDouble, client: httpx.Client) -> None:
    """Cut, flip, short, shift and whole each do what their name says to one body."""
    double.faults.add(RegistryFault("cdn", "cut", 100))
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(BLOB)
    double.faults.add(RegistryFault("cdn", "flip", 100))
    body = client.get(BLOB).content
    assert [at for at in range(WEIGHTS.size) if body[at] != WEIGHTS.read()[at]] == [100]
    double.faults.add(RegistryFault("cdn", "short", 100))
    assert len(client.get(BLOB).content) == WEIGHTS.size - 100
    double.faults.add(RegistryFault("cdn", "shift", 5))
    assert client.get(BLOB, headers={"Range": "bytes=0-9"}).headers["Content-Range"].startswith("bytes 5-14/")
    double.faults.add(RegistryFault("cdn", "whole"))
    assert client.get(BLOB, headers={"Range": "bytes=0-9"}).status_code == 200


def test_silence_and_hanging_end_when_the_double_stops(double: RegistryDouble, client: httpx.Client) -> None:
    """A request that is never answered, and one whose body stops, time out at the client."""
    for kind in ("silent", "hang"):
        double.faults.add(RegistryFault("cdn", kind, 10))
        with pytest.raises(httpx.ReadTimeout):
            client.get(BLOB, timeout=0.2)


def test_files_are_sent_as_they_are(double: RegistryDouble, client: httpx.Client, tmp_path: Path) -> None:
    """Blobs written to files are served from there, ranges included."""
    double.write_files(tmp_path)
    assert client.get(BLOB).content == WEIGHTS.read()
    assert client.get(BLOB, headers={"Range": "bytes=7-"}).content == WEIGHTS.read(7)


def test_it_runs_as_a_program() -> None:
    """`python -m jobs.testing.registry` prints its address first, and ends on SIGTERM."""
    command = [sys.executable, "-m", "jobs.testing.registry", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as program:
        assert program.stdout is not None
        assert select.select([program.stdout], [], [], PATIENCE)[0]
        url = program.stdout.readline().strip()
        assert httpx.get(f"{url}/v2/", timeout=PATIENCE).json() == {}
        program.send_signal(signal.SIGTERM)
        assert program.wait(PATIENCE) == 0
