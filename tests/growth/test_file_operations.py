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
from jobs.weights import restore, trash_moves
from jobs.weights.directory import ModelsDirectory
from jobs.weights.removal import remove
from jobs.weights.survey import SurveyedModel
from jobs.worker.attempt import RunningAttempt
from tests.support.counting_files import file_operations
from tests.support.models_directory import Sample, fill, nothing, publish, put, put_manifest, sample, weights_at
from tests.support.pull_setup import MODEL, Scene, post
from tests.support.stores import Store
from tests.support.waiting import PATIENCE

N = 20


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
        self.clock = HandClock()
        self.mounted = MountedWeights(StillVolume(), folder / "models", self.facts, self.clock)
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

    def opened(self) -> ModelsDirectory:
        """The volume in a new container, which has looked at nothing yet."""
        mounted = MountedWeights(StillVolume(), self.folder / "models", self.facts, self.clock)
        mounted.open()
        return mounted.weights

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


def throw(case: Case) -> Callable[[], object]:
    return lambda: trash_moves.throw_models(case.weights, [sample("m1").name], still_ours=nothing)


def roll_back(case: Case) -> Callable[[], object]:
    publish_next_version(case)()
    case.clock.tick(
        1
    )  # the wait for a lock that another test holds would do it too: two in one moment cost a look more

    def work() -> None:
        folder = restore.newest_thrown(case.weights, sample("m1").name)
        restore.restore(case.weights, folder, still_ours=nothing, job="j1")

    return work


def empty_trash(case: Case) -> Callable[[], object]:
    publish_next_version(case)()
    folders = [each.path for each in case.weights.survey().trash]
    return lambda: trash_moves.empty(case.weights, folders, still_ours=nothing)


LAYERS = 3
"""Of each model: its weights, its template and its config."""
BUDGETS: dict[Callable[[Case], Callable[[], object]], tuple[int, int, str]] = {
    publish_new: (60 + 6 * LAYERS, 0, ""),
    publish_elsewhere: (60 + 6 * LAYERS, 0, ""),
    publish_again: (60 + 6 * LAYERS, 0, ""),
    publish_shared: (60 + 6 * LAYERS, 0, ""),
    publish_next_version: (60 + 6 * LAYERS, 0, ""),
    mend: (50, 0, ""),
    find: (12, 0, ""),
    stage: (30, 0, ""),
    take_back: (5, 0, ""),
    delete: (50, 0, ""),
    throw: (60, 0, ""),
    roll_back: (180, 0, ""),
    empty_trash: (70, 0, ""),
}
"""The most file operations of each, the most for each other model, and why there are any."""


@pytest.mark.parametrize("operation", BUDGETS, ids=lambda operation: operation.__name__)
def test_an_operation_keeps_to_its_budget(operation: Callable[[Case], Callable[[], object]], tmp_path: Path) -> None:
    """Each operation on the weights asks the file system no more than its budget says, at N models and at 2N."""
    most, for_each, why = BUDGETS[operation]
    assert bool(for_each) == bool(why)
    with case_of(tmp_path / "first", 3) as case:
        operation(case)()  # what is imported when it is first needed is looked for once
    counts = []
    for models in (N, 2 * N):
        with case_of(tmp_path / str(models), models) as case:
            asked = file_operations(operation(case))
        assert asked.total() <= most + for_each * models, asked
        counts.append(asked.total())
    assert counts[1] - counts[0] == for_each * N


def test_where_an_ollama_writes_as_well_each_manifest_is_read(tmp_path: Path) -> None:
    """On one machine an Ollama may write a manifest at any moment and tell nobody: there a deletion reads each, in two
    operations, and what it finds needed stays."""
    counts = []
    for models in (N, 2 * N):
        weights = weights_at(tmp_path / str(models))
        for number in range(models):
            publish(weights, sample(f"m{number}"))
        counts.append(file_operations(lambda: remove(weights, sample("m2").name, still_ours=nothing)).total())  # noqa: B023
        put_manifest(weights, "copied", sample("m1").manifest.raw)  # as `ollama cp` does
        assert remove(weights, sample("m1").name, still_ours=nothing).deleted == ()
        assert isinstance(weights.find(sample("copied").name), SurveyedModel)
    assert counts[1] - counts[0] == 2 * N


def come_back(case: Case) -> Callable[[], object]:
    """Of a model with many blobs, none of which is anywhere."""
    layers = sample("new", *(f"part {n}".encode() for n in range(N))).manifest.blobs
    return lambda: trash_moves.take_back(case.weights, layers, still_ours=nothing)


IN_TRASH: dict[Callable[[Case], Callable[[], object]], int] = {delete: 5, throw: 0, come_back: 6, roll_back: 17}
"""What each model in the trash costs: its manifest is looked for in four folders and read, and its blobs are listed."""


@pytest.mark.parametrize("operation", IN_TRASH, ids=lambda operation: operation.__name__)
def test_what_lies_in_the_trash_costs_a_look_each(
    operation: Callable[[Case], Callable[[], object]], tmp_path: Path
) -> None:
    """An operation that asks what models in the trash need looks at each a few times, whatever number of blobs it is
    about."""
    counts = []
    for thrown in (3, N, 2 * N):
        with case_of(tmp_path / str(thrown), 3 + thrown) as case:
            names = [sample(f"m{n}").name for n in range(3, 3 + thrown)]
            trash_moves.throw_models(case.weights, names, still_ours=nothing)
            counts.append(file_operations(operation(case)).total())
    assert counts[2] - counts[1] <= IN_TRASH[operation] * N, counts


def cold(case: Case) -> tuple[ModelsView, Counter[str]]:
    view = ModelsView(case.folder / "models", case.folder / "disk")
    return view, file_operations(lambda: view.copy(case.generation))


def test_a_cold_start_reads_one_file_of_the_volume(tmp_path: Path) -> None:
    """A container that starts reads the index and the list of blobs; each model costs it two operations on its own
    disk, its folder and its manifest, and none on the volume."""
    for models in (N, 2 * N):
        with case_of(tmp_path / str(models), models) as case:
            view, asked = cold(case)
            assert len(view.names()) == models
            assert asked.total() <= 20 + 2 * models, asked
            assert asked["scandir"] == 1
            assert asked["replace"] == 0
            assert asked["open"] == 1 + models
            assert asked["stat"] <= 5


def test_a_reload_copies_what_has_changed(tmp_path: Path) -> None:
    """A server that takes in a generation asks for six things, and four for each model that is new in it, another
    version, or gone; at N models and at 2N."""
    for models in (N, 2 * N):
        with case_of(tmp_path / str(models), models) as case:
            view, _ = cold(case)
            assert file_operations(lambda: view.copy(case.generation)).total() <= 6  # noqa: B023 - called at once
            case.publishing(sample("new"))()
            publish_next_version(case)()
            remove(case.weights, sample("m2").name, still_ours=nothing)
            asked = file_operations(lambda: view.copy(case.generation))  # noqa: B023 - called at once
            assert asked.total() <= 6 + 3 * 4, asked
            assert asked["open"] == 1 + 2
            assert len(view.names()) == models


def test_a_survey_grows_as_the_models_do(tmp_path: Path) -> None:
    """A survey of twice as many models asks twice as much, and no more."""
    counts = []
    for models in (N, 2 * N):
        with case_of(tmp_path / str(models), models) as case:
            counts.append(file_operations(case.weights.survey).total())
    assert counts[1] <= 2 * counts[0]


JOBS: dict[str, dict[str, Any]] = {"pull": {}, "prune": {}, "verify": {"model": "m1"}, "delete": {"model": "m1"}}


@pytest.mark.parametrize("is_new", [False, True])
@pytest.mark.parametrize("kind", JOBS)
def test_a_job_looks_through_the_weights_once(kind: str, is_new: bool, tmp_path: Path, store: Store) -> None:
    """A job of the weights grows with the models by no more than one survey does, the first of a container as well."""
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
                if is_new:
                    context = replace(context, weights=case.opened())
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
