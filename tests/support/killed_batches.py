"""A batch whose worker, gateway and server are killed over and over: `python -m tests.support.killed_batches`, or
`scripts/kill_batches`.

One of the three is sent SIGKILL at a random moment, again and again, while a batch of short lines runs on one machine;
a gateway is started again by hand, as a service manager would, the others by `up` itself. In the end each `custom_id`
has one result, no byte of the results is torn, and no more lines were asked of the simulator twice than were under way.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jobs.batches.batch_store import Batch, BatchStore
from jobs.batches.files.storage import BatchStorage
from jobs.batches.records import BatchRecord
from jobs.batches.running.lines_at_work import BEYOND
from jobs.core.clock import SystemClock
from tests.support.batch_files import documents, line, packed, posted
from tests.support.local_stack import Shell, Up, family, up
from tests.support.waiting import WHOLE, until

PARALLEL = 4
"""Requests that the simulated server answers side by side."""

PROMPT_MILLISECONDS = 60

AMID = 0.8
"""So many kills come while lines are answered again; the others may come while things start."""

VICTIMS = ("worker", "gateway", "server")

MODEL = "tiny"


@dataclass
class Killed:
    """What came of it.

    Args:
        kills: how often each was killed.
        batch: as it ended.
        ids: of the results, in the order of the files.
        again: how often a line was asked for beyond once, over all lines.
        most_under_way: lines that may be on their way at a kill; one of the slots stays free for people.
        seconds: it took.

    """

    kills: Counter[str]
    batch: Batch
    ids: list[str]
    again: int
    most_under_way: int
    seconds: float


@dataclass
class _Case:
    shell: Shell
    log: Path
    draw: random.Random
    kills: Counter[str] = field(default_factory=Counter)

    def asked(self) -> int:
        """How much was asked of the simulator."""
        return self.log.stat().st_size

    def has_asked_more(self, than: int) -> bool:
        return self.asked() > than


def kill_through(folder: Path, *, kills: int, lines: int, seed: int = 0, pause: float = 1.0) -> Killed:
    """Run a batch of so many lines while so many kills come, each after a random part of twice the `pause`."""
    began, log = time.monotonic(), folder / "generations"
    environ = {
        "OLLAMA_NUM_PARALLEL": str(PARALLEL),
        "OLLAMA_SIM_PROMPT_MILLISECONDS": str(PROMPT_MILLISECONDS),
        "OLLAMA_SIM_GENERATIONS": str(log),
    }
    case = _Case(Shell(folder, environ), log, random.Random(seed))
    with ExitStack() as ending:
        at = ending.enter_context(up(case.shell, "--simulate"))
        assert case.shell.run("pull", MODEL).returncode == 0
        store = case.shell.store()
        ending.callback(store.close)
        storage = BatchStorage(folder / "om" / "batches", SystemClock())
        batches = BatchStore(store.facts, store.ledger(), store.clock)
        record = _post(storage, batches, lines)
        until(log.exists, patience=WHOLE)
        while case.kills.total() < kills:
            if case.draw.random() < AMID:
                until(partial(case.has_asked_more, case.asked()), "lines are answered", patience=WHOLE)
            time.sleep(case.draw.uniform(0, 2 * pause))
            assert not batches.get(record.id).has_ended, f"only {case.kills.total()} kills came before its end"
            at = _kill_one(case, at, ending)
        until(lambda: batches.get(record.id).has_ended, patience=WHOLE, shows=lambda: batches.get(record.id))
        return _found(case, storage, batches.get(record.id), time.monotonic() - began)


def _post(storage: BatchStorage, batches: BatchStore, lines: int) -> BatchRecord:
    def body(number: int) -> dict[str, object]:
        return {"model": MODEL, "messages": [{"role": "user", "content": f"line {number}"}], "max_tokens": 3}

    texts = (line(number, body=body(number)) for number in range(1, lines + 1))
    record = posted(storage, storage.save("", "lines.jsonl", packed(texts)))
    batches.post(record)
    return record


def _kill_one(case: _Case, at: Up, ending: ExitStack) -> Up:
    """Kill one of those that are there; the `up` that runs then."""
    victim = case.draw.choice(VICTIMS)
    if victim == "gateway":
        at.process.send_signal(signal.SIGKILL)
        at.process.communicate()
        case.kills[victim] += 1
        return ending.enter_context(up(case.shell, "--simulate"))
    found = running(at, {"worker": "app.local.batches", "server": "jobs.testing.ollama"}[victim])
    for pid in found[:1]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            case.kills[victim] += 1
    return at


def running(at: Up, module: str) -> list[int]:
    """The processes below `up` that run a module."""
    found = []
    for pid in family(at.process.pid):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"-m" in words and words[words.index(b"-m") + 1] == module.encode():
                found.append(pid)
    return found


def _found(case: _Case, storage: BatchStorage, batch: Batch, seconds: float) -> Killed:
    assert batch.end is not None
    ids = [
        str(each["custom_id"])
        for id in (batch.end.output_file_id, batch.end.error_file_id)
        if id is not None
        for each in documents(storage, storage.file(id))
    ]
    asked = Counter(case.log.read_text("utf-8").splitlines())
    again = sum(count - 1 for said, count in asked.items() if said.startswith("line "))
    return Killed(case.kills, batch, ids, again, PARALLEL - 1 + BEYOND, seconds)


def is_kept(found: Killed, lines: int) -> list[str]:
    """What does not hold of what was promised."""
    kills = found.kills.total()
    wrong = []
    if found.batch.status != "completed":
        wrong.append(f"the batch is {found.batch.status}: {found.batch.errors}")
    if sorted(found.ids) != sorted(f"id-{number}" for number in range(1, lines + 1)):
        twice = [id for id, count in Counter(found.ids).items() if count > 1]
        wrong.append(f"{len(found.ids)} results of {lines} lines; twice: {twice[:5]}")
    if found.batch.counts.completed != lines:
        wrong.append(f"{found.batch.counts} of {lines} lines")
    if found.again > kills * found.most_under_way:
        wrong.append(f"{found.again} lines were asked for again after {kills} kills")
    return wrong


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/kill_batches", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--lines", type=int, default=6_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two kills, on average")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="killed-batch-", ignore_cleanup_errors=True) as folder:
        found = kill_through(Path(folder), kills=chosen.kills, lines=chosen.lines, seed=chosen.seed, pause=chosen.pause)
    told = ", ".join(f"{count} of the {victim}" for victim, count in sorted(found.kills.items()))
    print(
        f"{found.kills.total()} kills in {found.seconds:.0f} s: {told}\n"
        f"{len(found.ids):,} results of {chosen.lines:,} lines, each once; {found.again:,} asked for again,"
        f" {found.again / max(1, found.kills.total()):.1f} a kill"
    )
    wrong = is_kept(found, chosen.lines)
    for each in wrong:
        print(f"BROKEN: {each}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
