"""A gateway in a process of its own, for those who look at its memory and its patience from outside.

`python -m tests.support.gateway_process FOLDER KEYS TIER=URL…` prints its address and answers until its stdin ends.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from app.gateway.batches.parts import BatchParts
from jobs.batches.files.storage import BatchStorage
from jobs.core.model_name import ModelName
from jobs.models.card import Card, KnownModel
from jobs.models.gguf import GgufHeader
from tests.support.checkout import ROOT
from tests.support.gateways import CLOCK, ModelList, gateway
from tests.support.tiers import A10G, H100
from tests.support.waiting import PATIENCE

GB = 1_000_000_000

HEADER = GgufHeader(
    3,
    {
        "general.architecture": "llama",
        "llama.block_count": 28,
        "llama.context_length": 131_072,
        "llama.embedding_length": 3_072,
        "llama.attention.head_count": 24,
        "llama.attention.head_count_kv": 8,
        "llama.attention.key_length": 128,
        "llama.attention.value_length": 128,
    },
    (),
    0,
)
"""Of a model that fits an A10G with its usual context, and with 100,000 tokens does not."""

TIERS = tuple(replace(tier, context=8192, parallel=4, cache_type="q8_0") for tier in (A10G, H100))
SIZES = {"llama3.2": 2 * GB, "Nomic-Embed": GB, "deepseek-r1:32b": 19 * GB}


@dataclass(frozen=True)
class Process:
    """A gateway that answers at `url`."""

    url: str
    pid: int
    loop: int
    """The thread that the event loop runs in."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def rss(self) -> int:
        """Bytes of memory that it has now."""
        return self._bytes("VmRSS")

    def most_rss(self) -> int:
        """The most that it had since the last `forget_most`."""
        return self._bytes("VmHWM")

    def forget_most(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def loop_seconds(self) -> float:
        """How long the event loop has worked, however busy the machine is."""
        return self._worked(f"task/{self.loop}/stat")

    def seconds(self) -> float:
        """How long all of it has worked."""
        return self._worked("stat")

    def _worked(self, file: str) -> float:
        fields = Path(f"/proc/{self.pid}/{file}").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _bytes(self, field: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


@contextmanager
def gateway_process(folder: Path, servers: Mapping[str, str], keys: str = "") -> Iterator[Process]:
    """A gateway in front of these servers, by tier; it ends with the block."""
    with (folder / "gateway.err").open("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder), keys, *(f"{tier}={url}" for tier, url in servers.items())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            cwd=ROOT,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            ready = process.stdout.readline().split()
            assert ready, (folder / "gateway.err").read_text()
            yield Process(ready[0], process.pid, int(ready[1]))
        finally:
            process.stdin.close()
            process.wait(PATIENCE)
            process.stdout.close()


def main(folder: str, keys: str, *servers: str) -> None:
    urls = dict(each.split("=", 1) for each in servers)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    card = Card({}, HEADER, "")
    models = [KnownModel(ModelName.parse(name), "f00", size, moment, {}, (), card) for name, size in SIZES.items()]
    tiers = [tier for tier in TIERS if tier.name in urls]
    batches = BatchParts(BatchStorage(Path(folder) / "batches", CLOCK))
    with gateway(Path(folder), urls, keys=keys, source=ModelList(models), tiers=tiers, batches=batches) as running:
        print(running.url, running.server._thread.native_id, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
