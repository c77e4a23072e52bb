"""The control plane keeps the promises our code relies on, seen through the real client and real containers."""

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import modal
import pytest
from grpclib import GRPCError, Status
from modal.client import Client
from modal_proto import api_pb2

from jobs.testing.clock import HandClock
from tests.modal.platform.containers import Container, Settings
from tests.modal.platform.forked import Forked, can_fork
from tests.modal.platform.packages import KEPT
from tests.modal.platform.plane import Platform
from tests.modal.platform.sample_apps import forgetful
from tests.modal.platform.sample_apps.serving import app as serving_app
from tests.modal.platform.volumes import View, Volume
from tests.support.deployments import modal_command
from tests.support.processes import free_port, is_running
from tests.support.waiting import PATIENCE, until

SAMPLES = "tests.modal.platform.sample_apps"


@pytest.fixture(scope="module")
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(scope="module")
def platform(clock: HandClock) -> Iterator[Platform]:
    with Platform(clock=clock, settings=Settings(commit_seconds=0.5, idle_seconds=30)) as platform:
        platform.settings.mount_variables["SAMPLE_MOUNT"] = "/weights"
        yield platform


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[Client]:
    with platform.client() as client:
        yield client


def deploy(platform: Platform, module: str) -> None:
    done = modal_command(platform, "deploy", "-m", f"{SAMPLES}.{module}", ONLY_ON_THE_HOST="yes")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def tiny(platform: Platform) -> Platform:
    """The platform with the app `tiny` deployed."""
    platform.create_secret("tiny-secret", {"TOKEN": "t0ken"})
    deploy(platform, "tiny")
    return platform


@pytest.fixture(scope="module")
def serving(platform: Platform, client: Client) -> Platform:
    serving_app.deploy(client=client)
    return platform


@pytest.fixture
def modal_queue(request: pytest.FixtureRequest, client: Client) -> modal.Queue:
    return modal.Queue.from_name(request.node.name[:60], create_if_missing=True, client=client)


@pytest.fixture
def facts(request: pytest.FixtureRequest, client: Client) -> modal.Dict:
    return modal.Dict.from_name(request.node.name[:60], create_if_missing=True, client=client)


def test_queue_removes_what_it_hands_out(modal_queue: modal.Queue) -> None:
    """A queue is first in first out, `get` removes, `iterate` does not, and an empty one says so in two ways."""
    modal_queue.put("a")
    modal_queue.put_many(["b", "c", "d"])

    assert list(modal_queue.iterate()) == ["a", "b", "c", "d"]
    assert modal_queue.get() == "a"
    assert modal_queue.get_many(2) == ["b", "c"]
    assert modal_queue.len() == 1
    modal_queue.clear()
    assert modal_queue.get(block=False) is None
    with pytest.raises(queue.Empty):
        modal_queue.get(timeout=0.05)


def test_queue_partitions_are_apart_and_fade(modal_queue: modal.Queue, clock: HandClock) -> None:
    """Partitions do not see each other's items, and a whole partition is gone its time to live after the last put."""
    modal_queue.put(1, partition="pull", partition_ttl=60)
    clock.tick(50)
    modal_queue.put(2, partition="pull", partition_ttl=60)
    modal_queue.put(3, partition="warm")
    clock.tick(50)
    assert (modal_queue.len(partition="pull"), modal_queue.len(total=True), modal_queue.len()) == (2, 3, 0)
    clock.tick(10)
    assert (modal_queue.len(partition="pull"), modal_queue.len(total=True)) == (0, 1)


def test_queue_full_refuses(modal_queue: modal.Queue) -> None:
    """The 5,001st item of a partition is refused, and an item over 1 MiB is too large."""
    modal_queue.put_many(list(range(5_000)))
    with pytest.raises(queue.Full):
        modal_queue.put(0, block=False)
    with pytest.raises(queue.Full):
        modal_queue.put(0, timeout=0.3)
    with pytest.raises(modal.exception.RequestSizeError):
        modal_queue.put(b"x" * (1 << 20), partition="other")


def test_queue_get_waits_for_a_put(modal_queue: modal.Queue) -> None:
    """A blocked `get` returns as soon as something is put, and each item goes to one of the many who wait."""
    with ThreadPoolExecutor(8) as pool:
        takers = [pool.submit(modal_queue.get, timeout=PATIENCE) for _ in range(8)]
        started = time.monotonic()
        modal_queue.put_many(list(range(8)))
        taken = sorted(int(taker.result() or 0) for taker in takers)
    assert taken == list(range(8))
    assert time.monotonic() - started < PATIENCE


def test_lost_reply_of_a_put_puts_twice(platform: Platform, modal_queue: modal.Queue) -> None:
    """A put whose reply is lost is repeated by the client, and then the item is there twice."""
    modal_queue.put("once")
    platform.wire.lose_replies("QueuePut")
    modal_queue.put("twice")
    assert modal_queue.get_many(10) == ["once", "twice", "twice"]


def test_dict_first_writer_wins_among_threads(facts: modal.Dict) -> None:
    """Of many conditional writes of one key, from many threads, exactly one is told that it wrote."""
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda n: facts.put("claim", n, skip_if_exists=True), range(64)))
    assert won.count(True) == 1
    assert facts["claim"] == won.index(True)


def test_dict_holds_copies_and_lists_them_whole(facts: modal.Dict) -> None:
    """Values are copies; `get`, `pop`, `contains`, `len` and the scans agree on what is there."""
    facts.update({"a": {"n": 1}, "b": {"n": 2}})
    facts["a"]["n"] = 100
    assert dict(facts.items()) == {"a": {"n": 1}, "b": {"n": 2}}
    assert sorted(facts.keys()) == ["a", "b"]
    assert facts.put("a", {"n": 3})
    assert facts.pop("a") == {"n": 3}
    assert facts.get("a") is None
    assert ("a" in facts, "b" in facts, facts.len()) == (False, True, 1)
    with pytest.raises(KeyError):
        facts.pop("a")


def test_dict_forgets_after_seven_idle_days(facts: modal.Dict, clock: HandClock) -> None:
    """An entry fades seven days after it was last read or written; a scan keeps nothing alive."""
    facts.update({"read": 1, "idle": 2})
    clock.tick(6 * 86_400)
    assert facts["read"] == 1
    assert facts.len() == 2
    clock.tick(86_400)
    assert list(facts.keys()) == ["read"]
    assert facts.put("idle", 3, skip_if_exists=True)


def test_async_twins_reach_the_same_objects(modal_queue: modal.Queue, facts: modal.Dict) -> None:
    """`.aio` methods and plain ones meet in the same queue and the same dict."""

    async def story() -> tuple[object, object]:
        await modal_queue.put.aio("hello")
        await facts.put.aio("k", "v")
        return await modal_queue.get.aio(), await facts.get.aio("k")

    assert asyncio.run(story()) == ("hello", "v")
    assert facts["k"] == "v"


def test_names_live_in_environments(client: Client) -> None:
    """One name in two environments is two objects; names nobody made and unknown environments are not found."""
    here = modal.Dict.from_name("apart", create_if_missing=True, client=client)
    there = modal.Dict.from_name("apart", create_if_missing=True, client=client, environment_name="test")
    here["k"] = 1
    assert "k" not in there
    for missing in (
        modal.Queue.from_name("nobody-made-this", client=client),
        modal.Queue.from_name("q", client=client, create_if_missing=True, environment_name="prod"),
    ):
        with pytest.raises(modal.exception.NotFoundError):
            missing.len()


RACER = """
import modal, sys
facts = modal.Dict.from_name("race", create_if_missing=True)
modal_queue = modal.Queue.from_name("race", create_if_missing=True)
modal_queue.get(timeout=30)
print(sum(facts.put(f"claim/{n}", sys.argv[1], skip_if_exists=True) for n in range(50)))
"""


def test_two_processes_share_one_truth(platform: Platform, client: Client) -> None:
    """Two client processes race for fifty claims; each is won once, and both processes see the same winner."""
    facts = modal.Dict.from_name("race", create_if_missing=True, client=client)
    modal_queue = modal.Queue.from_name("race", create_if_missing=True, client=client)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, name],
            env={**os.environ, **platform.environ()},
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("left", "right")
    ]
    modal_queue.put_many(["go", "go"])
    won = [int(racer.communicate(timeout=PATIENCE)[0]) for racer in racers]
    assert sum(won) == 50
    assert sorted(facts.values()) == ["left"] * won[0] + ["right"] * won[1]


def test_killed_waiter_takes_nothing_with_it(platform: Platform, modal_queue: modal.Queue) -> None:
    """A process killed while it waits in `get` loses no item that is put afterwards."""
    waiter = subprocess.Popen(
        [sys.executable, "-c", f"import modal; modal.Queue.from_name({modal_queue.name!r}).get()"],
        env={**os.environ, **platform.environ()},
    )
    modal_queue.len()
    before = platform.wire.counts["QueueGet"]
    until(lambda: platform.wire.counts["QueueGet"] > before)
    waiter.kill()
    waiter.wait()
    modal_queue.put("still here")
    assert modal_queue.get(timeout=PATIENCE) == "still here"


def function(client: Client, name: str) -> modal.Function[..., Any, Any]:
    return modal.Function.from_name("tiny", name, client=client)


def test_deploy_asks_for_what_the_code_says(tiny: Platform, serving: Platform) -> None:
    """Everything a deployment asks for can be read back: GPU, port, windows, mounts, schedule, secrets, image."""
    web = serving.function("serving", "Web").definition
    assert web.is_server
    assert (web.resources.gpu_config.gpu_type, web.resources.gpu_config.count) == ("A10G", 1)
    assert (web.http_config.port, web.http_config.unauthenticated) == (11434, False)
    assert (web.http_config.startup_timeout, web.http_config.exit_grace_period) == (120, 30)
    assert web.autoscaler_settings.max_containers == 2
    assert web.autoscaler_settings.scaledown_window == 300
    assert web.autoscaler_settings.target_concurrency_float == 4
    [mount] = web.volume_mounts
    assert (mount.mount_path, mount.read_only) == ("/weights", True)
    assert serving.volume_name(mount.volume_id) == "tiny-weights"

    functions = tiny.functions("tiny")
    assert functions["tick"].definition.schedule.cron.cron_string == "*/5 * * * *"
    assert functions["tick"].definition.schedule.cron.timezone == "Europe/Berlin"
    assert functions["write"].definition.timeout_secs == 3600
    assert not functions["write"].definition.volume_mounts[0].read_only
    assert not functions["write"].definition.resources.gpu_config.gpu_type
    assert tiny.secret_names(functions["look"]) == ["tiny-secret"]
    assert tiny.image(functions["look"]).environ()["COLOR"] == "deep blue"
    assert any(line.startswith("FROM ") for line in tiny.image(functions["look"]).commands)
    assert "/root/jobs/core/model_name.py" in tiny.mounts.files(functions["look"].definition.mount_ids)


def test_deploy_again_keeps_what_did_not_change(platform: Platform, client: Client) -> None:
    """A second deployment of the same code is the same app, with the same functions in the same version."""
    forgetful.app.deploy(client=client)
    app, before = platform.app("forgetful").id, platform.function("forgetful", "parse")
    version = before.version
    forgetful.app.deploy(client=client)
    assert platform.app("forgetful").id == app
    assert platform.function("forgetful", "parse") is before
    assert before.version == version


def needy(secret: modal.Secret) -> modal.App:
    app = modal.App("needy")
    app.function(serialized=True, secrets=[secret], image=modal.Image.debian_slim())(lambda: None)
    return app


def test_deploy_needs_its_secrets_and_its_environment(platform: Platform, client: Client) -> None:
    """A secret that does not exist, or lacks a required key, stops the deployment; so does an unknown environment."""
    secret = modal.Secret.from_name("needed", required_keys=["TOKEN"])
    with pytest.raises(modal.exception.NotFoundError, match="Secret 'needed' not found in environment 'test'"):
        needy(secret).deploy(client=client, environment_name="test")
    platform.create_secret("needed", {"OTHER": "x"}, "test")
    with pytest.raises(modal.exception.ConflictError, match=r"missing key\(s\): TOKEN"):
        needy(secret).deploy(client=client, environment_name="test")
    with pytest.raises(modal.exception.NotFoundError, match="Environment 'prod' not found"):
        needy(secret).deploy(client=client, environment_name="prod")
    with pytest.raises(KeyError):
        platform.app("needy", "test")


def test_sixth_schedule_is_refused(client: Client) -> None:
    """A workspace runs five schedules; an app that would make it six is not deployed."""
    app = modal.App("punctual")
    for n in range(6):
        app.function(serialized=True, name=f"tick-{n}", schedule=modal.Period(days=1))(lambda: None)
    with pytest.raises(modal.exception.ConflictError, match="reached limit of 5 cron jobs"):
        app.deploy(client=client)


def test_run_goes_to_its_end_and_leaves_nothing(tiny: Platform) -> None:
    """`modal run` calls and spawns into containers, streams their logs, and its app and containers end with it."""
    done = modal_command(tiny, "run", "-m", f"{SAMPLES}.tiny::main", "--word", "hi")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hi: deep blue, llama3.2:latest" in done.stdout
    assert "spawned ['greeting']" in done.stdout
    assert "looking around" in done.stdout
    assert tiny.volume("tiny-weights").files() == {"greeting": b"hi"}
    assert {app.name for app in tiny.running_apps()} <= {"tiny", "serving", "forgetful", "answering"}
    assert tiny.containers() == []


def test_source_that_was_not_added_is_not_there(platform: Platform, client: Client) -> None:
    """Without `add_local_python_source` a container cannot import the package, though this repository can."""
    platform.settings.start_attempts = 1
    with forgetful.app.run(client=client), pytest.raises(ModuleNotFoundError, match="No module named 'jobs'"):
        forgetful.parse.remote("llama3.2")
    platform.settings.start_attempts = 3


def answering(number: int) -> modal.App:
    app = modal.App("answering")
    app.function(serialized=True, name="which", max_containers=1)(lambda: number)
    app.function(serialized=True, name="double", max_containers=1)(lambda n: 2 * n)
    return app


def test_new_deployment_replaces_the_containers(platform: Platform, client: Client) -> None:
    """After a deployment that changes a function, its next input runs in a container with the new code."""
    which = modal.Function.from_name("answering", "which", client=client)
    answering(1).deploy(client=client)
    assert which.remote() == 1
    [old] = platform.containers("which")
    answering(2).deploy(client=client)
    assert which.remote() == 2
    assert platform.wait_exit(old) == 0


def test_map_hands_out_many_inputs(platform: Platform, client: Client) -> None:
    """`map` gives every input to a container and returns the results in order."""
    answering(3).deploy(client=client)
    double = modal.Function.from_name("answering", "double", client=client)
    assert list(double.map(range(20))) == [2 * n for n in range(20)]


def test_container_sees_its_image_and_nothing_of_the_host(tiny: Platform, client: Client) -> None:
    """A deployed function is found by name; its container has the image's and secrets' variables, its own home, and of
    packages what its image declares, here none, and what Modal mounts."""
    seen = function(client, "look").remote()
    assert seen["color"] == "deep blue"
    assert seen["token"] == "t0ken"
    assert seen["ci"] is None
    assert seen["local"] is False
    assert str(tiny.home) in seen["file"]
    assert str(tiny.home) in seen["home"]
    assert seen["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"  # `debian_slim()` takes the client's
    kept = (str(tiny.home), str(KEPT), str(Path(sys.base_prefix).resolve()))
    assert [path for path in seen["path"] if not str(Path(path).resolve()).startswith(kept)] == []
    assert {"aiohttp", "grpclib", "protobuf"} <= set(seen["packages"])  # come with the client
    assert not {"ollama-modal", "modal", "httpx", "pytest"} & set(seen["packages"])


@pytest.mark.skipif(not can_fork(), reason="without root no fork gets mounts of its own, so none is forked")
def test_a_forked_container_is_like_one_that_starts_by_itself(tiny: Platform, client: Client) -> None:
    """It has the same variables, path, streams and handlers; what was read before it came is Modal's and Python's."""

    def seen(*, fresh: bool) -> dict[str, Any]:
        for each in tiny.containers("look"):
            tiny.kill(each)
        tiny.settings.fresh = fresh
        found = function(client, "look").remote()
        tiny.settings.fresh = False
        [container] = tiny.containers("look")
        del found["environ"]["MODAL_SERVER_URL"]  # each has an address of its own
        assert isinstance(container.process, Forked) is not fresh
        known: dict[str, Any] = json.loads(json.dumps(found).replace(container.id, "ID"))
        return known

    forked, fresh = seen(fresh=False), seen(fresh=True)
    for part in ("environ", "path", "started", "signals", "packages"):
        assert forked[part] == fresh[part]
    assert set(fresh["modules"]) - set(forked["modules"]) <= {"importlib._abc"}
    more = {name.partition(".")[0] for name in {*forked["modules"]} - {*fresh["modules"]}}
    assert more <= sys.stdlib_module_names


def test_nothing_deployed_is_not_found(tiny: Platform, client: Client) -> None:
    """Functions of apps that were never deployed, and names an app does not have, are not found."""
    for app, name in (("nobody", "look"), ("tiny", "nobody")):
        with pytest.raises(modal.exception.NotFoundError, match="nobody"):
            modal.Function.from_name(app, name, client=client).spawn()


def test_exceptions_arrive_by_their_class(tiny: Platform, client: Client) -> None:
    """A builtin exception of a deployed function is raised again as itself."""
    with pytest.raises(ValueError, match="as planned"):
        function(client, "fail").remote("as planned")


def test_one_container_at_a_time(tiny: Platform, client: Client) -> None:
    """With `max_containers=1` many spawned inputs all run, one after the other, in a single container."""
    calls = [function(client, "write").spawn(f"one-{n}", "x") for n in range(6)]
    for call in calls:
        call.get(timeout=PATIENCE)
    assert len(tiny.containers("write")) == 1
    assert {f"one-{n}" for n in range(6)} <= set(tiny.volume("tiny-weights").files())


def test_a_view_of_the_volume_moves_only_when_told(tiny: Platform, client: Client) -> None:
    """A commit publishes; a running container sees it after a reload and not before; a new one sees it at once."""
    read, write = function(client, "read"), function(client, "write")
    assert read.remote("moving", reload=False) == "absent"
    write.remote("moving", "first")
    assert read.remote("moving", reload=False) == "absent"
    assert read.remote("moving") == "first"
    write.remote("moving", "second")
    assert read.remote("moving", reload=False) == "first"
    for container in tiny.containers("read"):
        tiny.kill(container)
    assert read.remote("moving", reload=False) == "second"


def test_reload_fails_while_a_file_is_open(tiny: Platform, client: Client) -> None:
    """A reload is refused while any process of the container has a file of the volume open."""
    function(client, "write").remote("held", "x")
    assert function(client, "read").remote("held") == "x"
    with pytest.raises(RuntimeError, match="open files preventing the operation"):
        function(client, "read").remote("held", hold=True)
    assert function(client, "read").remote("held") == "x"


def test_what_ended_takes_nothing_from_a_volume(tmp_path: Path) -> None:
    """A commit that is still under way when its container has ended publishes nothing, and takes nothing away."""
    volume = Volume(tmp_path / "volume")
    view = View(volume, tmp_path / "view", read_only=False)
    view.path.mkdir()
    (view.path / "weights").write_bytes(b"one")
    view.commit()
    view.close()
    view.commit()
    assert volume.files() == {"weights": b"one"}
    assert view.identities() == set()


def test_background_commits_publish_in_time(tiny: Platform, client: Client) -> None:
    """What a container wrote and did not commit is published by itself after a while."""
    function(client, "write").remote("slow", "x", commit=False)
    until(lambda: "slow" in tiny.volume("tiny-weights").files())


def test_read_only_mounts_refuse_writes(tiny: Platform, client: Client) -> None:
    """Writing to a volume that is mounted read-only fails as on the platform, even for root."""
    if not tiny.settings.namespaces:
        pytest.skip("this machine allows no mount namespaces")
    with pytest.raises(OSError, match="Read-only file system"):
        function(client, "spoil").remote()


def test_killed_container_runs_its_input_again(tiny: Platform, client: Client) -> None:
    """After SIGKILL the same input runs again without retries; only what was committed is left of the first attempt."""
    tiny.settings.commit_seconds = 3600
    call = function(client, "linger").spawn("killed")
    container = wait_until_lingering(tiny, client, "killed")
    tiny.kill(container)
    assert container.exit_code == -9
    assert call.get(timeout=PATIENCE) == "attempt 2: ['killed-1', 'killed-2', 'killed-2-late']"
    tiny.settings.commit_seconds = 0.5


def test_killed_container_may_leave_a_call_behind(tiny: Platform, client: Client) -> None:
    """A call that is read when its container is there no more is refused, and is no mistake of the control plane."""
    killed: list[Container] = []

    def kill_who_says_hello(name: str, id: str) -> GRPCError | None:
        if name != "ContainerHello" or killed:
            return None
        (container,) = (each for each in tiny.containers() if each.id == id)
        if container.process is None:
            return GRPCError(Status.UNAVAILABLE, "say it again: it is not known yet that this runs")
        killed.append(container)
        os.kill(container.pid, signal.SIGKILL)
        until(lambda: not is_running(container.pid))
        return None

    for idle in tiny.containers("write"):
        tiny.kill(idle)
    tiny.wire.meddler = kill_who_says_hello
    try:
        function(client, "write").remote("hello", "x")
    finally:
        tiny.wire.meddler = lambda *_: None
    assert [container.exit_code for container in killed] == [-signal.SIGKILL]
    assert tiny.wire.failures == []


def test_preempted_container_commits_and_its_input_runs_again(tiny: Platform, client: Client) -> None:
    """After SIGINT the code is interrupted, what it left is committed, and the same input runs again."""
    call = function(client, "linger").spawn("taken")
    container = wait_until_lingering(tiny, client, "taken")
    tiny.preempt(container)
    assert call.get(timeout=PATIENCE) == "attempt 2: ['taken-1', 'taken-1-late', 'taken-2', 'taken-2-late']"
    facts = modal.Dict.from_name("tiny-facts", client=client)
    assert facts["taken/interrupted"] == 1
    assert tiny.wait_exit(container) == 0


def wait_until_lingering(platform: Platform, client: Client, key: str) -> Container:
    facts = modal.Dict.from_name("tiny-facts", create_if_missing=True, client=client)
    until(lambda: facts.get(key) is not None)
    return next(one for one in platform.containers("linger") if one.inputs)


def test_cancelled_call_ends(tiny: Platform, client: Client) -> None:
    """A cancelled call interrupts its container's work and tells whoever waits for it."""
    call = function(client, "linger").spawn("cancelled")
    wait_until_lingering(tiny, client, "cancelled")
    call.cancel()
    with pytest.raises(modal.exception.Error):
        call.get(timeout=60)
    assert modal.Dict.from_name("tiny-facts", client=client)["cancelled"] == 1


def test_schedules_run_when_the_test_says_so(tiny: Platform) -> None:
    """A scheduled function runs once for each time it is fired, and never by itself."""
    assert tiny.result(tiny.fire("tiny", "tick")) == 1
    assert tiny.result(tiny.fire("tiny", "tick")) == 2
    with pytest.raises(AssertionError, match="has no schedule"):
        tiny.fire("tiny", "look")


def test_server_lives_from_enter_to_drain(serving: Platform, client: Client) -> None:
    """A server starts its child, reports ready, answers, and on SIGTERM ends its child and itself with exit code 0."""
    port = free_port()
    serving.settings.environ["PORT"] = str(port)
    server = serving.start_server("serving", "Web")
    serving.wait_ready(server)
    server_handle = modal.Server.from_name("serving", "Web", client=client)
    assert [one.container_id for one in server_handle._experimental_list_containers()] == [server.id]

    def status() -> int:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/greeting", timeout=PATIENCE).status_code
        except httpx.ConnectError:
            return 0

    assert until(status) in (200, 404)

    serving.drain(server)
    assert serving.wait_exit(server) == 0
    assert "drained" in server.output
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE)


def test_a_server_is_snapped_between_its_hooks(platform: Platform, tmp_path: Path) -> None:
    """The entrypoint takes a memory snapshot of a server, where the platform asks for one: after the module and what is
    marked `snap`, before anything else; it goes on when it is restored. What the module itself has started is in it."""
    restored = tmp_path / "restore-state.json"
    more = {"MODAL_ENABLE_SNAP_RESTORE": "1", "MODAL_RESTORE_STATE_PATH": str(restored)}
    platform.settings.environ.update(more)
    try:
        deploy(platform, "snapped")
        server = platform.start_server("snapped", "Snapped")
        until(lambda: server.is_snapped or server.state == "exited", "a snapshot is asked for")
        until(lambda: "before" in server.output)
        assert server.state == "starting"
        assert "after" not in server.output

        written = tmp_path / "written.json"
        written.write_text('{"task_id": "", "function_id": ""}')
        written.rename(restored)  # it is looked for all the time, and read at once
        platform.wait_ready(server)
        until(lambda: "after" in server.output)
        assert server.output.split("after")[0].split() == ["module", "before"]
        platform.kill(server)
    finally:
        for name in more:
            del platform.settings.environ[name]


def test_killed_server_takes_its_children_along(serving: Platform) -> None:
    """A child in a session of its own dies with its container."""
    serving.settings.environ["PORT"] = "0"
    server = serving.start_server("serving", "Web")
    serving.wait_ready(server)
    child = next(pid for pid in serving.processes(server) if pid != server.pid)
    serving.kill(server)
    until(lambda: not is_running(child))


def test_what_ended_takes_nobody_along_who_came_after(serving: Platform) -> None:
    """The kernel gives the next container's mounts the number of those that are gone; it is another container."""
    serving.settings.environ["PORT"] = "0"
    first = serving.start_server("serving", "Web")
    serving.wait_ready(first)
    serving.kill(first)
    second = serving.start_server("serving", "Web")
    serving.wait_ready(second)
    assert serving.processes(first) == []
    serving.kill(first)
    assert second.pid in serving.processes(second)
    serving.kill(second)


def test_app_of_a_vanished_client_is_stopped(platform: Platform, tiny: Platform) -> None:
    """An ephemeral app whose client died is stopped after a while, with its containers."""
    client = subprocess.Popen(
        [sys.executable, "-m", "modal", "run", "-m", f"{SAMPLES}.tiny::linger", "--key", "orphan"],
        env={**os.environ, **platform.environ()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deployed = tiny.app("tiny").id
    [orphan] = until(lambda: [one for one in platform.containers("linger") if one.function.app_id != deployed])
    client.kill()
    client.wait()
    platform.settings.client_seconds = 0
    platform.wait_exit(orphan)
    platform.settings.client_seconds = PATIENCE


def test_without_namespaces_a_variable_names_the_volume() -> None:
    """Where the kernel allows no mounts, containers still have views of their own, found through a variable."""
    settings = Settings(namespaces=False, mount_variables={"SAMPLE_MOUNT": "/weights"}, path_prefix=Path("/nowhere"))
    with Platform(settings=settings) as platform, platform.client() as client:
        platform.create_secret("tiny-secret", {"TOKEN": "t0ken"})
        deploy(platform, "tiny")
        assert function(client, "read").remote("moving") == "absent"
        assert function(client, "write").remote("moving", "first") == ["moving"]
        assert function(client, "read").remote("moving", reload=False) == "absent"
        assert function(client, "read").remote("moving") == "first"
        with pytest.raises(RuntimeError, match="open files"):
            function(client, "read").remote("moving", hold=True)


def test_runs_as_a_process() -> None:
    """`python -m tests.modal.platform` prints its address, serves real clients, and ends when told."""
    plane = subprocess.Popen(
        [sys.executable, "-m", "tests.modal.platform", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    assert plane.stdout is not None
    url = plane.stdout.readline().strip()
    with Client(url, api_pb2.CLIENT_TYPE_CLIENT, ("ak", "as")) as client:
        facts = modal.Dict.from_name("facts", create_if_missing=True, client=client)
        facts["k"] = "v"
        assert facts["k"] == "v"
    plane.terminate()
    assert plane.wait(timeout=PATIENCE) == 0
    plane.stdout.close()
