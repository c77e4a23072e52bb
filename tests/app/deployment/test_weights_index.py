"""What a worker tells of the weights is what is there, after whatever it did to them, and costs no look at the rest."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from app.deployment.weights_worker import MountedWeights
from app.model_server.models_view import ModelsView
from jobs.core.errors import Corrupt, ServerTrouble, StoreUnavailable
from jobs.core.model_name import ModelName
from jobs.models import index
from jobs.models.index import Index
from jobs.store import keys
from jobs.store.sqlite import SqliteDict
from jobs.testing.clock import HandClock
from jobs.weights import restore, trash_moves
from jobs.weights.manifest import Manifest
from jobs.weights.removal import remove
from jobs.weights.survey import read_manifests, read_models
from tests.support.crash_points import dies_at
from tests.support.models_directory import digest_of, fill, nothing, publish, put, put_blob, put_manifest, sample


class Volume:
    """One that counts its commits, and fails when it is told to."""

    def __init__(self) -> None:
        self.commits = 0
        self.fails = False

    def commit(self) -> None:
        if self.fails:
            raise ServerTrouble("committing the volume: Modal did not answer within 600 s")
        self.commits += 1

    def reload(self) -> None:
        pass


class Facts(SqliteDict):
    """A dict that takes nothing when it is told so."""

    fails = False

    def put(self, key: str, value: object, *, skip_if_exists: bool = False) -> bool:
        if self.fails:
            raise StoreUnavailable(f"writing {key} to the ledger: Modal did not answer within 10 s")
        return super().put(key, value, skip_if_exists=skip_if_exists)


class Case:
    number = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts = Facts(Path(":memory:"))  # outlives each worker, as Modal's does, and is asked over one connection
        self.volume = Volume()
        self.opened()

    def opened(self) -> None:
        """A worker in a new container."""
        self.mounted = MountedWeights(self.volume, self.folder / "models", self.facts, HandClock())
        self.mounted.open()
        self.weights = self.mounted.weights

    @property
    def generation(self) -> object:
        return self.facts.get(keys.WEIGHTS_GENERATION)

    def told(self) -> Index | None:
        return index.read(self.weights.layout, self.generation)

    def there(self) -> Index:
        return Index.of(read_models(self.weights.layout))

    def shown(self, generation: object) -> dict[str, bytes]:
        """What a server that starts now is shown."""
        view = ModelsView(self.folder / "models", self.folder / f"disk-{os.urandom(4).hex()}")
        view.copy(generation)
        return {str(name): view.layout.manifest(name).read_bytes() for name in sorted(view.names())}


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path)
    for name in ("one", "two", "three"):
        put(case.weights, sample(name, f"weights of {name}".encode(), b"template"))
    case.mounted.publish_models()
    yield case
    case.facts.close()


def publish_new(case: Case) -> None:
    publish(case.weights, sample("new"))


def publish_next_version(case: Case) -> None:
    publish(case.weights, sample("one", b"newer", b"template"))


def publish_in_another_spelling(case: Case) -> None:
    publish(case.weights, sample("ONE", b"newer", b"template"))


def bring_what_another_lacks(case: Case) -> None:
    """Two is not whole, until another model brings the blob that it lacks."""
    case.weights.layout.blob(digest_of(b"weights of two")).unlink()
    case.mounted.publish_models()
    assert ModelName.parse("two") not in (case.told() or Index()).whole
    publish(case.weights, sample("sibling", b"weights of two", b"template"))


def mend(case: Case) -> None:
    model = sample("one", b"weights of one", b"template")
    put_blob(case.weights, b"damaged", model.manifest.layers[0].digest)
    staging = fill(case.weights.stage("one", "a"), model)
    case.weights.replace_blob(model.manifest.layers[0], staging, still_ours=nothing)


def delete(case: Case) -> None:
    remove(case.weights, ModelName.parse("Two"), still_ours=nothing)


def throw(case: Case) -> None:
    trash_moves.throw_models(case.weights, [ModelName.parse("one"), ModelName.parse("two")], still_ours=nothing)


def roll_back(case: Case) -> None:
    publish_next_version(case)
    folder = restore.newest_thrown(case.weights, ModelName.parse("one"))
    restore.restore(case.weights, folder, still_ours=nothing, job="j1")


def empty_trash(case: Case) -> None:
    publish_next_version(case)
    folders = [each.path for each in case.weights.survey().trash]
    trash_moves.empty(case.weights, folders, still_ours=nothing)


CHANGES: list[Callable[[Case], None]] = [
    publish_new,
    publish_next_version,
    publish_in_another_spelling,
    bring_what_another_lacks,
    mend,
    delete,
    throw,
    roll_back,
    empty_trash,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_is_told_is_what_is_there(case: Case, change: Callable[[Case], None]) -> None:
    """After each change the generation is another, and the index and the Dict say of it what a walk finds; a server
    that starts is shown the same with the index as without."""
    before = case.generation
    change(case)
    assert case.generation != before
    assert case.told() == case.there()
    told = case.facts.get(keys.WEIGHTS_MODELS)
    assert {name: each["size"] for name, each in told.items()} == {
        str(name.folded()): manifest.size for name, manifest in case.there().whole.items()
    }
    assert case.shown(case.generation) == case.shown(None)


@pytest.mark.parametrize("change", [publish_next_version, delete, throw, roll_back], ids=lambda change: change.__name__)
def test_killed_anywhere_a_server_is_shown_whole_models(
    tmp_path_factory: pytest.TempPathFactory, change: Callable[[Case], None]
) -> None:
    """Killed before any change to the disk, the index that is valid then names no model whose blobs are not all there;
    and a worker in a new container tells of what it finds."""
    for step in range(1, 200):
        case = Case(tmp_path_factory.mktemp("killed"))
        for name in ("one", "two"):
            put(case.weights, sample(name, f"weights of {name}".encode(), b"template"))
        case.mounted.publish_models()
        died = dies_at(step, lambda case=case: change(case))  # type: ignore[misc]
        for name, raw in case.shown(case.generation).items():
            blobs = Manifest.parse(raw).blobs
            assert all(case.weights.layout.blob(layer.digest).exists() for layer in blobs), name
        case.opened()
        case.mounted.publish_models()
        assert case.told() == case.there()
        case.facts.close()
        if not died:
            return
    pytest.fail("it never came to its end")


def read(case: Case) -> frozenset[str] | None:
    """The digests that the manifests on the disk refer to; None while one is torn."""
    manifests = [manifest for _, manifest in read_manifests(case.weights.layout)]
    if any(isinstance(each, Corrupt) for each in manifests):
        return None
    return frozenset(layer.digest for each in manifests if isinstance(each, Manifest) for layer in each.blobs)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whatever_broke_off_no_blob_that_a_manifest_needs_is_taken_for_free(
    tmp_path_factory: pytest.TempPathFactory, change: Callable[[Case], None]
) -> None:
    """However far a change came that broke off, the worker that goes on knows what every manifest on the disk needs."""
    for step in range(1, 200):
        case = Case(tmp_path_factory.mktemp("broken-off"))
        for name in ("one", "two"):
            put(case.weights, sample(name, f"weights of {name}".encode(), b"template"))
        case.mounted.publish_models()
        died = dies_at(step, lambda case=case: change(case))  # type: ignore[misc]
        with case.weights.exclusive(nothing):
            assert case.weights.needed() == read(case)
            assert sorted(file.name for file, _ in case.weights.published()) == sorted(
                file.name for file in case.weights.layout.manifest_files()
            )
        case.facts.close()
        if not died:
            return
    pytest.fail("it never came to its end")


def test_what_a_torn_or_broken_model_needs_is_read(case: Case) -> None:
    """A model of which a blob is missing needs the others; a torn one may need any, and is told as soon as it is whole
    again."""
    case.weights.layout.blob(digest_of(b"weights of two")).unlink()
    case.mounted.publish_models()
    assert case.weights.needed() == read(case)
    raw = case.weights.layout.manifest(ModelName.parse("three")).read_bytes()
    put_manifest(case.weights, "three", raw[:-20])
    case.mounted.publish_models()
    assert case.weights.needed() is None
    put_manifest(case.weights, "three", raw)
    assert case.weights.needed() == read(case)


@pytest.mark.parametrize("index_is", ["absent", "empty", "of nothing"])
def test_the_index_has_no_say_in_what_goes(case: Case, index_is: str) -> None:
    """Absent, damaged or wrong, the file beside the generation neither saves nor costs a blob."""
    layout = case.weights.layout
    if index_is == "absent":
        layout.index.unlink()
    elif index_is == "empty":
        layout.index.write_bytes(b"")
    else:
        index.write(layout, Index(), str(case.generation))
    removed = remove(case.weights, ModelName.parse("two"), still_ours=nothing)
    assert [layer.digest for layer in removed.deleted] == [digest_of(b"weights of two")]
    assert read(case) == case.weights.needed()
    assert all(layout.blob(digest).exists() for digest in read(case) or ())


@pytest.mark.parametrize("told", [True, False])
def test_what_another_worker_published_meanwhile_keeps_its_blobs(case: Case, told: bool) -> None:
    """A worker of the deployment before, which still publishes, tells another generation: then each manifest is read,
    and the index is of what both wrote. So it is where the Dict has forgotten the generation."""
    put(case.weights, sample("sibling", b"weights of two", b"template"))
    if told:
        case.facts.put(keys.WEIGHTS_GENERATION, "the other worker's")
    else:
        case.facts.pop(keys.WEIGHTS_GENERATION)
    removed = remove(case.weights, ModelName.parse("two"), still_ours=nothing)
    assert removed.deleted == ()
    assert case.told() == case.there()
    assert ModelName.parse("sibling") in case.there().whole


@pytest.mark.parametrize("failing", ["commit", "dict"])
def test_what_could_not_be_told_is_told_with_the_next_change(case: Case, failing: str) -> None:
    """A volume or a Dict that fails leaves an index of no generation: servers look through the directory meanwhile."""
    case.volume.fails, case.facts.fails = failing == "commit", failing == "dict"
    with pytest.raises((ServerTrouble, StoreUnavailable)):
        delete(case)
    case.volume.fails = case.facts.fails = False
    assert case.told() is None
    assert "two:latest" not in case.shown(case.generation)

    with case.weights.exclusive(nothing):
        case.mounted.weights.persist()

    assert case.told() == case.there()
    assert "two:latest" not in (case.facts.get(keys.WEIGHTS_MODELS) or {})


def test_a_worker_that_finds_all_as_it_was_told_disturbs_no_server(case: Case) -> None:
    """A container that starts work on weights that nobody changed leaves generation, index and commits as they are."""
    before, commits = case.generation, case.volume.commits
    case.opened()
    case.mounted.publish_models()
    assert (case.generation, case.volume.commits) == (before, commits)


@pytest.mark.parametrize(("change", "shrinks"), [(publish_new, False), (delete, True), (empty_trash, True)])
def test_room_is_told_as_it_is(case: Case, change: Callable[[Case], None], shrinks: bool) -> None:
    """What came is added to what was taken; where something went, that is known, and counted by the next survey."""
    change(case)
    assert case.mounted.has_shrunk == shrinks
    if shrinks:
        case.mounted.publish_models()
    used = case.facts.get(keys.WEIGHTS_ROOM)["used"]
    manifests = 1000  # bytes, which wait for the next survey
    assert 0 <= case.weights.survey().usage_bytes - used < manifests


def test_what_no_reader_asks_for_is_committed_and_not_told(case: Case) -> None:
    """A publish tells of itself once, though it commits twice: blobs alone change nothing for a server."""
    commits = case.volume.commits
    generations: list[object] = []

    def persist() -> None:
        told()
        generations.append(case.generation)

    before, told = case.generation, case.weights.persist
    case.weights.persist = persist
    publish_new(case)
    assert case.volume.commits == commits + 2
    assert generations[0] == before
    assert generations[1] != before


@pytest.mark.parametrize("damage", ["absent", "damaged", "older"])
def test_an_index_that_cannot_be_trusted_is_made_anew(case: Case, damage: str) -> None:
    """Absent, damaged or older than the generation, it is written again from what is there, and told of."""
    path = case.weights.layout.index
    if damage == "absent":
        path.unlink()
    elif damage == "damaged":
        path.write_bytes(path.read_bytes()[:-30])
    else:  # an older version of this worker published something since
        put(case.weights, sample("new"))
        case.facts.put(keys.WEIGHTS_GENERATION, "another")
    assert case.told() is None
    assert case.shown(case.generation) == case.shown(None)

    case.opened()
    case.mounted.publish_models()

    assert case.told() == case.there()


def test_a_blob_that_is_not_there_withholds_what_the_index_calls_whole(case: Case) -> None:
    """Where the list of blobs lacks one that the index promises, the model is looked at itself, and not shown."""
    case.weights.layout.blob(digest_of(b"weights of two")).unlink()
    view = ModelsView(case.folder / "models", case.folder / "disk")

    changes = view.copy(case.generation)

    assert [str(name) for name, _ in changes.withheld] == ["two:latest"]
    assert [str(name) for name in changes.brought] == ["one:latest", "three:latest"]


# -- a container whose first job has looked through the weights --------------------------------------------------------


SEEN = [change for change in CHANGES if change is not bring_what_another_lacks]
"""The other one begins with a blob that nobody took away: it is missed by the next look."""


@pytest.mark.parametrize("change", SEEN, ids=lambda change: change.__name__)
def test_what_a_job_saw_is_taken_for_what_was_told_and_no_blob_for_free(
    tmp_path_factory: pytest.TempPathFactory, change: Callable[[Case], None]
) -> None:
    """In a new container whose job has looked through the weights, a change that breaks off anywhere leaves known what
    every manifest needs; the worker tells of what is there, then or in the container after it."""
    for step in range(1, 200):
        case = Case(tmp_path_factory.mktemp("new"))
        for name in ("one", "two"):
            put(case.weights, sample(name, f"weights of {name}".encode(), b"template"))
        case.mounted.publish_models()
        case.opened()
        case.weights.survey()
        died = dies_at(step, lambda case=case: change(case))  # type: ignore[misc]
        with case.weights.exclusive(nothing):
            assert case.weights.needed() == read(case)
        if step % 2:
            case.opened()
            case.weights.survey()
        case.mounted.publish_models()
        assert case.told() == case.there()
        case.facts.close()
        if not died:
            return
    pytest.fail("it never came to its end")


class Other:
    """Another worker on the same volume, of the deployment before."""

    def __init__(self, case: Case) -> None:
        mounted = MountedWeights(case.volume, case.folder / "models", case.facts, HandClock())
        mounted.open()
        self.weights = mounted.weights


def other_publishes(case: Case) -> None:
    publish(Other(case).weights, sample("sibling", b"weights of two", b"template"))


def other_removes(case: Case) -> None:
    if case.weights.find(ModelName.parse("sibling")) is not None:
        remove(Other(case).weights, ModelName.parse("sibling"), still_ours=nothing)


def looks(case: Case) -> None:
    case.weights.survey()


def opens(case: Case) -> None:
    case.mounted.open()


def tells(case: Case) -> None:
    case.mounted.publish_models()


def replaces(case: Case) -> None:
    case.number = case.number + 1
    publish(case.weights, sample("one", b"weights of two", f"version {case.number}".encode()))


BETWEEN = [other_publishes, other_removes, looks, opens, tells, replaces]


@pytest.mark.parametrize("first", BETWEEN, ids=lambda step: step.__name__)
def test_whatever_two_workers_did_before_no_blob_that_a_manifest_needs_goes(
    tmp_path_factory: pytest.TempPathFactory, first: Callable[[Case], None]
) -> None:
    """In every order of what two workers do and see, a deletion then leaves each blob that a manifest refers to, and
    what is told is what is there."""
    for second, third in product(BETWEEN, repeat=2):
        case = Case(tmp_path_factory.mktemp("two"))
        for name in ("one", "two"):
            put(case.weights, sample(name, f"weights of {name}".encode(), b"template"))
        case.mounted.publish_models()
        case.opened()
        for step in (first, second, third):
            step(case)
        delete(case)
        needed = read(case)
        assert needed is not None
        assert all(case.weights.layout.blob(digest).is_file() for digest in needed), (second, third)
        assert case.told() == case.there(), (second, third)
        case.facts.close()


@pytest.mark.parametrize("before", [publish_new, publish_next_version, delete], ids=lambda change: change.__name__)
def test_a_survey_that_a_change_came_into_is_not_taken_for_what_was_told(
    case: Case, before: Callable[[Case], None]
) -> None:
    """A survey that saw some models as they were and others as they became is believed of none."""
    case.opened()
    earlier = case.weights.survey()
    before(case)
    later = case.weights.survey()
    case.opened()
    for torn in (
        replace(later, models=earlier.models),
        replace(later, models=later.models[:-1]),
        replace(later, models=later.models[1:]),
    ):
        case.weights.last_survey = torn
        assert case.weights.needed() == read(case)
        delete_if_there(case, "three")
        assert case.told() == case.there()
        assert all(case.weights.layout.blob(digest).is_file() for digest in read(case) or ())


def delete_if_there(case: Case, name: str) -> None:
    if case.weights.find(ModelName.parse(name)) is not None:
        remove(case.weights, ModelName.parse(name), still_ours=nothing)


def test_room_is_told_with_what_a_pull_left_unfinished(case: Case) -> None:
    """What a job of a new container has staged when it fails is counted in the room that is told when its worker
    leaves."""
    case.opened()
    case.weights.survey()
    staging = case.weights.stage("pull big:latest", "a")
    (staging.folder / "sha256-part").write_bytes(b"x" * 5_000_000)
    case.mounted.publish_models()
    assert case.facts.get(keys.WEIGHTS_ROOM)["used"] == case.weights.survey().usage_bytes
