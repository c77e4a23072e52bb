"""What a cold start takes: by how the bytes of a model come in, and what of it is our own share.

    scripts/bench_cold [--gb 1.34] [--runs 2] [--background 12,256]     all, on this machine
    scripts/bench_cold --only ways --runs 3                             how the bytes come in, each way three times
    scripts/bench_cold --only wakes [--wakes 200]                       our own share alone
    scripts/bench_cold --only other [--others 5]                        another model than the warmed one, before, after
    scripts/bench_cold --url https://… --key …                          the cold starts of a real deployment

The first is a real llama.cpp on a volume as slow as a network's, and all of what follows; the next two are on the
tests' control plane (`wakes`, `other_model`).

The volume is a view by FUSE with a latency for each request, a rate for each stream and a rate in all; it is mounted
anew for each start, so that nothing of it is in the page cache. The model has random weights, and the engine is the
wheel `xllamacpp` in an environment of its own, on the processor. Each way runs once before any runs again, so that
a busy machine is busy for all; figures are medians. Seconds count from the engine's first line; the floor is
bytes / rate.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from app.model_server.starting.bytes_read import taken_in
from app.model_server.starting.death_signal import with_death_signal
from app.model_server.starting.memory_limit import memory_limit
from app.model_server.starting.read_ahead import ReadAhead, most_ahead
from cold_rig import deployment, other_model, wakes
from cold_rig.needs import NoRig
from cold_rig.processor import busy
from cold_rig.slow_volume import VolumeSpeed, build, mounted, remove_left_over, scratch
from jobs.cli.terminal.table import table as terminal_table
from jobs.core.clock import SystemClock
from jobs.telemetry.cold_table import SPEED_HEAD, speed_cells

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / ".tools/cold"
PACKAGES = ("xllamacpp>=2026.10", "gguf>=0.17")
MODES = ("mmap", "none", "dio")
READERS = (8, 16, 32)
START_SECONDS = 600


@dataclass(frozen=True)
class Way:
    """How the bytes come in: the engine's load mode, and how many readers read ahead of it."""

    mode: str
    readers: int = 0

    @property
    def name(self) -> str:
        return f"{self.mode}, {self.readers} readers ahead" if self.readers else self.mode


def ways_of(modes: Sequence[str], readers: Sequence[int]) -> tuple[Way, ...]:
    """Each mode by itself, then each with so many readers ahead; past the page cache nobody can read ahead."""
    return (*map(Way, modes), *(Way(mode, count) for mode in modes if mode != "dio" for count in readers))


@dataclass(frozen=True)
class Start:
    """One start: seconds to the engine's readiness, to its first token, and what the readers ahead had done by then."""

    ready: float
    first_token: float
    read_ahead: int


def environment() -> Path:
    """The Python that has the engine.

    Raises:
        NoRig: it could not be made.

    """
    folder = FOLDER / "environment"
    done = subprocess.run(
        [str(ROOT / "scripts/setup"), str(folder), sys.executable, *PACKAGES],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise NoRig(f"{', '.join(PACKAGES)} cannot be installed: {done.stderr.strip()[-500:]}")
    return folder / "bin/python"


def start(python: Path, model: Path, way: Way) -> Start:
    """Start the engine on a model that nobody has read, with readers ahead of it if the way has them.

    Raises:
        RuntimeError: it did not come to a token.

    """
    dies_with_us = with_death_signal(os.getpid(), signal.SIGKILL)
    words = [*dies_with_us, str(python), str(Path(__file__).with_name("engine.py")), str(model), way.mode]
    clock = SystemClock()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as engine:
        ahead = ReadAhead(
            [model] if way.readers else [],
            clock,
            most_ahead=most_ahead(memory_limit()),
            taken_in=lambda: taken_in(engine.pid) or 0,
            readers=way.readers or 1,
        )
        ahead.start()
        try:
            out, err = engine.communicate(timeout=START_SECONDS)
        finally:
            engine.kill()
            ahead.stop()
            ahead.join()
    if engine.returncode:
        raise RuntimeError(f"the engine ended with {engine.returncode}: {err.strip()[-500:]}")
    told = json.loads(out.splitlines()[-1])
    return Start(told["ready"], told["first_token"], ahead.progress().done)


@dataclass(frozen=True)
class Rig:
    """What all starts share."""

    program: Path
    python: Path
    model: Path
    ways: tuple[Way, ...]

    def starts(self, speed: VolumeSpeed, runs: int) -> dict[Way, list[Start]]:
        """Each way as often, in turn, each on a volume of its own."""
        starts: dict[Way, list[Start]] = {way: [] for way in self.ways}
        with scratch() as folder:
            for way in self.ways * runs:
                with mounted(self.program, self.model.parent, folder / "volume", speed) as volume:
                    starts[way].append(start(self.python, volume / self.model.name, way))
                print(f"  {way.name}: {starts[way][-1].first_token:.2f} s", file=sys.stderr, flush=True)
        return starts


def table(size: int, speed: VolumeSpeed, alone: Start, starts: dict[Way, list[Start]]) -> Iterator[str]:
    """What came of it, as lines."""
    floor = speed.floor(size)
    plain = statistics.median(each.first_token for each in next(iter(starts.values())))
    yield (
        f"{size / 1e9:.2f} GB, {speed.latency_ms:g} ms a request, {speed.stream_mb:g} MB/s a stream,"
        f" {speed.total_mb:g} MB/s in all, {speed.background} requests in the background;"
        f" floor {floor:.2f} s, the engine alone on a warm cache {alone.first_token:.2f} s"
    )
    rows = []
    for way, each in starts.items():
        ready = statistics.median(one.ready for one in each)
        first = statistics.median(one.first_token for one in each)
        runs = " ".join(f"{one.first_token:.2f}" for one in each)
        rows.append((way.name, *speed_cells(ready, first, size / first, first / floor), f"{first / plain:.2f}", runs))
    yield from terminal_table(
        ("BYTES BY", *SPEED_HEAD, f"X {next(iter(starts)).name.upper()}", "EACH RUN'S FIRST TOKEN"), rows
    )
    yield from busy()


def ways_figures(size: int, speed: VolumeSpeed, alone: Start, starts: dict[Way, list[Start]]) -> dict[str, Any]:
    """The same, as a document."""
    medians = {
        way.name: {
            "ready": round(statistics.median(one.ready for one in each), 3),
            "first_token": round(statistics.median(one.first_token for one in each), 3),
            "read_ahead": round(statistics.median(one.read_ahead for one in each)),
            "first_tokens": [round(one.first_token, 3) for one in each],
        }
        for way, each in starts.items()
    }
    return {
        "bytes": size,
        "volume": asdict(speed),
        "floor": round(speed.floor(size), 3),
        "alone": alone.first_token,
        "medians": medians,
    }


def ways(options: argparse.Namespace) -> list[dict[str, Any]]:
    """How the bytes come in.

    Raises:
        NoRig: something that it needs is not here.

    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    program, python = build(FOLDER), environment()
    found = []
    remove_left_over()
    with scratch() as folder:
        model = folder / "models" / "model.gguf"
        model.parent.mkdir()
        maker = str(Path(__file__).with_name("make_model.py"))
        subprocess.run([str(python), maker, str(model), str(int(options.gb * 1e9))], check=True)
        start(python, model, Way("mmap"))  # into the cache, and llama.cpp's own files as well
        alone = start(python, model, Way("mmap"))
        usual = VolumeSpeed(options.latency_ms, options.stream_mb, options.total_mb)
        for background in options.background:
            speed = replace(usual, background=background)
            compared = ways_of(options.modes.split(","), options.readers)
            starts = Rig(program, python, model, compared).starts(speed, options.runs)
            print("\n".join(table(model.stat().st_size, speed, alone, starts)), flush=True)
            found.append(ways_figures(model.stat().st_size, speed, alone, starts))
    return found


def own_share(options: argparse.Namespace) -> dict[str, Any]:
    """What of a wake is our own.

    Raises:
        NoRig: something that it needs is not here.

    """
    script = wakes.Script(options.engine_seconds, options.load_seconds, options.ledger_ms / 1000)
    found = wakes.figures(wakes.measured(options.wakes, script), script)
    print("\n".join(wakes.table(found)), flush=True)
    return found


def other(options: argparse.Namespace) -> dict[str, Any]:
    """A cold start of a model that is not the warmed one, before and after.

    Raises:
        NoRig: something that it needs is not here.

    """
    script = wakes.Script(options.engine_seconds, options.load_seconds, options.ledger_ms / 1000)
    waited = other_model.measured(options.others, script, options.warmed_seconds)
    found = other_model.figures(waited, script, options.warmed_seconds)
    print("\n".join(other_model.table(found)), flush=True)
    return found


def parts(options: argparse.Namespace) -> dict[str, Any]:
    """Each part that was asked for; one that cannot run here says why in a line, and the others go on."""
    if options.url:
        return {"deployment": deployment.told(options.url, options.key, options.since)}
    found: dict[str, Any] = {}
    for name, measure in (("ways", ways), ("wakes", own_share), ("other", other)):
        if options.only in (name, "all"):
            try:
                found[name] = measure(options)
            except NoRig as missing:
                print(f"{name}: not measured here: {missing}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual, script = VolumeSpeed(), wakes.Script()
    parser.add_argument("--only", choices=("all", "ways", "wakes", "other"), default="all", help="one part of it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    here = parser.add_argument_group("how the bytes come in")
    here.add_argument("--gb", type=float, default=1.34, help="the size of the model")
    here.add_argument(
        "--runs", type=int, default=2, help="of each way; one of all ways on both volumes takes two to three minutes"
    )
    here.add_argument("--modes", default=",".join(MODES), help="of the engine; the first is what all are compared to")
    here.add_argument(
        "--readers",
        type=lambda text: [int(each) for each in text.split(",")],
        default=list(READERS),
        help="how many read ahead of it",
    )
    here.add_argument("--latency-ms", type=float, default=usual.latency_ms, help="of each request")
    here.add_argument("--stream-mb", type=float, default=usual.stream_mb, help="megabytes a second of one request")
    here.add_argument("--total-mb", type=float, default=usual.total_mb, help="megabytes a second of all")
    here.add_argument(
        "--background",
        type=lambda text: [int(each) for each in text.split(",")],
        default=[usual.background, 256],
        help="requests that the kernel has under way for one who reads ahead: a volume for each number",
    )
    own = parser.add_argument_group("our own share")
    own.add_argument("--wakes", type=int, default=200, help="of a sleeping tier; each takes some seconds")
    own.add_argument("--engine-seconds", type=float, default=script.engine, help="until the scripted engine answers")
    own.add_argument("--load-seconds", type=float, default=script.load, help="that its loads take")
    own.add_argument("--ledger-ms", type=float, default=20.0, help="that each round trip to the ledger takes")
    another = parser.add_argument_group("another model than the warmed one, before and after")
    another.add_argument("--others", type=int, default=5, help="wakes for it, each way")
    another.add_argument("--warmed-seconds", type=float, default=4.0, help="that the load of the warmed one takes")
    real = parser.add_argument_group("a real deployment")
    real.add_argument("--url", default="", help="its gateway: what it has recorded is told, nobody is woken")
    real.add_argument("--key", default=os.environ.get("OLLAMA_MODAL_KEY", ""), help="or OLLAMA_MODAL_KEY")
    real.add_argument("--since", default="7d", help="how far back")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that it leaves as by Ctrl-C
    found = parts(options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
