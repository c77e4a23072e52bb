"""`ollama-modal run` against a gateway whose server is slow: what is said meanwhile, what is sent, and Ctrl-C."""

import json
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.gateways import RunningGateway, gateway
from tests.support.local_stack import Shell
from tests.support.ops_api import CHAT_KEY, KEYS
from tests.support.person import terminal
from tests.support.scripted_server import Connection, HeardRequest, HeldServer, ScriptedServer
from tests.support.waiting import PATIENCE, until

LAST = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "eval_count": 2}


@dataclass
class SlowModel:
    """Answers a chat with some words, and ends the answer when it is let; a prompt `quick` is answered at once."""

    thinking: str = ""
    let: threading.Event = field(default_factory=threading.Event)
    #: How many callers left in the middle of an answer; the servers' threads add to it, the test reads it.
    left: list[str] = field(default_factory=list)

    def __call__(self, heard: HeardRequest, line: Connection) -> None:
        said = heard.json["messages"][-1]["content"]
        line.begin("application/x-ndjson")
        if self.thinking:
            self._frame(line, {"role": "assistant", "content": "", "thinking": self.thinking})
        if said != "silent":
            self._frame(line, {"role": "assistant", "content": f"begun {said}"})
        while said != "quick" and not self.let.wait(0.02):
            if line.is_left():
                self.left.append(said)
                return
        line.chunk(json.dumps(LAST).encode() + b"\n")
        line.end()

    @staticmethod
    def _frame(line: Connection, message: dict[str, str]) -> None:
        line.chunk(json.dumps({"message": message, "done": False}).encode() + b"\n")


@dataclass
class Scene:
    """A person elsewhere, a gateway, and the server behind it."""

    shell: Shell
    server: ScriptedServer
    running: RunningGateway

    def sent(self) -> dict[str, object]:
        """The last chat that reached the server."""
        found: dict[str, object] = [each.json for each in self.server.asked if each.path == "/api/chat"][-1]
        return found


@contextmanager
def scene(
    folder: Path, model: SlowModel, held: HeldServer | None = None, *, keys: str = "", key: str = ""
) -> Iterator[Scene]:
    with (
        ScriptedServer(model, opening=held) as server,
        gateway(folder, {"a10g": server.url}, startup=60, keys=keys) as running,
    ):
        environ = {"OLLAMA_MODAL_URL": running.url, **({"OLLAMA_MODAL_KEY": key} if key else {})}
        yield Scene(Shell(folder, environ), server, running)


def test_a_cold_start_is_told_while_it_lasts(tmp_path: Path) -> None:
    """After some seconds a line on stderr says what is waited for, and why; the answer alone is on stdout.

    Whoever has a key that may only chat is told as much.
    """
    held, model = HeldServer(awake=False), SlowModel()
    with scene(tmp_path, model, held, keys=KEYS, key=CHAT_KEY) as at:
        process = at.shell.start("run", "llama3.2", "quick")
        assert process.stderr is not None
        line = process.stderr.readline()
        held.awake.set()
        out, rest = process.communicate(timeout=PATIENCE)
    assert re.fullmatch(r"waiting for llama3\.2:latest for 3(\.\d)? s: tier a10g is waking, .+\n", line)
    assert (process.returncode, out) == (0, "begun quick\n")
    assert all(each.startswith("waiting for ") for each in rest.splitlines())


def test_system_and_think_are_sent(tmp_path: Path) -> None:
    """`--system` comes before the question, `--think` and `--no-think` beside it; nothing is sent that was not said."""
    with scene(tmp_path, SlowModel()) as at:
        assert at.shell.run("run", "llama3.2", "quick", "--system", "be brief", "--think").returncode == 0
        assert at.sent()["messages"] == [
            {"role": "system", "content": "be brief"}, {"role": "user", "content": "quick"},
        ]  # fmt: skip
        assert at.sent()["think"] is True
        at.shell.run("run", "llama3.2", "quick", "--no-think")
        assert at.sent()["think"] is False
        at.shell.run("run", "llama3.2", "quick")
        assert set(at.sent()) >= {"model", "messages", "stream"}
        assert "think" not in at.sent()


def test_thinking_is_talk_and_the_answer_is_data(tmp_path: Path) -> None:
    """That it thinks is said on stderr; the thoughts are in the JSON, and never on stdout among the answer."""
    with scene(tmp_path, SlowModel(thinking="hm, hm")) as at:
        done = at.shell.run("run", "llama3.2", "quick", "--think")
        assert (done.stdout, done.stderr) == ("begun quick\n", "thinking…\n")
        document = at.shell.ask("run", "llama3.2", "quick", "--think")
    assert (document["thinking"], document["response"]) == ("hm, hm", "begun quick")


@pytest.mark.parametrize("prompt", ["words", "silent"])
def test_ctrl_c_ends_one_prompt_with_130(tmp_path: Path, prompt: str) -> None:
    """In the middle of an answer or before its first word: no traceback, what came stays, the server is left."""
    model = SlowModel()
    with scene(tmp_path, model) as at, terminal(at.shell, "run", "llama3.2", prompt) as person:
        until(lambda: any(each.path == "/api/chat" for each in at.server.asked))
        if prompt != "silent":
            until(lambda: "begun words" in person.seen)
        person.process.send_signal(signal.SIGINT)
        assert person.ended() == 130
        assert "Traceback" not in person.seen
        assert person.seen.replace("\r", "") == ("begun words\n" if prompt != "silent" else "")
        until(lambda: model.left == [prompt])


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(tmp_path: Path) -> None:
    """However often it comes, in the middle of an answer or before it: the server is left, and what was stopped is
    not remembered; the next question is answered, with the system prompt and what was said before it."""
    model = SlowModel()
    with scene(tmp_path, model) as at, terminal(at.shell, "run", "llama3.2", "--system", "be brief") as person:
        until(lambda: ">>> " in person.seen)
        person.type("quick\n")
        until(lambda: person.seen.count(">>> ") == 2)
        person.type("words\n")
        until(lambda: "begun words" in person.seen)
        person.process.send_signal(signal.SIGINT)
        until(lambda: person.seen.count(">>> ") == 3)
        assert person.seen.replace("\r", "").count("begun words\nstopped\n") == 1
        person.type("silent\n")
        until(lambda: at.sent()["messages"][-1] == {"role": "user", "content": "silent"})  # type: ignore[index]
        for _ in range(30):
            person.process.send_signal(signal.SIGINT)
        until(lambda: person.seen.count("stopped") >= 2)
        until(lambda: model.left == ["words", "silent"])
        person.type("quick\n")
        until(lambda: person.seen.count("begun quick") == 2)
        until(lambda: len(at.sent()["messages"]) == 4)  # type: ignore[arg-type]
        assert at.sent()["messages"] == [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "quick"}, {"role": "assistant", "content": "begun quick"},
            {"role": "user", "content": "quick"},
        ]  # fmt: skip
        person.type("/bye\n")
        assert person.ended() == 0
        assert "Traceback" not in person.seen
