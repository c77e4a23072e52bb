"""What a gateway asks of the volume when the weights have changed does not grow with the models that are on it."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.deployment.weights_worker import MountedWeights, performing
from app.fleet.schema import declared
from app.gateway.catalog.state import KnownState
from app.gateway.catalog.volume import VolumeModels
from jobs.core.model_name import ModelName
from jobs.ledger.ledger import Ledger
from jobs.registry.client import Registry
from jobs.store import keys
from jobs.store.sqlite import SqliteDict, SqliteQueue
from jobs.testing.clock import HandClock
from jobs.weights.removal import remove
from tests.support.counting_files import file_operations
from tests.support.models_directory import nothing, publish, put, sample

N = 12


class StillVolume:
    def commit(self) -> None:
        pass

    def reload(self) -> None:
        pass


class Deployment:
    """So many models on a volume, told of by its worker, and a gateway that knows them."""

    def __init__(self, folder: Path, models: int) -> None:
        self.clock = HandClock()
        self.facts = SqliteDict(folder / "ledger.sqlite")
        self.queue = SqliteQueue(folder / "ledger.sqlite", clock=self.clock)
        self.root = folder / "models"
        self.opened()
        for number in range(models):
            put(self.mounted.weights, sample(f"m{number}", f"weights of {number}".encode(), b"template"))
        self.mounted.publish_models()
        self.volume = VolumeModels(self.root, lambda: None, self.clock)
        self.known = KnownState(self.facts, self.volume, self.clock)
        assert self.known.refresh()
        assert len(self.known.models()) == models

    def opened(self) -> None:
        """A worker in a new container."""
        self.mounted = MountedWeights(StillVolume(), self.root, self.facts, self.clock)
        self.mounted.open()

    def refreshed(self) -> Counter[str]:
        """What the gateway asks of the volume until it knows again what there is, and what is wrong with it."""
        asked = file_operations(lambda: (self.known.refresh(), self.volume.complaints()))
        assert self.known.trouble is None
        return asked

    def names(self) -> set[str]:
        return {str(model.name) for model in self.known.models()}


@contextmanager
def deployment(folder: Path, models: int) -> Iterator[Deployment]:
    folder.mkdir()
    found = Deployment(folder, models)
    try:
        yield found
    finally:
        found.queue.close()
        found.facts.close()


def new(there: Deployment) -> None:
    publish(there.mounted.weights, sample("new", b"weights of new", b"template"))


def gone(there: Deployment) -> None:
    remove(there.mounted.weights, ModelName.parse("m1"), still_ours=nothing)


@pytest.mark.parametrize("change", [new, gone])
def test_a_new_generation_costs_the_same_among_more_models(
    change: Callable[[Deployment], None], tmp_path: Path
) -> None:
    """The index, one listing of the blobs, and the files of the model that is new: nothing for each of the others."""
    counts = []
    for models in (N, 2 * N):
        with deployment(tmp_path / str(models), models) as there:
            assert there.refreshed().total() <= 3  # what is wrong is looked for when it is first asked for
            change(there)
            counts.append(there.refreshed())
            assert ("new:latest" in there.names()) == (change is new)
            assert ("m1:latest" in there.names()) == (change is new)
    assert counts[0].total() == counts[1].total() <= 40, counts


@pytest.mark.parametrize("damage", ["absent", "torn", "older"])
def test_without_an_index_all_is_looked_through(damage: str, tmp_path: Path) -> None:
    """An index that is absent, torn or of another generation is passed over, and the gateway knows the same."""
    with deployment(tmp_path / "there", 3) as there:
        path = there.mounted.weights.layout.index
        old = path.read_bytes()
        new(there)
        if damage == "absent":
            path.unlink()
        else:
            path.write_bytes(old if damage == "older" else path.read_bytes()[:-40])
        there.refreshed()
        assert there.names() == {*(f"m{number}:latest" for number in range(3)), "new:latest"}


def test_what_the_index_calls_whole_and_is_not_there_is_not_listed(tmp_path: Path) -> None:
    """A model whose blob is missing is looked at itself, and is no model."""
    with deployment(tmp_path / "there", 3) as there:
        for blob in there.mounted.weights.layout.blobs.iterdir():
            if blob.read_bytes() == b"weights of 1":
                blob.unlink()
        there.facts.put(keys.WEIGHTS_ROOM, {"v": 1, "used": 1})
        there.known = KnownState(there.facts, VolumeModels(there.root, lambda: None, there.clock), there.clock)
        assert there.known.refresh()
        assert there.names() == {"m0:latest", "m2:latest"}


def test_nothing_is_looked_through_before_the_first_claim(tmp_path: Path) -> None:
    """What a worker's container asks of the volume before its first claim does not grow with the models; afterwards it
    looks through them once, where no job has."""
    counts: list[tuple[int, int, int]] = []
    for models in (N, 2 * N):
        with deployment(tmp_path / str(models), models) as there:
            surveyed = file_operations(there.mounted.weights.survey).total()
            there.opened()
            work = performing(
                Ledger(there.queue, there.facts, there.clock),
                there.facts,
                there.mounted,
                registry=Registry(clock=there.clock),
                fleet=declared(),
                clock=there.clock,
            )
            before = file_operations(work.__enter__).total()
            after = file_operations(lambda: work.__exit__(None, None, None)).total()  # noqa: B023 - called at once
            counts.append((before, after, surveyed))
    (few, after_few, survey_of_few), (many, after_many, survey_of_many) = counts
    assert few == many
    assert after_many - after_few <= survey_of_many - survey_of_few
