"""`ollama-modal keys`: the same words for this machine and for a gateway elsewhere."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.access.keys.key_copy import copy_at, read_copy
from jobs.access.keys.key_store import read_keys
from jobs.access.keys.proofs import PREFIX, hash_of, new_key
from tests.support.gateways import RunningGateway, gateway
from tests.support.local_stack import Shell

ROOT = new_key()
LINES = f"root {hash_of(ROOT)} chat admin"
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with gateway(tmp_path_factory.mktemp("gateway"), {}, keys=LINES, live_keys=True) as found:
        yield found


@pytest.fixture(params=["here", "there"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    """A person at a shell: with a home of his own, or with a gateway's address in his environment."""
    if request.param == "here":
        return Shell(tmp_path)
    running: RunningGateway = request.getfixturevalue("there")
    return Shell(tmp_path, {"OLLAMA_MODAL_URL": running.url, "OLLAMA_MODAL_KEY": ROOT})


def name_of(request: pytest.FixtureRequest) -> str:
    """Another one for each test: a gateway puts back what it knew."""
    return "k" + hash_of(request.node.name)[7:15]


def test_a_key_from_its_making_to_its_end(shell: Shell, request: pytest.FixtureRequest) -> None:
    """Made, shown, changed, rotated, revoked; the key itself is printed once, alone on stdout."""
    name = name_of(request)
    made = shell.run("keys", "new", name, "--models", "llama*", "--limit", "dollars=5/month", "--rpm", "60")
    assert made.returncode == 0, made.stderr
    (key,) = made.stdout.splitlines()
    assert key.startswith(PREFIX)
    assert key not in made.stderr
    shown = shell.ask("keys", "show", name)
    assert (shown["models"], shown["limits"], shown["scopes"]) == (
        ["llama*"],
        {"rpm": "60", "dollars": "5/month"},
        ["chat"],
    )
    changed = shell.ask("keys", "set", name, "--all-models", "--limit", "rpm=", "--scope", "admin", "--expires", "90d")
    assert (changed["models"], changed["limits"], changed["scopes"]) == ([], {"dollars": "5/month"}, ["chat", "admin"])
    assert changed["expires"]
    assert shell.ask("keys", "set", name, "--expires", "never")["expires"] is None
    rotated = shell.ask("keys", "rotate", name, "--overlap", "1h")
    assert rotated["key"].startswith(PREFIX)
    assert [each["until"] is None for each in rotated["proofs"]] == [True, False]
    told = shell.run("keys", "show", name).stdout
    assert f"key {name}: active, version 4" in told
    assert ("may: chat,admin" in told, "limits: dollars=5/month" in told) == (True, True)
    assert shell.run("keys", "revoke", name).stdout == f"key {name} is revoked\n"
    listed = {each["name"]: each for each in shell.ask("keys", "list")}
    assert (listed[name]["state"], listed[name]["proofs"]) == ("revoked", [])
    assert name in shell.run("keys", "list").stdout
    assert PREFIX not in json.dumps(listed)


def test_a_public_key_is_a_key(shell: Shell, request: pytest.FixtureRequest) -> None:
    """Nothing is printed on stdout: there is nothing to give away."""
    name = name_of(request)
    done = shell.run("keys", "new", name, "--public-key", PUBLIC)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert [each["kind"] for each in shell.ask("keys", "show", name)["proofs"]] == ["ssh-ed25519"]
    shell.run("keys", "revoke", name)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("keys show nobody", "there is no key 'nobody'"),
        ("keys revoke nobody", "there is no key 'nobody'"),
        ("keys set nobody --rpm 5", "there is no key 'nobody'"),
        ("keys set nobody", "nothing is to be changed"),
        ("keys new a/b", "'a/b' is no name of a key"),
        ("keys new eve --limit beer=1", "'beer' is no limit"),
        ("keys new eve --limit rpm", "--limit 'rpm' says nothing"),
        ("keys new eve --rpm 5 --limit rpm=6", "limit 'rpm' is there twice"),
        ("keys new eve --scope god", "'god' is no scope"),
        ("keys new eve --expires 2020-01-01", "'2020-01-01' is over already"),
        ("keys new eve --public-key rsa", "this is no public key"),
        ("keys rotate eve --overlap 31d", "0s to 30d"),
        ("keys set eve --models llama* --all-models", "say two things"),
    ],
)
def test_what_cannot_be_is_said(shell: Shell, words: str, said: str) -> None:
    """With what to do about it, and nothing on stdout."""
    done = shell.run(*words.split())
    assert (done.stdout, said in done.stderr) == ("", True), done.stderr
    assert done.returncode == 2


def test_here_the_copy_is_written_at_once(tmp_path: Path) -> None:
    """Before the command ends: also that a key is revoked. A ledger that is lost then gets it back."""
    shell = Shell(tmp_path)
    home = shell.home / "om"
    shell.run("keys", "new", "alice")
    shell.run("keys", "revoke", "alice")
    assert read_copy(copy_at(home)).found.records["alice"].is_revoked
    for file in home.glob("ledger.sqlite*"):
        file.unlink()
    shell.run("keys", "new", "bob")
    with_store = shell.store()
    try:
        records = read_keys(with_store.facts).records
    finally:
        with_store.close()
    assert {name: each.is_revoked for name, each in records.items()} == {"alice": True, "bob": False}


def test_here_a_line_is_changed_in_its_file(tmp_path: Path) -> None:
    """It is listed beside those of the ledger, and the commands say where it is."""
    shell = Shell(tmp_path)
    home = shell.home / "om"
    home.mkdir()
    (home / "keys").write_text(LINES + "\n")
    assert [(each["name"], each["source"]) for each in shell.ask("keys", "list")] == [("root", "lines")]
    for words in ("keys revoke root", "keys new root", "keys set root --rpm 5", "keys rotate root"):
        done = shell.run(*words.split())
        assert (done.returncode, f"change it in {home / 'keys'}" in done.stderr) == (2, True), done.stderr


def test_the_first_key_here_closes_the_door_and_says_so(tmp_path: Path) -> None:
    """Whoever is on this machine needs one from then on; and without an administrator it says how to make one."""
    shell = Shell(tmp_path)
    said = shell.run("keys", "new", "alice").stderr
    assert "from now on the gateway of this machine answers nobody without a key" in said
    assert "no key here is an administrator's" in said
    assert "from now on" not in shell.run("keys", "new", "root", "--scope", "admin").stderr
