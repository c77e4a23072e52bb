"""A pull whose workers are killed: at every fact, at every step in the file system, and at many random moments.

Real processes and real SIGKILLs. Whatever happens, the job ends once, the models directory is that of an undisturbed
pull, little is fetched twice, and nobody ever sees half a model.
"""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import httpx
import pytest

from jobs.ledger.job import Job, JobState
from jobs.testing.registry.faults import RegistryFault
from jobs.testing.registry.server import RegistryDouble
from tests.support.killed_worker import lived, started
from tests.support.pull_setup import ATTEMPTS, CONNECTIONS, MODEL, RANGE_BYTES, Reader, Scene, post, snapshot, working
from tests.support.stores import Store
from tests.support.waiting import PATIENCE, until

AT_ONCE = 8
"""Stories told side by side: most of each is waiting for a lease to run out."""

FINAL = {"succeeded", "failed", "cancelled"}


@dataclass
class Story:
    """A posted pull, its registry, and what is left to tell of it."""

    scene: Scene
    double: RegistryDouble
    store: Store
    id: str
    kills: int = 0

    def job(self) -> Job:
        return self.store.ledger().reader.get(self.id)

    def run(self, dies_at: int | None = None) -> bool:
        """One more worker; whether it lived to see the end."""
        return self._counted(lived(started(self.scene, self.id, dies_at)))

    def run_for(self, seconds: float) -> bool:
        """One more worker that is killed after this time."""
        return self._counted(lived(started(self.scene, self.id), for_seconds=seconds))

    def _counted(self, has_lived: bool) -> bool:
        self.kills += not has_lived
        return has_lived

    def check(self, expected: dict[str, str]) -> None:
        """Whatever was done to its workers, it ended as it should."""
        job = self.job()
        assert job.state is JobState.SUCCEEDED, job
        facts = dict(self.store.facts.items())
        claims, ends = ([key for key in facts if key.startswith(f"{sort}/{self.id}/")] for sort in ("claim", "end"))
        assert len(claims) == len(ends) == len(job.attempts) <= ATTEMPTS
        assert [facts[key]["outcome"] for key in ends if facts[key]["outcome"] in FINAL] == ["succeeded"]
        lost = len(job.attempts) - 1  # by a kill, or because this machine was too busy to beat in time
        assert [each.outcome for each in job.attempts] == ["lost"] * lost + ["succeeded"], job
        found = snapshot(self.scene.folder / "models")
        assert found == expected, sorted(set(found.items()) ^ set(expected.items()))
        assert sum(self.double.served.values()) <= MODEL.size + lost * CONNECTIONS * RANGE_BYTES


@contextmanager
def told(folder: Path, reader: Reader, *, throttle: int | None = None) -> Iterator[Story]:
    folder.mkdir()
    with RegistryDouble([MODEL], throttle=throttle) as double:
        scene = Scene(folder, double.url)
        store = scene.store()
        weights = scene.weights()
        reader.watch(weights)
        try:
            yield Story(scene, double, store, post(store, attempts=ATTEMPTS))
        finally:
            reader.leave(weights)
            store.close()


@pytest.fixture
def reader() -> Iterator[Reader]:
    with Reader() as reader:
        yield reader


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The models directory after a pull that nobody disturbs."""
    with (
        Reader() as reader,
        told(tmp_path_factory.mktemp("calm") / "story", reader) as story,
        httpx.Client(timeout=PATIENCE) as client,
    ):
        with working(story.store, story.scene.context(client)):  # whose lease no busy machine lets run out
            until(lambda: story.job().has_ended)
        assert story.double.served == {digest: blob.size for digest, blob in MODEL.blobs.items()}
        assert len(story.job().attempts) == 1
        return snapshot(story.scene.folder / "models")


def test_killed_at_every_write_a_pull_ends_once(tmp_path: Path, reader: Reader, expected: dict[str, str]) -> None:
    """Two workers in a row die at their k-th write, for every k until one gets through; the third ends the job."""

    def story(k: int) -> int:
        with told(tmp_path / f"{k}", reader) as story:
            died = not story.run(dies_at=k)
            if died and not story.run(dies_at=k):
                assert story.run()
            story.check(expected)
            return story.kills

    kills: list[int] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for first in count(1, AT_ONCE):
            batch = list(pool.map(story, range(first, first + AT_ONCE)))
            kills += batch
            if not any(batch):
                break
    print(f"{sum(kills)} kills at {len(kills) - AT_ONCE} points, {reader.reads} reads")
    assert sum(kills) > 60
    assert reader.models_seen


def test_killed_at_random_moments_a_pull_ends_once(tmp_path: Path, reader: Reader, expected: dict[str, str]) -> None:
    """Worker after worker dies in the midst of a slow pull, until one is left alone."""

    def story(seed: int) -> int:
        rng = random.Random(seed)
        with told(tmp_path / f"{seed}", reader, throttle=MODEL.size // 2) as story:
            try:
                for _ in range(10):
                    if story.run_for(rng.uniform(0.02, 0.8)):
                        break
                else:
                    assert story.run()
                story.check(expected)
            except AssertionError as error:
                error.add_note(f"seed {seed}")
                raise
            return story.kills

    base = random.SystemRandom().randrange(1 << 30)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        kills = list(pool.map(story, range(base, base + 2 * AT_ONCE)))
    print(f"{sum(kills)} kills, {reader.reads} reads")
    assert sum(kills) > 30
    assert reader.models_seen


def test_two_workers_at_once_end_a_pull_once(tmp_path: Path, reader: Reader, expected: dict[str, str]) -> None:
    """Two workers share a store, either is killed at any moment and another one started, and the job ends once."""

    def story(seed: int) -> int:
        rng = random.Random(seed)
        with told(tmp_path / f"{seed}", reader, throttle=MODEL.size) as story:

            def workers(seeded: int) -> None:
                times = random.Random(seeded)
                for _ in range(6):
                    if story.run_for(times.uniform(0.1, 1.2)):
                        return
                assert story.run()

            try:
                with ThreadPoolExecutor(2) as pair:
                    list(pair.map(workers, (rng.random(), rng.random())))
                story.check(expected)
            except AssertionError as error:
                error.add_note(f"seed {seed}")
                raise
            return story.kills

    base = random.SystemRandom().randrange(1 << 30)
    with ThreadPoolExecutor(AT_ONCE // 2) as pool:
        kills = list(pool.map(story, range(base, base + AT_ONCE)))
    print(f"{sum(kills)} kills, {reader.reads} reads")
    assert sum(kills) > 10
    assert reader.models_seen


def test_a_job_whose_id_was_wiped_away_is_queued_again(tmp_path: Path, reader: Reader) -> None:
    """The queue is emptied by hand under a queued job, and again under one that waits for its next try; it ends."""
    with told(tmp_path / "story", reader) as story:
        story.double.faults.add(RegistryFault("manifest", "status", 503, retry_after=1))
        assert story.store.empty_queue() == 1

        child = started(story.scene, story.id)
        until(lambda: story.job().state is JobState.WAITING)
        assert not lived(child, for_seconds=0)
        until(lambda: story.store.ledger().sweep().enqueued == (story.id,))
        assert story.store.empty_queue() == 1

        assert story.run()
        outcomes = [each.outcome for each in story.job().attempts]
        assert [each for each in outcomes if each != "lost"] == ["retry", "succeeded"]  # too busy to beat in time: lost
