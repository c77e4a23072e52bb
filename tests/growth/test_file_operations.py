"""What the weights ask of the file system, counted: what a publish costs, and that other models add nothing to it.

On a network volume each of these takes milliseconds. A publish holds the lock meanwhile; a GPU is paid for while its
container copies manifests. Each list runs at N models and at 2N.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.deployment.weights_worker import MountedWeights
from app.model_server.models_view import ModelsView
from jobs.core.clock import SystemClock
from jobs.core.progress import Reading
from jobs.ledger.job import Ending
from jobs.store import keys
from jobs.store.sqlite import SqliteDict
from jobs.tasks.table import perform
from jobs.testing.clock import HandClock
from jobs.testing.registry.server import RegistryDouble
from jobs.weights import trash_moves
from jobs.weights.removal import remove
from jobs.worker.attempt import RunningAttempt
from tests.support.counting_files import file_operations
from tests.support.models_directory import Sample, fill, nothing, put, sample
from tests.support.pull_setup import MODEL, Scene, post
from tests.support.stores import Store
from tests.support.waiting import PATIENCE

N = 40


class StillVolume:
    """A volume that is this machine's own disk."""

    def commit(self) -> None:
        pass

    def reload(self) -> None:
        pass


class Case:
    """A volume with so many models, each with a weight, a template and a config, and the worker that writes it."""

    def __init__(self, folder: Path, models: int) -> None:
        self.facts = SqliteDict(folder / "facts.sqlite")
        self.mounted = MountedWeights(StillVolume(), folder / "models", self.facts, HandClock())
        self.weights = self.mounted.weights
        self.folder = folder
        self.models = models
        for number in range(models):
            put(self.weights, sample(f"m{number}"))
        self.mounted.open()
        self.mounted.publish_models()

    @property
    def generation(self) -> object:
        return self.facts.get(keys.WEIGHTS_GENERATION)

    def publishing(self, model: Sample, *present: str) -> Callable[[], None]:
        staging = fill(self.weights.stage(str(model.name), "a"), model, but=present)
        return lambda: self.weights.publish(model.name, model.manifest, staging, still_ours=nothing)


@contextmanager
def case_of(folder: Path, models: int) -> Iterator[Case]:
    folder.mkdir()
    case = Case(folder, models)
    yield case
    case.facts.close()


def publish_new(case: Case) -> Callable[[], object]:
    return case.publishing(sample("new", b"one", b"two"))


def publish_elsewhere(case: Case) -> Callable[[], object]:
    """From a registry and a user that none is from yet."""
    return case.publishing(sample("hf.co/user/new:Q4", b"one", b"two"))


def publish_again(case: Case) -> Callable[[], object]:
    return case.publishing(sample("m1"))


def publish_shared(case: Case) -> Callable[[], object]:
    """A model whose blobs are all there, under another name."""
    return case.publishing(sample("new", b"weights of m1" * 100, b"template"))


def publish_next_version(case: Case) -> Callable[[], object]:
    return case.publishing(sample("m1", b"newer", b"template"))


def mend(case: Case) -> Callable[[], object]:
    model = sample("m1")
    staging = fill(case.weights.stage("m1", "a"), model)
    return lambda: case.weights.replace_blob(model.manifest.layers[0], staging, still_ours=nothing)


def find(case: Case) -> Callable[[], object]:
    return lambda: case.weights.find(sample("M1").name)


def stage(case: Case) -> Callable[[], object]:
    return lambda: case.weights.stage("pull new:latest", "a")


def take_back(case: Case) -> Callable[[], object]:
    return lambda: trash_moves.take_back(case.weights, sample("new").manifest.blobs, still_ours=nothing)


def delete(case: Case) -> Callable[[], object]:
    return lambda: remove(case.weights, sample("m1").name, still_ours=nothing)


LAYERS = 3
READ_ALL = (
    "whether a blob may go is asked of every manifest under the lock, in two operations each: no index decides it"
)

BUDGETS: dict[Callable[[Case], Callable[[], object]], tuple[int, int, str]] = {
    publish_new: (60 + 6 * LAYERS, 0, ""),
    publish_elsewhere: (60 + 6 * LAYERS, 0, ""),
    publish_again: (60 + 6 * LAYERS, 0, ""),
    publish_shared: (60 + 6 * LAYERS, 0, ""),
    publish_next_version: (
        60 + 6 * LAYERS + 50,
        2,
        f"the version before goes to the trash, whose folders are made for it, six of them; {READ_ALL}",
    ),
    mend: (50, 0, ""),
    find: (12, 0, ""),
    stage: (30, 0, ""),
    take_back: (5, 0, ""),
    delete: (60, 2, READ_ALL),
}
"""The most file operations of each, the most for each other model, and why there are any."""


@pytest.mark.parametrize("operation", BUDGETS, ids=lambda operation: operation.__name__)
def test_an_operation_keeps_to_its_budget(operation: Callable[[Case], Callable[[], object]], tmp_path: Path) -> None:
    """Each operation on the weights asks the file system no more than its budget says, at N models and at 2N."""
    most, for_each, why = BUDGETS[operation]
    assert bool(for_each) == bool(why)
    counts = []
    for models in (N, 2 * N):
        with case_of(tmp_path / str(models), models) as case:
            asked = file_operations(operation(case))
        assert asked.total() <= most + for_each * models, asked
        counts.append(asked.total())
    assert counts[1] - counts[0] == for_each * N


def cold(case: Case) -> tuple[ModelsView, Counter[str]]:
    view = ModelsView(case.folder / "models", case.folder / "disk")
    return view, file_operations(lambda: view.copy(case.generation))


def test_a_cold_start_reads_one_file_of_the_volume(tmp_path: Path) -> None:
    """A container that starts reads the index and the list of blobs; each model costs it three operations on its own
    disk, to write the manifest, and none on the volume."""
    for models in (N, 2 * N):
        with case_of(tmp_path / str(models), models) as case:
            view, asked = cold(case)
            assert len(view.names()) == models
            assert asked.total() <= 20 + 3 * models, asked
            assert asked["scandir"] == 1
            assert asked["open"] == 1 + models
            assert asked["stat"] <= 5


def test_a_reload_copies_what_has_changed(tmp_path: Path) -> None:
    """A server that takes in a generation asks for six things, and three for each model that is new in it."""
    with case_of(tmp_path / "case", N) as case:
        view, _ = cold(case)
        assert file_operations(lambda: view.copy(case.generation)).total() <= 6
        case.publishing(sample("new"))()
        case.publishing(sample("newer"))()
        assert file_operations(lambda: view.copy(case.generation)).total() <= 6 + 2 * 4
        assert len(view.names()) == N + 2


def test_a_survey_grows_as_the_models_do(tmp_path: Path) -> None:
    """A survey of twice as many models asks twice as much, and no more."""
    counts = []
    for models in (N, 2 * N):
        with case_of(tmp_path / str(models), models) as case:
            counts.append(file_operations(case.weights.survey).total())
    assert counts[1] <= 2 * counts[0]


JOBS: dict[str, dict[str, Any]] = {"pull": {}, "prune": {}, "verify": {"model": "m1"}, "delete": {"model": "m1"}}


@pytest.mark.parametrize("kind", JOBS)
def test_a_job_looks_through_the_weights_once(kind: str, tmp_path: Path, store: Store) -> None:
    """A job of the weights grows with the models by no more than one survey does."""
    grown = []
    with RegistryDouble([MODEL]) as registry, httpx.Client(timeout=PATIENCE) as client:
        for models in (N, 2 * N):
            with case_of(tmp_path / str(models), models) as case:
                ledger = store.ledger()
                context = replace(Scene(case.folder, registry.url).context(client), weights=case.weights)
                claim = ledger.claim(post(store, kind, **JOBS[kind]), worker="w", lease=timedelta(hours=1))
                assert claim is not None
                running = RunningAttempt(claim, ledger, SystemClock())
                surveyed = file_operations(case.weights.survey).total()
                grown.append((file_operations(partial(perform, running, context)).total(), surveyed))
                ledger.end(claim, Ending("succeeded"), Reading())
    (few, survey_of_few), (many, survey_of_many) = grown
    assert many - few <= survey_of_many - survey_of_few


def test_what_is_counted_is_what_is_asked(tmp_path: Path) -> None:
    """Each way to ask for a file is seen, whichever library asks, and reading one that is open is not counted."""
    path = tmp_path / "file"

    def work() -> None:
        path.write_bytes(b"x")
        assert path.read_bytes() == b"x"
        assert path.is_file()
        path.rename(tmp_path / "other")
        assert [each.name for each in tmp_path.iterdir()] == ["other"]

    asked = file_operations(work)
    assert (asked["open"], asked["stat"], asked["rename"], asked["listdir"]) == (2, 1, 1, 1)
    assert asked.total() == 5
