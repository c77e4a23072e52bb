"""Prune, rollback and replacing pulls on random directories, killed before every change they make."""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from jobs.core.errors import NotFound
from jobs.core.model_name import ModelName
from jobs.core.retention import RetentionRules
from jobs.testing.clock import HandClock
from jobs.weights import restore, trash_moves
from jobs.weights.directory import ModelsDirectory
from jobs.weights.prune_plan import PrunePlan, WeightsUse, plan
from jobs.weights.removal import remove
from jobs.weights.survey import SurveyedModel
from tests.support.crash_points import dies_at
from tests.support.models_directory import Sample, nothing, publish, put, put_blob, put_manifest, sample, weights_at

NOW = datetime(2026, 6, 1, tzinfo=UTC)
MEMORY = "/dev/shm"
LONG_AGO = NOW - timedelta(days=200)
NAMES = ("aa", "bb", "cc", "dd")
TARGET = ModelName.parse("aa")

parts = st.sets(st.integers(0, 4), min_size=1)


@dataclass(frozen=True)
class StoredModels:
    """What a directory is filled with."""

    models: dict[str, set[int]]
    older: dict[str, set[int]]
    """Versions that are in the trash, some of them long."""
    due: set[str]
    missing: set[int]
    orphans: set[int]
    torn: bool
    kept: set[str]


stored_models = st.builds(
    StoredModels,
    models=st.dictionaries(st.sampled_from(NAMES), parts, max_size=4),
    older=st.dictionaries(st.sampled_from(NAMES), parts, max_size=3),
    due=st.sets(st.sampled_from(NAMES)),
    missing=st.sets(st.integers(0, 4), max_size=1),
    orphans=st.sets(st.integers(10, 12)),
    torn=st.sampled_from([False, False, False, True]),
    kept=st.sets(st.sampled_from(NAMES), max_size=2),
)


def version(name: str, contents: set[int], generation: str) -> Sample:
    config = f'{{"v":"{generation}"}}'.encode()
    return sample(name, *(bytes([65 + part]) * 50 for part in sorted(contents)), config=config)


def filled(root: Path, stored: StoredModels) -> ModelsDirectory:
    clock = HandClock(NOW)
    weights = weights_at(root, clock=clock)
    weights.prepare()
    for name, contents in stored.older.items():
        put(weights, version(name, contents, "old"))
        age = timedelta(days=9 if name in stored.due else 1)
        clock.tick(-age.total_seconds())
        trash_moves.throw_models(weights, [ModelName.parse(name)], still_ours=nothing)
        clock.tick(age.total_seconds())
    for name, contents in stored.models.items():
        os.utime(put(weights, version(name, contents, "new")), (LONG_AGO.timestamp(),) * 2)
    for part in stored.orphans:
        put_blob(weights, bytes([65 + part]) * 50)
    for part in stored.missing:
        weights.layout.blob(f"sha256:{hashlib.sha256(bytes([65 + part]) * 50).hexdigest()}").unlink(missing_ok=True)
    if stored.torn:
        put_manifest(weights, "torn", b'{"schemaVersion":2,"config"')
    (weights.layout.blobs / "notes.txt").write_text("not ours")
    return weights


def prune_plan(weights: ModelsDirectory, stored: StoredModels) -> PrunePlan:
    retention = RetentionRules(
        unused=timedelta(days=30),
        kept={ModelName.parse(name): "pinned" for name in stored.kept},
        grace=timedelta(days=7),
    )
    use = WeightsUse(used_since=NOW - timedelta(days=300))
    return plan(weights.survey(), use, retention, NOW)


def files(weights: ModelsDirectory) -> dict[str, bytes]:
    root = weights.layout.root
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def require_sound(weights: ModelsDirectory, before: dict[str, bytes]) -> None:
    """Every published manifest has each blob that it had; a new one has all of them, with the right bytes."""
    for file in weights.layout.manifest_files():
        raw = file.path.read_bytes()
        was_there = before.get(str(file.path.relative_to(weights.layout.root))) == raw
        [found] = weights.known(file.name)
        if found.manifest is None:
            continue
        assert was_there or isinstance(found, SurveyedModel), f"{file.name} is published without {found}"
        for layer in found.manifest.blobs:
            path = weights.layout.blob(layer.digest)
            if str(path.relative_to(weights.layout.root)) in before or not was_there:
                assert hashlib.sha256(path.read_bytes()).hexdigest() == layer.hex


def killed_everywhere(
    stored: StoredModels,
    work: Callable[[ModelsDirectory], object],
    finish: Callable[[ModelsDirectory, dict[str, bytes]], None],
) -> None:
    """Do the work on copies of one directory, killed a step later each time; then let `finish` end it."""
    with TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as temporary:
        base = filled(Path(temporary) / "base", stored)
        before = files(base)
        for step in count(1):
            root = Path(temporary) / "work"
            shutil.copytree(Path(temporary) / "base", root)
            weights = weights_at(root, clock=HandClock(NOW))
            died = dies_at(step, lambda weights=weights: work(weights))  # type: ignore[misc]
            require_sound(weights, before)
            assert files(weights)["blobs/notes.txt"] == b"not ours"
            finish(weights, before)
            require_sound(weights, before)
            shutil.rmtree(root)
            if not died:
                break
        assert step > 1


# A failure is small enough as it is; making it smaller would take minutes.
once = (Phase.explicit, Phase.reuse, Phase.generate)
thorough = settings(deadline=None, max_examples=6, phases=once, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(stored_models)
def test_a_killed_prune_loses_nothing_referenced_and_the_next_one_finishes(stored: StoredModels) -> None:
    """At whatever operation it dies: every manifest keeps its blobs, nothing but expired trash is gone, the next prune
    ends with nothing to do, and the one after that changes nothing."""

    def work(weights: ModelsDirectory) -> None:
        trash_moves.follow(weights, prune_plan(weights, stored), still_ours=nothing)

    def finish(weights: ModelsDirectory, before: dict[str, bytes]) -> None:
        work(weights)
        work(weights)  # a model in the trash may have joined with blobs that were orphans until then
        after = files(weights)
        assert prune_plan(weights, stored).is_empty
        work(weights)
        assert files(weights) == after
        kept = {content for path, content in before.items() if not path.startswith("trash/")}
        assert kept <= set(after.values()), "what was not in the trash is there still, or in the trash"
        names = {str(model.name).removesuffix(":latest") for model in weights.models()}
        assert not names - stored.kept or stored.torn

    killed_everywhere(stored, work, finish)


@thorough
@given(stored_models, parts)
def test_a_killed_replacement_keeps_one_of_both_whole(stored: StoredModels, contents: set[int]) -> None:
    """A pull that replaces a model and dies leaves the old one or the new one; when it is done, the other is in the
    trash, and a rollback brings it back."""
    new = version("aa", contents, "newest")

    def work(weights: ModelsDirectory) -> None:
        publish(weights, new)

    def finish(weights: ModelsDirectory, before: dict[str, bytes]) -> None:
        work(weights)
        found = weights.find(TARGET)
        assert found is not None
        assert found.digest == new.manifest.digest
        old = before.get(f"manifests/{'/'.join(TARGET.path)}")
        assert old is None or old in files(weights).values()

    killed_everywhere(stored, work, finish)


@thorough
@given(stored_models, parts, parts)
def test_a_killed_rollback_keeps_one_of_both_whole(stored: StoredModels, one: set[int], other: set[int]) -> None:
    """At whatever operation it dies, the model is the one or the other, whole; done again, it is the earlier one."""
    stored = StoredModels(
        {**stored.models, "aa": one}, {**stored.older, "aa": other}, set(), set(), stored.orphans, False, set()
    )
    old = version("aa", other, "old")

    def work(weights: ModelsDirectory) -> None:
        restore.restore(weights, restore.newest_thrown(weights, TARGET), still_ours=nothing)

    def finish(weights: ModelsDirectory, before: dict[str, bytes]) -> None:
        found = weights.find(TARGET)
        assert found is not None
        if found.digest != old.manifest.digest:
            work(weights)
            found = weights.find(TARGET)
            assert found is not None
        assert found.digest == old.manifest.digest
        assert before[f"manifests/{'/'.join(TARGET.path)}"] in files(weights).values()
        trash_moves.follow(
            weights,
            prune_plan(weights, StoredModels({}, {}, set(), set(), set(), False, set(NAMES))),
            still_ours=nothing,
        )
        work(weights)  # undone: the newer one is whole in the trash
        assert weights.find(TARGET) is not None

    killed_everywhere(stored, work, finish)


@thorough
@given(stored_models)
def test_a_killed_deletion_loses_nothing_that_others_need(stored: StoredModels) -> None:
    """Neither a published model nor one in the trash misses a blob because another one was deleted."""

    def work(weights: ModelsDirectory) -> None:
        try:
            remove(weights, TARGET, still_ours=nothing)
        except NotFound:
            weights.prepare()

    def finish(weights: ModelsDirectory, before: dict[str, bytes]) -> None:
        work(weights)
        there = {path.rpartition("/")[2] for path in before if "/blobs/" in f"/{path}"}
        now = {path.rpartition("/")[2] for path in files(weights) if "/blobs/" in f"/{path}"}
        for folder in weights.survey().trash:
            for layer in folder.manifest.blobs if folder.manifest else ():
                assert layer.filename in now or layer.filename not in there

    killed_everywhere(stored, work, finish)
