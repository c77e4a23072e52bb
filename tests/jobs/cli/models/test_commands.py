"""The commands that Ollama's own command has: list, ps, show, run, rm, serve; and help, and what there is not."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local_stack import Shell, Up, up
from tests.support.ops_api import ADMIN_KEY, CHAT_KEY, ops_api, served
from tests.support.person import terminal
from tests.support.processes import free_port
from tests.support.waiting import until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A simulated stack with a model and its alphabet."""
    shell = Shell(tmp_path_factory.mktemp("models"))
    with up(shell, "--simulate", "--tier", "a10g", "--tier", "h100") as running:
        shell.ask("pull", "llama3.2")
        yield running


@pytest.fixture
def shell(stack: Up) -> Shell:
    return stack.shell


@pytest.fixture
def remote(stack: Up, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Somebody elsewhere, who has the address alone."""
    return Shell(tmp_path_factory.mktemp("elsewhere"), {"OLLAMA_MODAL_URL": stack.url})


def test_list_and_ls_are_models(shell: Shell) -> None:
    """The same list under each of the three names."""
    assert shell.run("list").stdout == shell.run("ls").stdout == shell.run("models").stdout != ""


def test_one_prompt_is_answered_on_stdout(shell: Shell, remote: Shell) -> None:
    """The words of the prompt are one question; the answer alone is on stdout, here and through an address."""
    for each in (shell, remote):
        done = each.run("run", "llama3.2", "say", "moo")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("SIMULATED")
        assert done.stdout.endswith("say moo\n")


def test_a_prompt_is_piped_in(shell: Shell) -> None:
    """What comes by the pipe is asked, before what was typed."""
    assert shell.run("run", "llama3.2", stdin="a text\n").stdout.endswith("a text\n")
    both = shell.run("run", "llama3.2", "sum it up", "--json", stdin="a text\n")
    answer = json.loads(both.stdout)
    assert (answer["model"], answer["done_reason"]) == ("llama3.2:latest", "stop")
    assert "a text" in answer["response"]
    assert "sum it up" in answer["response"]
    assert answer["output_tokens"] > 0


def test_rates_are_told_when_asked_for(shell: Shell) -> None:
    """`--verbose` tells on stderr what Ollama's command tells."""
    said = shell.run("run", "llama3.2", "hello", "--verbose").stderr
    assert [line.partition(":")[0] for line in said.splitlines()] == [
        "total duration", "load duration", "prompt eval count", "prompt eval duration", "prompt eval rate",
        "eval count", "eval duration", "eval rate",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "llama3.2"), "there is nothing to ask"),
        (("run", "llama3.2", "x", "--format", "{"), "--format is no JSON"),
        (("run", "llama3.2", "x", "--format", "[]"), "--format is no schema"),
        (("run", "a b", "x"), "is not a model name"),
        (("run", "lama3.2", "x"), "there is llama3.2:latest"),
        (("show", "lama3.2"), "there is llama3.2:latest"),
        (("show", "llama3.2", "--license", "--system"), "only one of --license and --system"),
        (("rm", "llama3.2", "lama3.2"), "did you mean llama3.2:latest"),
    ],
)
def test_a_wrong_call_is_told(shell: Shell, words: tuple[str, ...], said: str) -> None:
    """2, with what would be right, and nothing on stdout; a wrong name among several takes nothing away."""
    done = shell.run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(shell.ask("models")) >= 1


def test_a_model_that_is_not_here_is_offered_to_be_pulled(shell: Shell) -> None:
    """The command that brings it is named."""
    assert "`ollama-modal pull mixtral:latest`" in shell.run("run", "mixtral", "hello").stderr


def test_no_gateway_is_told(tmp_path: Path) -> None:
    """Where none runs, what asks a model says how to start it."""
    quiet = Shell(tmp_path)
    for words in (("run", "llama3.2", "x"), ("show", "llama3.2")):
        done = quiet.run(*words)
        assert done.returncode == 2
        assert "hint: start it: `ollama-modal up`" in done.stderr


def test_what_is_in_memory_is_listed(shell: Shell, remote: Shell) -> None:
    """`ps` tells where a model is, on what, and until when: from the servers here, or from a gateway."""
    shell.ask("warm", "llama3.2", "--tier", "a10g")
    row = shell.run("ps").stdout.splitlines()[1].split()
    assert row[0] == "llama3.2:latest"
    assert row[2:7] == ["20", "MB", "100%", "GPU", "4096"]
    assert row[7:9] == ["a10g", "in"]
    (here,) = shell.ask("ps")
    until(lambda: [each["tier"] for each in remote.ask("ps")] == ["a10g"])
    (there,) = remote.ask("ps")
    assert {**there, "expires_at": ""} == {**here, "expires_at": ""}


def test_a_model_is_shown_as_ollama_shows_it(shell: Shell, remote: Shell) -> None:
    """Block by block; one of its texts alone, as it is written; or all of it as JSON."""
    told = shell.run("show", "llama3.2").stdout
    assert told == remote.run("show", "llama3.2").stdout
    blocks = [line.strip() for line in told.splitlines() if line.startswith("  ") and not line.startswith("    ")]
    assert blocks == ["Model", "Capabilities", "Parameters", "License", "Served"]
    for line in ("    architecture        llama", "    parameters          3.2B", "    context length      131072"):
        assert line in told.splitlines()
    shown = shell.ask("show", "llama3.2")
    assert shell.run("show", "llama3.2", "--license").stdout.rstrip("\n") == shown["license"].rstrip("\n")
    assert shell.run("show", "llama3.2", "--template").stdout.rstrip("\n") == shown["template"].rstrip("\n")


def test_rm_takes_several_away(shell: Shell) -> None:
    """`rm` is `delete`, of as many as are named."""
    shell.run("pull", "tiny", "nomic-embed-text")
    assert shell.run("rm", "tiny", "nomic-embed-text").returncode == 0
    assert [each["name"] for each in shell.ask("list")] == ["llama3.2:latest"]


def test_serve_is_up(shell: Shell) -> None:
    """`serve` starts the stack, and is refused where one runs, as `up` is."""
    done = shell.run("serve", "--simulate", "--port", "0")
    assert done.returncode == 2
    assert "runs already" in done.stderr


# -- a chat ------------------------------------------------------------------------------------------------------------


def test_a_chat_goes_on_until_somebody_leaves(shell: Shell) -> None:
    """Without a prompt on a terminal: questions are answered in turn, `/clear` forgets, `/bye` leaves with 0."""
    with terminal(shell, "run", "llama3.2") as person:
        until(lambda: ">>> " in person.seen)
        person.type("first words\n")
        until(lambda: "You said: first words" in person.seen)
        person.type("/clear\n")
        until(lambda: "what was said is forgotten" in person.seen)
        person.type("/nonsense\n")
        until(lambda: "there is no /nonsense here" in person.seen)
        person.type('"""two\nlines"""\n')
        until(lambda: "You said: two" in person.seen)
        person.type("/bye\n")
        assert person.ended() == 0


def test_ctrl_d_leaves_and_ctrl_c_does_not(shell: Shell) -> None:
    """Ctrl-C at the prompt says how to leave; Ctrl-D leaves with 0."""
    with terminal(shell, "run", "llama3.2") as person:
        until(lambda: ">>> " in person.seen)
        person.process.send_signal(signal.SIGINT)
        until(lambda: "Ctrl-D or /bye leaves" in person.seen)
        person.type("\x04")
        assert person.ended() == 0
        assert "Traceback" not in person.seen


# -- what there is, and is not -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pune", "prun", "delet", "rollbak", "remove", "r", "xyzzy", "rn"])
def test_no_typo_is_answered_with_what_takes_weights_away(tmp_path: Path, name: str) -> None:
    """What is not there is refused with 2; prune, delete, rollback and rm are never what somebody meant."""
    done = Shell(tmp_path).run(name)
    assert done.returncode == 2
    assert f"error: there is no command '{name}'" in done.stderr
    assert not {"prune`", "delete`", "rollback`", "rm`"} & set(done.stderr.split())


@pytest.mark.parametrize(
    ("name", "meant"),
    [("stauts", "ollama-modal status"), ("modles", "ollama-modal models"), ("stop", "ollama-modal cancel ID")],
)
def test_what_was_meant_is_offered(tmp_path: Path, name: str, meant: str) -> None:
    """A typo is answered with what it comes near, a habit from Ollama's command with what does it here."""
    assert f"`{meant}`" in Shell(tmp_path).run(name).stderr


@pytest.mark.parametrize("words", ["help", "-h", "--help", "help pull", "pull -h", "rm -h", "help keys new", "keys -h"])
def test_help_is_data(tmp_path: Path, words: str) -> None:
    """However it is asked for, help is on stdout with 0, in lines that fit 80 columns."""
    done = Shell(tmp_path, {"COLUMNS": "80"}).run(*words.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ollama-modal")
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_every_command_stands_in_a_group(tmp_path: Path) -> None:
    """Help lists each command once, under what it is for, with its other names."""
    told = Shell(tmp_path).run("help").stdout
    titles = [line.rstrip(":") for line in told.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Options", "Ask and load", "Models", "Batches", "Jobs", "Service"]
    for label in ("models, list, ls", "delete, rm", "up, serve"):
        assert f"  {label}  " in told


def test_python_m_jobs_has_them_too(tmp_path: Path) -> None:
    """The command line without `up` has the same commands about models."""
    shell = Shell(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "jobs", "help", "run"], env=shell.environ, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("Usage: ollama-modal run")


# -- an address that leads to no gateway -------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("jobs",), ("status",), ("ps",), ("run", "llama3.2", "x"), ("show", "llama3.2")])
def test_an_address_where_nothing_listens_is_told(tmp_path: Path, words: tuple[str, ...]) -> None:
    """1, with what was asked, why most likely nothing came, and what to do."""
    port = free_port()
    done = Shell(tmp_path, {"OLLAMA_MODAL_URL": f"http://127.0.0.1:{port}"}).run(*words)
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert f"hint: nothing listens on port {port}: start it: `ollama-modal up --port {port}`" in done.stderr


def test_what_is_wrong_with_an_address_is_told(
    stack: Up, tmp_path_factory: pytest.TempPathFactory, shell: Shell
) -> None:
    """A host that is not there, https where http is spoken, a server that is no gateway, a key that is missing."""
    server = shell.ask("status")["tiers"][0]["url"]
    for url, code, hint in (
        ("http://no-such-host.invalid", 1, "no host is called 'no-such-host.invalid'"),
        (stack.url.replace("http:", "https:"), 2, "does not speak https: try http://127.0.0.1:"),
        (server, 2, "the address is the one that `ollama-modal up` or `modal deploy` printed"),
    ):
        done = Shell(tmp_path_factory.mktemp("away"), {"OLLAMA_MODAL_URL": url}).run("jobs")
        assert (done.returncode, "hint: " in done.stderr, hint in done.stderr) == (code, True, True), done.stderr


def test_a_key_is_asked_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without one, and with one that opens another gateway, the hint says where it belongs."""
    folder = tmp_path_factory.mktemp("keys")
    with ops_api(folder) as api, served(api.app()) as url:
        none = Shell(folder, {"OLLAMA_MODAL_URL": url}).run("jobs")
        other = Shell(folder, {"OLLAMA_MODAL_URL": url, "OLLAMA_MODAL_KEY": f"{ADMIN_KEY}x"}).run("jobs")
        assert Shell(folder, {"OLLAMA_MODAL_URL": url, "OLLAMA_MODAL_KEY": CHAT_KEY}).run("jobs").returncode == 0
    assert (none.returncode, other.returncode) == (2, 2)
    assert "hint: give the key by --key, or better in OLLAMA_MODAL_KEY" in none.stderr
    assert "hint: " in other.stderr
    assert ADMIN_KEY not in other.stderr
