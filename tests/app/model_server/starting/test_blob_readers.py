"""The blobs of the model that a server loads are read ahead, from the moment they are visible, and of no other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from app.model_server.starting.blob_readers import BlobReaders
from jobs.core.clock import SystemClock
from jobs.core.model_name import ModelName
from jobs.weights.layout import Layout
from tests.support.models_directory import Sample, put, sample, weights_at
from tests.support.waiting import until

SMALL, LARGE = sample("small", b"s" * 1000), sample("large", b"l" * 9_000_000)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    weights = weights_at(tmp_path)
    for each in (SMALL, LARGE):
        put(weights, each)
    return weights.layout.root


def readers(volume: Path, count: int = 4) -> BlobReaders:
    return BlobReaders(SystemClock(), volume, readers=count, taken_in=lambda: None)


def done(case: BlobReaders) -> int:
    progress = case.progress()
    return 0 if progress is None else progress.done


@pytest.fixture
def lines() -> Iterator[list[str]]:
    found: list[str] = []
    sink = logger.add(found.append, format="{message}")
    yield found
    logger.remove(sink)


def size(model: Sample) -> int:
    return sum(layer.size for layer in model.manifest.blobs)


def test_the_first_model_that_is_there_is_read(volume: Path) -> None:
    """Of those that are waited for, the first on the volume is read with all its blobs, and no other is."""
    case = readers(volume)

    case.begin([ModelName.parse("absent"), LARGE.name, SMALL.name])

    until(lambda: done(case) == size(LARGE))


def test_what_is_read_already_goes_on(volume: Path) -> None:
    """When the engine comes to the blobs that are being read, they are not read once more."""
    case = readers(volume)
    case.begin([LARGE.name])
    until(lambda: done(case) == size(LARGE))

    case.load_began(LARGE.manifest.blobs[0].filename)

    assert done(case) == size(LARGE)


def test_a_load_while_it_serves_is_read_ahead(volume: Path) -> None:
    """What callers have loaded later is read ahead as well, and again when it is loaded again."""
    case = readers(volume)
    case.begin([LARGE.name])
    until(lambda: done(case) == size(LARGE))
    blob = max(SMALL.manifest.blobs, key=lambda layer: layer.size)

    for _ in range(2):
        case.load_began(blob.filename)
        until(lambda: done(case) == blob.size)
        case.bytes_are_read()
        case.load_ended()


def test_a_damaged_manifest_is_left_to_the_engine(volume: Path, lines: list[str]) -> None:
    """A manifest that makes no sense is told once, and the next model is read."""
    Layout(volume).manifest(LARGE.name).write_bytes(b"{")
    case = readers(volume)

    case.begin([LARGE.name, SMALL.name])

    until(lambda: done(case) == size(SMALL))
    assert len([line for line in lines if "is not read ahead" in line]) == 1


def test_without_readers_nothing_is_read(volume: Path) -> None:
    """A tier that wants no readers has none."""
    case = readers(volume, 0)

    case.begin([LARGE.name])
    case.load_began(LARGE.manifest.blobs[0].filename)

    assert case.progress() is None
