"""Wakes of a sleeping tier on the tests' control plane: how much of the wait is our own.

All of it is real but for two: Modal is the control plane of `tests/modal/platform`, which starts real containers by
Modal's own entrypoint, and the engine is `scripted_engine`, which says when it did what. What a caller waited, less
what the platform took until the container's first line and what the engine's script takes, is our own share:

    asked      from the caller's request until the platform begins to start a container; what the ledger has of that,
               which is told first, is told by itself
    started    from the first line of our code there until the engine is started
    prepared   from the engine's first answer until it is asked to load the model, less the volume's reload
    serves     from the model's being in memory until the platform knows that the server is ready
    notice     from then until the caller's own request reaches the engine
    answered   from then until the caller has the first byte

Imports, the ledger and the copy of the view go on while the engine starts; as long as that takes longer they are in
nobody's way, and in no part.
"""

import asyncio
import functools
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from modal_proto import api_pb2

from app.model_server.report import Report
from cold_rig.needs import NoRig
from cold_rig.processor import imports_cost, processor_of
from jobs.core.clock import SystemClock, isoformat
from jobs.store import keys
from jobs.store.protocols import DictLike
from jobs.testing.models import LIBRARY
from jobs.testing.registry.server import RegistryDouble
from tests.modal.platform.containers import Container, Settings
from tests.modal.platform.isolation import unshare
from tests.modal.platform.plane import Platform
from tests.modal.platform.wire import caller
from tests.support.deployments import ADMIN_KEY, APP, TOKEN, deploy, deployed_facts, publish, with_secrets
from tests.support.processes import free_port, nvidia_smi
from tests.support.waiting import until

SERVER, TIER, MODEL = "OllamaA10G", "a10g", "tiny"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "stream": True}
KEY = {"authorization": f"Bearer {ADMIN_KEY}"}
WITHIN = 120.0
Interval = tuple[float, float]

ENGINE = r"""#!/bin/bash
read -r used </proc/$PPID/stat
set -- ${{used##*) }}
printf "%s began %s %s %s\n" "$MODAL_TASK_ID" "$EPOCHREALTIME" ${{12}} ${{13}} >>{steps}
exec {engine}
"""
"""In the engine's place: notes when it began, and the ticks of processor that its server had used by then."""


@dataclass(frozen=True)
class Script:
    """What is not ours, in seconds: until the engine answers, a load, and one look into the ledger."""

    engine: float = 0.5
    load: float = 0.5
    store: float = 0.0
    loads: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Of models whose load takes another time."""


@dataclass(frozen=True)
class Wake:
    """One: what the caller waited, what of it the platform and the script took, and the parts of the rest."""

    waited: float
    platform: float
    script: float
    parts: dict[str, float]
    processor: dict[str, float]
    """Seconds of processor of our own processes, by what they went to."""
    beside: dict[str, float]
    """Seconds from the container's first line until the engine answered, and until it could see its models, whichever
    is later holds the load up; and what of a start went by while the ledger was asked."""
    trips: int
    """To the ledger, by the container until it was ready."""

    @property
    def own(self) -> float:
        return sum(self.parts.values())


@dataclass
class Heard:
    """What the control plane heard of one container. Its loop writes, the benchmark reads."""

    trips: list[Interval] = field(default_factory=list)
    wanted: list[Interval] = field(default_factory=list)
    """Those of the trips by which it told, or was told, which model is waited for."""
    reloads: list[Interval] = field(default_factory=list)
    first_trip_processor: float = 0.0
    ready_at: float = 0.0
    ready_processor: float = 0.0


class FarStore:
    """Stands before the control plane's dicts and volumes: takes its time over each entry, as a store far away does,
    and notes when each container waited for one, and for the reload of its volume."""

    def __init__(self, platform: Platform, script: Script) -> None:
        self.heard: defaultdict[str, Heard] = defaultdict(Heard)
        self._platform, self._script = platform, script
        self._reload = platform.wire.method("VolumeReload")
        for name in ("dict_get_or_create", "dict_get", "dict_update", "dict_pop", "dict_contains"):
            setattr(self, name, functools.partial(self._late, getattr(platform.dicts, name)))
        platform.wire.meddler = self._met
        #: Entries whose keys have this in them are not there for who asks. Written by the benchmark.
        self.withheld = ""

    async def _late(self, work: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
        began = time.time()
        heard = self.heard[caller.get()]
        if not heard.trips:
            heard.first_trip_processor = self._processor()
        await asyncio.sleep(self._script.store)
        try:
            if self.withheld and isinstance(request, api_pb2.DictGetRequest) and self.withheld.encode() in request.key:
                return api_pb2.DictGetResponse(found=False)
            return await work(request)
        finally:
            heard.trips.append((began, time.time()))
            if b"wanted/" in request.SerializeToString():
                heard.wanted.append(heard.trips[-1])

    async def volume_reload(self, request: Any) -> Any:
        began = time.time()
        try:
            return await self._reload(request)
        finally:
            self.heard[caller.get()].reloads.append((began, time.time()))

    def _met(self, call: str, container: str) -> None:
        if call == "ContainerServerLifecycleReady":
            heard = self.heard[container]
            heard.ready_at, heard.ready_processor = time.time(), self._processor()

    def _processor(self) -> float:
        return next((processor_of(one.pid) for one in self._platform.containers(SERVER) if one.process), 0.0)


def seconds_in(intervals: Iterable[Interval], window: Interval) -> float:
    """How long, within the window, at least one of the intervals lasted."""
    total, reached = 0.0, window[0]
    for interval in sorted(intervals):
        begin, end = max(interval[0], reached), min(interval[1], window[1])
        if end > begin:
            total, reached = total + end - begin, end
    return total


class Plane:
    """A deployment on the control plane, whose servers can be put to sleep and woken."""

    def __init__(self, platform: Platform, facts: DictLike, url: str, steps: Path, store: FarStore) -> None:
        self._platform, self._facts, self._url, self._steps, self._store = platform, facts, url, steps, store
        self._http = httpx.Client(timeout=WITHIN)
        [self._gateway] = platform.containers("Gateway")

    def close(self) -> None:
        self._http.close()

    def withhold(self, part_of_key: str) -> None:
        """From now on the ledger does not tell of entries whose keys have this in them; of all where it is empty."""
        self._store.withheld = part_of_key

    def sleep(self) -> None:
        """Have no server there, and the gateway know it: each is killed and its last word said for it, since a server's
        own end takes seconds."""
        clock = SystemClock()
        for server in self._platform.containers(SERVER):
            self._platform.kill(server)
            ended = Report(TIER, server.id, "ended", clock.now())
            self._facts.put(ended.key, ended.as_json())
        until(lambda: self._state() == "asleep", f"tier {TIER} asleep", patience=WITHIN)

    def _state(self) -> str:
        tiers = self._http.get(f"{self._url}/ops/v1/tiers", headers=KEY).json()["tiers"]
        return str(next(each["state"] for each in tiers if each["tier"] == TIER))

    def wake(self) -> Wake:
        """Ask the sleeping tier, as a person's program does."""
        self._steps.write_bytes(b"")
        self._store.heard.clear()
        used, began = processor_of(self._gateway.pid), time.time()
        with self._http.stream("POST", f"{self._url}/api/chat", json=CHAT, headers=KEY) as answer:
            if answer.status_code != httpx.codes.OK:
                raise RuntimeError(f"the gateway answers {answer.status_code}: {answer.read().decode()[:500]}")
            pieces = answer.iter_bytes()
            next(pieces)
            first = time.time()
            used = processor_of(self._gateway.pid) - used
            for _ in pieces:
                pass
        [server] = self._platform.containers(SERVER)
        return self._told(server, (began, first), used)

    def loads_before_answer(self) -> int:
        """How many models the engine had loaded before the last wake's caller came to it."""
        steps = [line.split()[1] for line in self._steps.read_text("ascii").splitlines()]
        return steps[: steps.index("asked")].count("loaded")

    def _told(self, server: Container, whole: Interval, gateway_processor: float) -> Wake:
        at: dict[str, float] = {}
        before = 0.0
        for line in self._steps.read_text("ascii").splitlines():
            container, step, moment, *ticks = line.split()
            if container == server.id:
                at.setdefault(step, float(moment))
                before += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        # Python reads our first file when it begins with us; the file was new, so the kernel notes that.
        first_line = (server.home / "fs/root/app/endpoint.py").stat().st_atime
        heard, gateway = self._store.heard[server.id], self._store.heard[self._gateway.id]
        asked, started = (whole[0], server.enqueued_at), (first_line, at["began"])
        waits = (at["answers"], at["load"])
        reload = seconds_in(heard.reloads, waits)
        ledger = seconds_in(gateway.wanted, asked)
        parts = {
            "ledger, before": ledger,
            "asked": asked[1] - asked[0] - ledger,
            "started": started[1] - started[0],
            "prepared": waits[1] - waits[0] - reload,
            "serves": heard.ready_at - at["loaded"],
            "notice": at["asked"] - heard.ready_at,
            "answered": whole[1] - at["asked"],
        }
        return Wake(
            waited=whole[1] - whole[0],
            platform=first_line - server.enqueued_at + reload,
            script=at["answers"] - at["began"] + at["loaded"] - at["load"],
            parts=parts,
            processor={
                "until it asks the ledger": heard.first_trip_processor - before,
                "until it is ready": heard.ready_processor - before,
                "the gateway's": gateway_processor,
            },
            beside={
                "the engine answers": at["answers"] - first_line,
                "the view is whole": at["view"] - first_line,
                "ledger": seconds_in(heard.trips, (first_line, heard.ready_at)),
            },
            trips=sum(end <= heard.ready_at for _, end in heard.trips),
        )


@contextmanager
def deployed(script: Script, *models: str) -> Iterator[Plane]:
    """All of it, deployed, with these models on the volume, or `MODEL` alone, and the gateway awake.

    Raises:
        NoRig: no container can have its volume here.

    """
    if not unshare():
        raise NoRig("this kernel lets nobody mount, so that no container can have its volume at /models")
    with tempfile.TemporaryDirectory(prefix="ollama-modal-wakes-") as scratch:
        programs, steps = Path(scratch, "bin"), Path(scratch, "steps")
        programs.mkdir()
        steps.touch()
        engine = shlex.join([sys.executable, "-S", "-E", str(Path(__file__).with_name("scripted_engine.py"))])
        (programs / "ollama").write_text(ENGINE.format(steps=shlex.quote(str(steps)), engine=engine))
        (programs / "ollama").chmod(0o755)
        nvidia_smi(programs, "echo 'NVIDIA A10G, 23028'")
        ollama, gateway = free_port(), free_port()
        environ = {
            "OLLAMA_MODAL_GATEWAY_PORT": str(gateway),
            "OLLAMA_MODAL_REFRESH_SECONDS": "0.25",
            "OLLAMA_MODAL_TRUST_SECONDS": "0.2",
            "OLLAMA_HOST": f"127.0.0.1:{ollama}",
            "COLD_RIG_SCRIPT": f"{steps},{script.engine},{script.load}",
            "COLD_RIG_LOADS": json.dumps(dict(script.loads)),
        }
        settings = Settings(path_prefix=programs, environ=environ, idle_seconds=60, commit_seconds=5, warm=False)
        with (
            RegistryDouble(LIBRARY) as registry,
            Platform(settings=settings) as platform,
            platform.client() as client,
        ):
            os.environ["OLLAMA_MODAL_REGISTRY"] = registry.url
            with_secrets(platform)
            deploy(platform)
            publish(platform, client, *(models or (MODEL,)))
            url = platform.apps.server_urls[APP, "Gateway"] = f"http://127.0.0.1:{gateway}"
            [id_, secret] = TOKEN.values()
            platform.open_server(APP, SERVER, port=ollama, token=(id_, secret))
            platform.wait_ready(platform.start_server(APP, "Gateway"))
            facts = deployed_facts(client)
            facts.put(keys.SORTS_MOVED, {"v": 1, "at": isoformat(SystemClock().now())})
            store = FarStore(platform, script)
            platform.wire.families = [store, *platform.wire.families]
            plane = Plane(platform, facts, url, steps, store)
            try:
                yield plane
            finally:
                plane.close()


def measured(number: int, script: Script) -> list[Wake]:
    """So many wakes, and one before them that is not counted: it fills what is kept between them. Whoever breaks it off
    has those that were."""
    wakes: list[Wake] = []
    with deployed(script) as plane:
        try:
            for count in range(number + 1):
                plane.sleep()
                wake = plane.wake()
                if count:
                    wakes.append(wake)
                    print(f"  wake {count} of {number}: our share {wake.own:.3f} s", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            if not wakes:
                raise
    return wakes


def figures(wakes: Sequence[Wake], script: Script) -> dict[str, Any]:
    """What came of it, as a document."""
    whole, before = imports_cost()
    return {
        "wakes": len(wakes),
        "script": {"engine": script.engine, "load": script.load, "store": script.store},
        "own_share": spread([wake.own for wake in wakes]),
        "parts": {part: spread([wake.parts[part] for wake in wakes]) for part in wakes[0].parts},
        "processor": {part: spread([wake.processor[part] for wake in wakes]) for part in wakes[0].processor},
        "beside": {part: spread([wake.beside[part] for wake in wakes]) for part in wakes[0].beside},
        "waited": spread([wake.waited for wake in wakes]),
        "platform": spread([wake.platform for wake in wakes]),
        "ledger_trips": round(statistics.median(wake.trips for wake in wakes)),
        "imports_processor_seconds": round(whole - before, 3),
        "interpreter_processor_seconds": round(before, 3),
        "load_average": round(os.getloadavg()[0], 1),
        "processors": os.cpu_count(),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median and the 95th percentile."""
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 4),
        "p95": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 4),
    }


def table(found: dict[str, Any]) -> Iterator[str]:
    """The same, as lines."""
    script = found["script"]
    yield (
        f"{found['wakes']} wakes of a sleeping tier on the control plane; the engine answers after"
        f" {script['engine']:g} s, loads in {script['load']:g} s; {script['store'] * 1000:g} ms to the ledger"
    )
    yield f"{'':28}{'p50':>9}{'p95':>9}"
    yield row("our own share", found["own_share"])
    yield from (row(f"  {part}", each) for part, each in found["parts"].items())
    yield row("what the caller waited", found["waited"])
    yield row("the platform's part", found["platform"])
    yield "from the first line of the container, beside one another:"
    yield from (row(f"  {part}", each) for part, each in found["beside"].items())
    yield "processor time of a container, and of the gateway:"
    yield from (row(f"  {part}", each) for part, each in found["processor"].items())
    yield (
        f"a container's own imports: {found['imports_processor_seconds']:.3f} s of processor, and"
        f" {found['interpreter_processor_seconds']:.3f} s before for the interpreter and the client;"
        f" {found['ledger_trips']} round trips to the ledger until a server is ready"
    )
    if found["load_average"] > (found["processors"] or 1):
        yield (
            f"this machine is busy: {found['load_average']:g} programs want its {found['processors']} processors, and"
            " waiting for one is in these figures, but for the processor time"
        )


def row(name: str, value: dict[str, float]) -> str:
    return f"{name:28}{value['p50']:8.3f}s{value['p95']:8.3f}s"
