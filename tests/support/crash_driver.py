"""Publishes and removes models in children that are SIGKILLed, at each file system step and at random moments.

Run as a program with the folder and the number of random kills; prints how many children died where, as JSON. Whoever
started it may watch the models directory all the while: no name is ever published again after it was removed.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from itertools import count
from pathlib import Path

from jobs.core.errors import NotFound
from jobs.weights.directory import ModelsDirectory
from jobs.weights.removal import remove
from tests.support.models_directory import Sample, fill, nothing, publish, sample, weights_at

STEPS = frozenset(
    {"open", "os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir", "shutil.rmtree", "fcntl.flock"}
)


def child(work: Callable[[], None], dies_at: int | None) -> int:
    """Start `work` in a process of its own, which kills itself right before the given step."""
    pid = os.fork()
    if pid:
        return pid
    seen = 0

    def step(event: str, _: tuple[object, ...]) -> None:
        nonlocal seen
        if event in STEPS:
            seen += 1
            if seen == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(step)
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(pid: int) -> bool:
    """Whether the child came to its end; false when it was killed."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise SystemExit(f"a child ended with {status}")
    return status == 0


def files(weights: ModelsDirectory) -> set[Path]:
    return {path for path in weights.layout.root.rglob("*") if path.is_file()}


def recover(weights: ModelsDirectory, model: Sample) -> None:
    """The next attempt: fetches only what is missing, and ends as if nothing had happened."""
    staging = weights.stage(str(model.name), "next")
    present = tuple(layer.digest for layer in model.manifest.blobs if weights.blob_state(layer) == "present")
    weights.publish(model.name, model.manifest, fill(staging, model, but=present), still_ours=nothing)
    layout = weights.layout
    expected = {layout.manifest(model.name), *(layout.blob(digest) for digest in model.contents)}
    if files(weights) != expected or weights.verify(model.manifest.blobs):
        raise SystemExit(f"after recovery: {sorted(map(str, files(weights) ^ expected))}")


def clear(weights: ModelsDirectory, model: Sample) -> None:
    """Remove what is left, as a repeated job and a later prune do."""
    try:
        remove(weights, model.name, still_ours=nothing)
    except NotFound:
        for orphan in weights.survey().orphans:
            orphan.path.unlink()
        for folder, _, _ in os.walk(weights.layout.manifests, topdown=False):
            if not os.listdir(folder):  # noqa: PTH208 - os.walk speaks in texts
                os.rmdir(folder)  # noqa: PTH106
        weights.prepare()
    if files(weights):
        raise SystemExit(f"after removal: {sorted(map(str, files(weights)))}")


def killed_at_random(pid: int) -> bool:
    time.sleep(random.uniform(0, 0.02))
    os.kill(pid, signal.SIGKILL)
    return not ended(pid)


def main(root: Path, random_kills: int) -> None:
    weights = weights_at(root)
    numbers = count()
    told: dict[str, int] = {}

    def fresh() -> Sample:
        number = next(numbers)
        return sample(
            f"m{number}", *(f"{part} of {number}".encode() * 50 for part in "ab"), config=b'{"n":%d}' % number
        )

    def removing(model: Sample) -> Callable[[], None]:
        def work() -> None:
            remove(weights, model.name, still_ours=nothing)

        return work

    def publishing(model: Sample) -> Callable[[], None]:
        return lambda: publish(weights, model)

    for step in count(1):
        model = fresh()
        if ended(child(publishing(model), step)):
            clear(weights, model)
            break
        recover(weights, model)
        clear(weights, model)
        told["publish"] = step
    for step in count(1):
        publish(weights, model := fresh())
        if ended(child(removing(model), step)):
            break
        clear(weights, model)
        told["remove"] = step
    for _ in range(random_kills):
        model = fresh()
        told["random"] = told.get("random", 0) + killed_at_random(child(publishing(model), None))
        recover(weights, model)
        told["random"] += killed_at_random(child(removing(model), None))
        clear(weights, model)
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
