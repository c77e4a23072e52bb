"""One `ollama serve`: starts apart, is heard, freezes, ends with all it started; what the kernel and the GPU tell."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from loguru import logger

from app.model_server import gpu
from app.model_server.connections import callers_of
from app.model_server.process import Daemon
from app.model_server.reload_policy import OVERDUE, ReloadStep, ServerView, next_step
from app.model_server.starting.engine import engine_environ
from jobs.core.clock import SystemClock
from jobs.core.errors import CpuFallback, ServerTrouble
from jobs.ollama.host import OllamaHost
from tests.support.ollama_servers import SIMULATOR
from tests.support.processes import free_port, is_running, nvidia_smi
from tests.support.waiting import PATIENCE, until


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """What is logged, as `LEVEL message`."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message).rstrip()), format="{level} {message}", level="DEBUG")
    yield lines
    logger.remove(sink)


class Case:
    """Daemons of one test, and the exit codes of those that died."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = SystemClock()
        self.deaths: list[int] = []
        self.daemons: list[Daemon] = []
        self.host = OllamaHost(port=free_port())

    def daemon(self, *command: str, **variables: str) -> Daemon:
        inherited = {**os.environ, **variables}
        whole = engine_environ(inherited, {}, host=self.host, models=self.folder / "models", home=self.folder)
        daemon = Daemon(whole, self.host, self.clock, on_death=self.deaths.append, command=command or SIMULATOR)
        self.daemons.append(daemon)
        return daemon

    def script(self, text: str) -> Daemon:
        return self.daemon(sys.executable, "-u", "-c", textwrap.dedent(text))


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path)
    yield case
    for daemon in case.daemons:
        daemon.stop()


class Pauses(SystemClock):
    """Notes how long was waited each time."""

    def __init__(self) -> None:
        #: Written by the thread that waits, read by the test when it has.
        self.waits: list[float] = []

    def wait(self, seconds: float, wake: threading.Event | None = None) -> bool:
        self.waits.append(seconds)
        return super().wait(seconds, wake)


def test_an_engine_is_looked_at_often(case: Case) -> None:
    """Until it answers nothing is waited for but the next look, which comes within five milliseconds."""
    case.clock = clock = Pauses()
    daemon = case.daemon()
    daemon.start()
    daemon.wait_ready(timedelta(seconds=PATIENCE))
    assert clock.waits
    assert max(clock.waits) <= 0.005


def test_environment_keeps_what_must_be_so(tmp_path: Path) -> None:
    """Whatever a container or a tier says, nothing is pruned, nothing leaves for a cloud, and no secret goes along."""
    inherited = {
        "PATH": "/bin",
        "OLLAMA_NOPRUNE": "0",
        "OLLAMA_HOST": "0.0.0.0:1",
        "LLAMA_ARG_FIT": "off",
        "MODAL_IDENTITY_TOKEN": "x",
        "MODAL_TASK_ID": "ta-1",
    }
    whole = engine_environ(
        inherited,
        {"OLLAMA_NUM_PARALLEL": "4", "HOME": "/models"},
        host=OllamaHost(host="0.0.0.0", port=11434),
        models=tmp_path / "m",
        home=tmp_path,
    )

    assert whole == {
        "PATH": "/bin",
        "MODAL_TASK_ID": "ta-1",
        "OLLAMA_NUM_PARALLEL": "4",
        "HOME": str(tmp_path),
        "OLLAMA_HOST": "0.0.0.0:11434",
        "OLLAMA_MODELS": str(tmp_path / "m"),
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_NO_CLOUD": "1",
    }


def test_server_answers_and_ends(case: Case) -> None:
    """A server is ready when HTTP answers, not when the port opens; when it is asked to end, that is no death."""
    daemon = case.daemon(OLLAMA_SIM_DISCOVERY_MILLISECONDS="500")
    started = time.monotonic()
    daemon.start()

    version = daemon.wait_ready(timedelta(seconds=PATIENCE))

    assert version
    assert time.monotonic() - started >= 0.5
    assert daemon.stop() == 0
    assert not daemon.is_alive
    assert case.deaths == []


def test_server_stands_outside_the_volume(case: Case, heard: list[str]) -> None:
    """The process works in the root directory: one that stood in the volume would forbid every reload."""
    daemon = case.script("import os; print('cwd', os.getcwd(), flush=True); import time; time.sleep(60)")
    daemon.start()
    assert until(lambda: [line for line in heard if "cwd" in line]) == ["INFO ollama: cwd /"]


def test_its_lines_are_logged_and_its_requests_counted(case: Case, heard: list[str]) -> None:
    """Every line is logged with the level it names; answered inference requests are counted, our probes are not."""
    daemon = case.script(
        """
        print('time=2026-11-01 level=WARN msg="{braces}"')
        print('[GIN] 2026/11/01 - 10:00:00 | 200 |  1.2s |  10.0.0.1 | POST     "/api/chat"')
        print('[GIN] 2026/11/01 - 10:00:01 | 200 |  1.2s |  10.0.0.1 | POST     "/v1/messages"')
        print('[GIN] 2026/11/01 - 10:00:02 | 200 |  10us |  10.0.0.1 | GET      "/api/ps"')
        print("the end")
        import time; time.sleep(60)
        """
    )
    daemon.start()
    until(lambda: any("the end" in line for line in heard))

    assert 'WARNING ollama: time=2026-11-01 level=WARN msg="{braces}"' in heard
    assert daemon.served == 2


def test_death_is_noticed(case: Case) -> None:
    """A server that ends by itself is reported with its exit code, once."""
    daemon = case.script("import time; time.sleep(0.2); raise SystemExit(3)")
    daemon.start()
    until(lambda: case.deaths)

    assert daemon.stop() == 3
    assert case.deaths == [3]


def test_failure_to_start_has_its_last_lines(case: Case) -> None:
    """A server that ends before it answers, never answers, or does not exist at all is trouble that says so."""
    ended = case.script("print('no such library'); raise SystemExit(1)")
    ended.start()
    with pytest.raises(ServerTrouble, match="ended with 1 before it answered: no such library"):
        ended.wait_ready(timedelta(seconds=PATIENCE))
    silent = case.script("import time; time.sleep(60)")
    silent.start()
    with pytest.raises(ServerTrouble, match=r"did not answer for 0\.3 s: without a word"):
        silent.wait_ready(timedelta(seconds=0.3))
    with pytest.raises(ServerTrouble, match="'/nowhere/ollama' cannot be started: No such file"):
        case.daemon("/nowhere/ollama").start()


ORPHANED = """
    import signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, {reaction})
    runner = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    print("runner", subprocess.Popen([sys.executable, "-c", runner]).pid)
    time.sleep(600)
"""


@pytest.mark.parametrize(("reaction", "dies"), [("lambda *_: sys.exit(0)", False), ("signal.SIG_DFL", True)])
def test_nothing_it_started_outlives_it(case: Case, heard: list[str], reaction: str, *, dies: bool) -> None:
    """A runner that ignores SIGTERM is gone after a stop, and after a death: it would keep the GPU's memory."""
    daemon = case.script(ORPHANED.format(reaction=reaction))
    daemon.start()
    until(lambda: any("runner" in line for line in heard))
    runner = int(next(line for line in heard if "runner" in line).split()[-1])
    assert is_running(runner)

    if dies:
        assert daemon.group is not None
        os.kill(daemon.group, signal.SIGTERM)
        until(lambda: case.deaths)
    else:
        daemon.stop()

    until(lambda: not is_running(runner))


def test_frozen_server_keeps_callers_waiting_and_loses_none(case: Case) -> None:
    """A request that comes while the server is frozen waits, and is answered afterwards."""
    daemon = case.daemon()
    daemon.start()
    daemon.wait_ready(timedelta(seconds=PATIENCE))
    answers: list[bytes] = []

    def ask() -> None:
        with socket.create_connection((case.host.host, case.host.port), timeout=PATIENCE) as connection:
            connection.sendall(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answers.append(connection.recv(100))

    asking = threading.Thread(target=ask)
    with daemon.frozen():
        asking.start()
        time.sleep(0.3)
        assert answers == []
    asking.join(timeout=PATIENCE)

    assert answers[0].startswith(b"HTTP/1.1 200")


HOLDER = "import socket, sys, time; c = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); time.sleep(60)"


def test_callers_count_until_they_hang_up() -> None:
    """Whoever is connected counts, of this process or another, accepted or not; who has hung up does not."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = int(listening.getsockname()[1])
        assert callers_of(port) == 0
        other = subprocess.Popen([sys.executable, "-c", HOLDER, str(port)])
        with closing(socket.create_connection(("127.0.0.1", port))):
            until(lambda: callers_of(port) == 2)
            other.send_signal(signal.SIGKILL)
            other.wait()
            until(lambda: callers_of(port) == 1)
        assert callers_of(port) == 0


def test_gpu_is_what_the_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name and memory of the GPUs come from the driver, all of them counted."""
    nvidia_smi(tmp_path, "echo 'NVIDIA H100 80GB HBM3, 81559'; echo 'NVIDIA H100 80GB HBM3, 81559'")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert gpu.find() == gpu.Gpu("NVIDIA H100 80GB HBM3", 2 * 81559 * 2**20, 2)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (None, "there is no nvidia-smi"),
        ("echo 'no devices were found' >&2; exit 6", "nvidia-smi ended with 6: no devices were found"),
        ("echo nonsense", "nvidia-smi said 'nonsense'"),
        ("true", "nvidia-smi said ''"),
    ],
)
def test_missing_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, why: str) -> None:
    """No driver, no device, or an answer that makes no sense: no GPU, and the message says which of them."""
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        nvidia_smi(tmp_path, script)

    with pytest.raises(CpuFallback, match=f"a GPU was promised, but {why}"):
        gpu.find()


def test_what_was_kept_off_the_gpu_is_known(case: Case) -> None:
    """Whether a model's last load was to leave the GPU alone is in ollama's own log, as release 0.32 writes it."""
    loads = {
        "a" * 64: ([" -ngl 0"], True),
        "b" * 64: ([" -ngl 0 -t 8"], True),
        "c" * 64: ([" --n-gpu-layers 0"], True),
        "d" * 64: ([" -ngl 99 -t 8"], False),
        "e" * 64: ([" -t 8"], False),
        "f" * 64: ([" -ngl 0", ""], False),
        "0" * 64: (["", " -ngl 0"], True),
    }
    command = "/x/llama-server --model /models/blobs/sha256-{} --port 5025 -c 8192 -np 4 -b 512 -ub 512{}"
    loading = (
        f'time=2026-08-16T15:29:06Z level=INFO source=llama_server.go:431 msg="starting llama-server" cmd="{command}"'
    )
    lines = [loading.format(blob, each) for blob, (options, _) in loads.items() for each in options]
    daemon = case.script(f"""
        import time
        for line in {lines!r}:
            print(line)
        time.sleep(60)
    """)
    daemon.start()
    until(lambda: len(daemon._last_lines) == len(lines))
    assert daemon.kept_off_the_gpu == {f"sha256-{blob}" for blob, (_, is_off) in loads.items() if is_off}


IDLE = ServerView(loaded=(), served=3, in_flight=0)
LOADED = ServerView(loaded=(("llama3.2:latest", "2026-11-01T10:00:00Z"),), served=3, in_flight=0)


@pytest.mark.parametrize(
    ("view", "before", "step"),
    [
        (IDLE, None, ReloadStep.REFRESH),
        (IDLE, LOADED, ReloadStep.REFRESH),
        (LOADED, None, ReloadStep.LATER),
        (LOADED, IDLE, ReloadStep.LATER),
        (LOADED, LOADED, ReloadStep.REFRESH),
        (LOADED, ServerView(LOADED.loaded, 2, 0), ReloadStep.LATER),
        (LOADED, ServerView((("llama3.2:latest", "2026-11-01T09:59:00Z"),), 3, 0), ReloadStep.LATER),
        (LOADED, ServerView(LOADED.loaded, 3, 1), ReloadStep.LATER),
        (ServerView((), 3, 1), None, ReloadStep.LATER),
        (ServerView((), 3, None), None, ReloadStep.LATER),
        (ServerView(LOADED.loaded, 3, 2), LOADED, ReloadStep.LATER),
    ],
)
def test_new_weights_wait_for_nothing_in_use(view: ServerView, before: ServerView | None, step: ReloadStep) -> None:
    """New weights wait until nothing is in flight, and until a loaded model was left alone since the last look."""
    assert next_step(2, 1, view, before) is step
    assert next_step(1, 1, view, before) is ReloadStep.NOTHING


def test_new_weights_do_not_wait_for_ever() -> None:
    """What was never left alone for some minutes asks for a pause; what is left alone needs none."""
    for view in (LOADED, ServerView(LOADED.loaded, 3, 1), ServerView((), 3, 1), ServerView((), 3, None)):
        assert next_step(2, 1, view, None, OVERDUE) is ReloadStep.PAUSE
        assert next_step(2, 1, view, None, OVERDUE - timedelta(seconds=1)) is ReloadStep.LATER
    assert next_step(2, 1, LOADED, LOADED, OVERDUE) is ReloadStep.REFRESH
    assert next_step(1, 1, LOADED, None, OVERDUE) is ReloadStep.NOTHING
