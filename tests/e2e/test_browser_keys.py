"""Keys on the status page, as an administrator meets them: headless Chromium, a real gateway."""

from collections.abc import Iterator

import httpx
import pytest

from jobs.access.keys.proofs import hash_of, new_key
from tests.support.browser import ENTER, MISSING, Browser, browser
from tests.support.dialects import OLLAMA
from tests.support.gateways import RunningGateway, gateway
from tests.support.scripted_server import ScriptedServer
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

ROOT, LIMITED, CHAT = new_key(), new_key(), new_key()
LINES = f"root {hash_of(ROOT)} chat admin\nlarry {hash_of(LIMITED)} chat admin models=llama*\ncarl {hash_of(CHAT)}"
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with (
        ScriptedServer(lambda _, line: OLLAMA.play(line)) as server,
        gateway(tmp_path_factory.mktemp("gateway"), {"a10g": server.url}, keys=LINES, live_keys=True) as found,
    ):
        yield found


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        opened.resize(1200, 1200)
        yield opened


def signed_in(window: Browser, running: RunningGateway, key: str) -> Browser:
    window.open(f"{running.url}/healthz")
    window.run("sessionStorage.setItem('ollama-modal key', arguments[0])", key)
    window.open(f"{running.url}/ui")
    window.until(lambda: window.is_shown("#footer"), "the board never came")
    window.complaints()
    return window


@pytest.fixture
def page(window: Browser, running: RunningGateway) -> Browser:
    """The page of an administrator, with its keys."""
    found = signed_in(window, running, ROOT)
    found.until(lambda: found.is_shown("#key-table"), "the keys never came")
    return found


def status(running: RunningGateway, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.get(f"{running.url}/api/tags", headers=headers, timeout=PATIENCE).status_code


def make(page: Browser, name: str, **fields: str) -> str:
    """Fill the form and send it; the key that is shown."""
    for field, text in fields.items():
        page.run("document.querySelector('#make-key').elements[arguments[0]].value = arguments[1]", field, text)
    page.type("#make-key [name=name]", name)
    page.press(ENTER)
    page.until(lambda: page.is_shown("#new-key"), "no key was shown")
    return page.text("#new-key-text")


def row(page: Browser, name: str) -> str:
    script = (
        "return [...document.querySelectorAll('#key-list tr')]"
        ".find((row) => row.querySelector('bdi').textContent === arguments[0])?.innerText ?? ''"
    )
    return str(page.run(script, name))


def press(page: Browser, label: str) -> None:
    page.run("document.querySelector(`#key-list [aria-label='${arguments[0]}']`).click()", label)
    page.until(lambda: page.is_shown("#asking"), "nobody asked")
    page.click('#asking [data-part="yes"]')


def test_a_new_key_is_shown_once_with_ready_lines(page: Browser, running: RunningGateway) -> None:
    """For curl, openai, Open WebUI and a command; taken off the page it is nowhere, and kept nowhere."""
    key = make(page, "alice", models="llama* qwen*", limits="rpm=60 dollars=5/month")
    assert key.startswith("omk_")
    assert status(running, key) == 200
    lines = page.text("#new-key-lines")
    assert f'curl -H "Authorization: Bearer {key}" {running.url}/api/chat' in lines
    assert f'OpenAI(base_url="{running.url}/v1", api_key="{key}")' in lines
    assert f"OLLAMA_BASE_URL={running.url}" in lines
    assert f"OLLAMA_MODAL_KEY={key} ollama-modal run" in lines
    page.until(lambda: "llama*, qwen*" in row(page, "alice"))
    told = row(page, "alice")
    assert all(part in told for part in ("active", "chat", "rpm=60 dollars=5/month", "never", "made by root"))
    page.click("#new-key-done")
    everything = "return document.documentElement.outerHTML + JSON.stringify({...sessionStorage, ...localStorage})"
    assert key not in str(page.run(everything))
    assert not page.is_shown("#new-key")
    assert not page.complaints()


def test_when_a_key_ends_is_told_with_its_year(page: Browser) -> None:
    """A day of next week is told from the same one in years."""
    make(page, "dora", expires="2199-01-31")
    page.until(lambda: "Jan 2199" in row(page, "dora"), "the key was not listed")


def test_a_key_is_rotated_and_revoked_after_a_question(page: Browser, running: RunningGateway) -> None:
    """Another key is shown in its place, the old one is good for a while; a revoked one is refused, and says so."""
    first = make(page, "bob")
    page.until(lambda: "active" in row(page, "bob"))
    press(page, "Rotate: bob")
    page.until(lambda: page.text("#new-key-text") not in {"", first}, "no other key was shown")
    second = page.text("#new-key-text")
    assert [status(running, each) for each in (first, second)] == [200, 200]
    press(page, "Revoke: bob")
    page.until(lambda: "revoked" in row(page, "bob"))
    assert [status(running, each) for each in (first, second)] == [401, 401]
    assert not page.complaints()


def test_who_signs_gets_no_key(page: Browser) -> None:
    """A public key is let in, and the line for Ollama's own command is ready."""
    assert make(page, "signer", signer=PUBLIC) == ""
    assert "OLLAMA_AUTH=1 ollama run" in page.text("#new-key-lines")


def test_what_is_wrong_is_said_beside_the_form(page: Browser) -> None:
    """By the page, or by the gateway; what was typed stays."""
    page.type("#make-key [name=name]", "root")
    page.press(ENTER)
    page.until_text("#make-key-trouble", "stands on a line")
    page.run("document.querySelector('#make-key').elements.limits.value = 'rpm'")
    page.run("document.querySelector('#make-key button').click()")
    page.until_text("#make-key-trouble", "Limits are names with values")


@pytest.mark.parametrize("key", [LIMITED, CHAT], ids=["of-some-models", "for-chat"])
def test_others_see_no_keys(window: Browser, running: RunningGateway, key: str) -> None:
    """Neither the section nor its link; nor are they asked for."""
    page = signed_in(window, running, key)
    assert not page.is_shown("#keys")
    assert not page.is_shown("#keys-link")
    asked = page.run("return performance.getEntriesByType('resource').map(({name}) => name)")
    assert not [name for name in asked if name.endswith("/ops/v1/keys")]
