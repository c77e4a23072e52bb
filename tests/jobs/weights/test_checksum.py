"""Promises of jobs.weights.checksum, asked through Weights.verify."""

import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.core.errors import Cancelled
from jobs.core.progress import Progress
from jobs.testing.clock import HandClock
from jobs.weights.checksum import CHUNK
from tests.support.models_directory import digest_of, layer_of, put_blob, sample, weights_at


def test_each_kind_of_damage_is_told_with_its_sizes(tmp_path: Path) -> None:
    """Missing, short, long and flipped blobs are named, in the order asked; sound ones are not."""
    weights = weights_at(tmp_path)
    sound, short, long, flipped, missing = (bytes([value]) * 5000 for value in range(5))
    put_blob(weights, sound)
    put_blob(weights, short[:-1], digest_of(short))
    put_blob(weights, long + b"x", digest_of(long))
    put_blob(weights, b"x" + flipped[1:], digest_of(flipped))
    layers = [layer_of(each) for each in (missing, sound, flipped, long, short)]
    found = weights.verify([*layers, layers[0]])
    assert [(each.kind, each.want, each.got) for each in found] == [
        ("missing", 5000, 0),
        ("flipped", 5000, 5000),
        ("long", 5000, 5001),
        ("short", 5000, 4999),
    ]
    assert str(found[3]) == f"{digest_of(short)[:19]}… is short: 4999 of 5000 bytes"


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    """At the end all bytes are done, whichever blobs were damaged, and the phase is named."""
    weights = weights_at(tmp_path)
    model = sample("m", b"a" * (CHUNK * 2 + 7), b"b" * 10)
    for content in list(model.contents.values())[1:]:
        put_blob(weights, content)
    put_blob(weights, b"c" * 5, digest_of(b"a" * (CHUNK * 2 + 7)))
    progress = Progress(HandClock())
    assert len(weights.verify(model.manifest.blobs, progress=progress)) == 1
    reading = progress.read()
    assert (reading.status, reading.completed, reading.total) == ("verifying", model.manifest.size, model.manifest.size)


def test_a_check_that_raises_stops_every_reader(tmp_path: Path) -> None:
    """What the check raises comes out of verify, and no thread reads on."""
    weights = weights_at(tmp_path)
    model = sample("m", *(bytes([value]) * CHUNK for value in range(4)))
    for content in model.contents.values():
        put_blob(weights, content)
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) > 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        weights.verify(model.manifest.blobs, check=check)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("verify")]


def test_nothing_to_verify_is_nothing_wrong(tmp_path: Path) -> None:
    """No blobs, no damage; an empty blob is sound when it should be empty."""
    weights = weights_at(tmp_path)
    assert weights.verify([]) == []
    put_blob(weights, b"")
    assert weights.verify([layer_of(b"")]) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=300), st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_is_found(tmp_path: Path, content: bytes, where: int, change: int) -> None:
    """However small the change, the blob is flipped."""
    weights = weights_at(tmp_path)
    layer = layer_of(content)
    damaged = bytearray(content)
    damaged[where % len(content)] ^= change
    put_blob(weights, bytes(damaged), layer.digest)
    assert [each.kind for each in weights.verify([layer])] == ["flipped"]
