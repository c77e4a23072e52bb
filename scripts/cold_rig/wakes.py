"""Wakes of a sleeping tier on the tests' control plane: how much of the wait is our own.

All of it is real but for two: Modal is the control plane of `tests/modal/platform`, which starts real containers by
Modal's own entrypoint, and the engine is `scripted_engine`, which says when it did what. What a caller waited, less
what the platform took until the container's first line and what the engine's script takes, is our own share. Its parts:

    asked      from the caller's request until the platform begins to start a container
    container  from the first line of our code there until the engine is started, less the reload of the volume
    noticed    from the engine's first answer until it is asked to load the model
    serves     from the model's being in memory until the platform knows that the server is ready
    handover   from then until the caller's own request reaches the engine
    answered   from then until the caller has the first byte
"""

import asyncio
import functools
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from cold_rig.needs import NoRig
from cold_rig.processor import imports_cost
from jobs.core.clock import SystemClock, isoformat
from jobs.store import keys
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
PARTS = ("asked", "container", "noticed", "serves", "handover", "answered")
WITHIN = 120.0
STORE_CALLS = ("DictGetOrCreate", "DictGet", "DictUpdate", "DictPop", "DictContains", "DictContents")


@dataclass(frozen=True)
class Script:
    """What is not ours, in seconds: until the engine answers, a load, and one look into the ledger."""

    engine: float = 0.5
    load: float = 0.5
    store: float = 0.0


@dataclass(frozen=True)
class Wake:
    """One: what the caller waited, what of it the platform and the script took, and the parts of the rest."""

    waited: float
    platform: float
    script: float
    parts: dict[str, float]
    trips: int
    """To the ledger, by the container until it was ready."""

    @property
    def own(self) -> float:
        return sum(self.parts.values())


class FarStore:
    """Stands before the control plane's dicts and volumes: takes its time over each entry, as a store far away does,
    and notes how long the platform took over each container's reload of its volume."""

    def __init__(self, platform: Platform, script: Script) -> None:
        #: By container. The control plane's loop writes, the benchmark reads.
        self.reloads: defaultdict[str, float] = defaultdict(float)
        self._script = script
        self._reload = platform.wire.method("VolumeReload")
        for name in ("dict_get_or_create", "dict_get", "dict_update", "dict_pop", "dict_contains"):
            setattr(self, name, functools.partial(self._late, getattr(platform.dicts, name)))

    async def _late(self, work: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
        await asyncio.sleep(self._script.store)
        return await work(request)

    async def volume_reload(self, request: Any) -> Any:
        began = time.time()
        try:
            return await self._reload(request)
        finally:
            self.reloads[caller.get()] += time.time() - began


class Plane:
    """A deployment on the control plane, whose servers can be put to sleep and woken."""

    def __init__(self, platform: Platform, url: str, steps: Path, store: FarStore) -> None:
        self._platform, self._url, self._steps, self._store = platform, url, steps, store
        self._http = httpx.Client(timeout=WITHIN)
        #: When each container asked the ledger, and when it was ready. Written by the control plane's loop.
        self._store_calls: dict[str, list[float]] = {}
        self._ready_at: dict[str, float] = {}
        platform.wire.meddler = self._heard

    def _heard(self, call: str, container: str) -> None:
        if call in STORE_CALLS:
            self._store_calls.setdefault(container, []).append(time.time())
        if call == "ContainerServerLifecycleReady":
            self._ready_at[container] = time.time()

    def close(self) -> None:
        self._http.close()

    def sleep(self) -> None:
        """Have the servers drained, as the platform does with those that nobody asks, and the gateway know it."""
        for server in self._platform.containers(SERVER):
            self._platform.drain(server)
            self._platform.wait_exit(server)
        until(lambda: self._state() == "asleep", f"tier {TIER} asleep", patience=WITHIN)

    def _state(self) -> str:
        tiers = self._http.get(f"{self._url}/ops/v1/tiers", headers=KEY).json()["tiers"]
        return str(next(each["state"] for each in tiers if each["tier"] == TIER))

    def wake(self) -> Wake:
        """Ask the sleeping tier, as a person's program does."""
        began = time.time()
        with self._http.stream("POST", f"{self._url}/api/chat", json=CHAT, headers=KEY) as answer:
            if answer.status_code != httpx.codes.OK:
                raise RuntimeError(f"the gateway answers {answer.status_code}: {answer.read().decode()[:500]}")
            pieces = answer.iter_bytes()
            next(pieces)
            first = time.time()
            for _ in pieces:
                pass
        [server] = self._platform.containers(SERVER)
        return self._told(server, began, first)

    def _told(self, server: Container, began: float, first: float) -> Wake:
        lines = (line.split() for line in self._steps.read_text("ascii").splitlines())
        at: dict[str, float] = {}
        for container, step, moment in lines:
            if container == server.id:
                at.setdefault(step, float(moment))
        # Python reads our first file when it begins with us; the file was new, so the kernel notes that.
        first_line = (server.home / "fs/root/app/endpoint.py").stat().st_atime
        ready, reload = self._ready_at[server.id], self._store.reloads[server.id]
        parts = {
            "asked": server.enqueued_at - began,
            "container": at["began"] - first_line - reload,
            "noticed": at["load"] - at["answers"],
            "serves": ready - at["loaded"],
            "handover": at["asked"] - ready,
            "answered": first - at["asked"],
        }
        return Wake(
            waited=first - began,
            platform=first_line - server.enqueued_at + reload,
            script=at["answers"] - at["began"] + at["loaded"] - at["load"],
            parts=parts,
            trips=sum(moment <= ready for moment in self._store_calls.get(server.id, ())),
        )


@contextmanager
def deployed(script: Script) -> Iterator[Plane]:
    """All of it, deployed, with a model on the volume and the gateway awake.

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
        began = f'printf "%s began %s\\n" "$MODAL_TASK_ID" "$EPOCHREALTIME" >>{shlex.quote(str(steps))}'
        (programs / "ollama").write_text(f"#!/bin/bash\n{began}\nexec {engine}\n")
        (programs / "ollama").chmod(0o755)
        nvidia_smi(programs, "echo 'NVIDIA A10G, 23028'")
        ollama, gateway = free_port(), free_port()
        environ = {
            "OLLAMA_MODAL_GATEWAY_PORT": str(gateway),
            "OLLAMA_MODAL_REFRESH_SECONDS": "0.5",
            "OLLAMA_MODAL_TRUST_SECONDS": "2",
            "OLLAMA_HOST": f"127.0.0.1:{ollama}",
            "COLD_RIG_SCRIPT": f"{steps},{script.engine},{script.load}",
        }
        settings = Settings(path_prefix=programs, environ=environ, idle_seconds=60, commit_seconds=5)
        with (
            RegistryDouble(LIBRARY) as registry,
            Platform(settings=settings) as platform,
            platform.client() as client,
        ):
            os.environ["OLLAMA_MODAL_REGISTRY"] = registry.url
            with_secrets(platform)
            deploy(platform)
            publish(platform, client, MODEL)
            url = platform.apps.server_urls[APP, "Gateway"] = f"http://127.0.0.1:{gateway}"
            [id_, secret] = TOKEN.values()
            platform.open_server(APP, SERVER, port=ollama, token=(id_, secret))
            platform.wait_ready(platform.start_server(APP, "Gateway"))
            deployed_facts(client).put(keys.SORTS_MOVED, {"v": 1, "at": isoformat(SystemClock().now())})
            store = FarStore(platform, script)
            platform.wire.families = [store, *platform.wire.families]
            plane = Plane(platform, url, steps, store)
            try:
                yield plane
            finally:
                plane.close()


def measured(number: int, script: Script) -> list[Wake]:
    """So many wakes, and one before them that is not counted: it fills what is kept between them."""
    wakes = []
    with deployed(script) as plane:
        for count in range(number + 1):
            plane.sleep()
            wake = plane.wake()
            if count:
                wakes.append(wake)
                print(f"  wake {count} of {number}: our share {wake.own:.3f} s", file=sys.stderr, flush=True)
    return wakes


def figures(wakes: Sequence[Wake], script: Script) -> dict[str, Any]:
    """What came of it, as a document."""
    return {
        "wakes": len(wakes),
        "script": {"engine": script.engine, "load": script.load, "store": script.store},
        "own_share": spread([wake.own for wake in wakes]),
        "parts": {part: spread([wake.parts[part] for wake in wakes]) for part in PARTS},
        "waited": spread([wake.waited for wake in wakes]),
        "platform": spread([wake.platform for wake in wakes]),
        "ledger_trips": round(statistics.median(wake.trips for wake in wakes)),
        "imports_processor_seconds": round(imports_cost(), 3),
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
    yield f"{'':24}{'p50':>9}{'p95':>9}"
    rows = [("our own share", "own_share"), ("what the caller waited", "waited"), ("the platform's part", "platform")]
    for name, key in rows[:1]:
        yield row(name, found[key])
    for part in PARTS:
        yield row(f"  {part}", found["parts"][part])
    for name, key in rows[1:]:
        yield row(name, found[key])
    yield (
        f"of it, processor time of the container's own imports: {found['imports_processor_seconds']:.3f} s;"
        f" {found['ledger_trips']} round trips to the ledger until a server is ready"
    )
    if found["load_average"] > (found["processors"] or 1):
        yield (
            f"this machine is busy: {found['load_average']:g} programs want its {found['processors']} processors, and"
            " waiting for one is in these figures"
        )


def row(name: str, value: dict[str, float]) -> str:
    return f"{name:24}{value['p50']:8.3f}s{value['p95']:8.3f}s"
