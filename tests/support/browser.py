"""A browser driven over WebDriver's own wire: chromedriver is an HTTP server, and httpx is at hand.

The usual client library would bring a dozen packages and a program that looks for newer drivers by itself; what is
needed here is a tenth of the protocol. Nothing is downloaded: the browser is the one that is installed, or none.
"""

import base64
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.support.processes import free_port
from tests.support.waiting import PATIENCE, until

T = TypeVar("T")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = (
    None
    if CHROMIUM and DRIVER
    else "no chromium with chromedriver on PATH; on Debian `apt-get install chromium chromium-driver` lifts this"
)

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key under which WebDriver speaks of elements, by the standard."""

ARGUMENTS = (
    "--headless",
    "--no-sandbox",  # containers and root have none; the only pages it sees are ours
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
)

TAB, ENTER, SPACE, ESCAPE = "\ue004", "\ue007", " ", "\ue00c"
RIGHT = "\ue014"


class WrongPage(AssertionError):
    """The browser refused what it was asked."""


SHIFTS = """
const found = [];
const observer = new PerformanceObserver(() => {});
observer.observe({ type: 'layout-shift', buffered: true });
return new Promise((done) => setTimeout(() => {
  for (const each of [...observer.takeRecords(), ...found]) {
    if (each.hadRecentInput) continue;
    found.push([each.value, each.sources.map(({ node }) => node?.id || node?.className || node?.nodeName)]);
  }
  done(found);
}, 300));
"""
"""A script: what has moved since the page was opened without anybody's doing, by how much, and whose part it is."""


class Browser:
    """One window. Every call waits until the browser has done it."""

    def __init__(self, client: httpx.Client, session: str) -> None:
        self._client = client
        self._session = session

    def _ask(self, method: str, path: str, document: Mapping[str, Any] | None = None) -> Any:
        body = None if method == "GET" else dict(document or {})
        answer = self._client.request(method, f"/session/{self._session}{path}", json=body)
        value = answer.json()["value"]
        if answer.status_code != 200:
            raise WrongPage(f"{value['error']}: {value['message'].splitlines()[0]}")
        return value

    def open(self, url: str) -> None:
        self._ask("POST", "/url", {"url": url})

    @property
    def url(self) -> str:
        return str(self._ask("GET", "/url"))

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page and return what it returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector: str) -> str:
        """The first element that fits, as WebDriver names it."""
        return str(self._ask("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT])

    def click(self, selector: str) -> None:
        """Click as a person does: once it is shown; it is scrolled to, and nothing may lie over it."""
        self.until(lambda: self.is_shown(selector), f"{selector} was never shown")
        element = {ELEMENT: self.find(selector)}
        self.run("arguments[0].scrollIntoView({ block: 'center', behavior: 'instant' })", element)
        self._ask("POST", f"/element/{element[ELEMENT]}/click")

    def type(self, selector: str, text: str) -> None:
        self._ask("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Press keys one after another, wherever the focus is."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def text(self, selector: str) -> str:
        """What can be seen of an element; nothing of what is hidden."""
        return str(self.run("const e = document.querySelector(arguments[0]); return e ? e.innerText : ''", selector))

    def is_shown(self, selector: str) -> bool:
        script = "return document.querySelector(arguments[0])?.checkVisibility({visibilityProperty: true}) ?? false"
        return bool(self.run(script, selector))

    def until(self, is_so: Callable[[], T], what: str = "") -> T:
        """As `until`; fails in words that tell what the page shows instead."""
        answer: T = until(is_so, what, patience=PATIENCE, shows=lambda: f"the page shows:\n{self.text('body')}")
        return answer

    def until_text(self, selector: str, part: str) -> None:
        self.until(lambda: part in self.text(selector), f"{part!r} in {selector}")

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def prefer(self, **features: str) -> None:
        """What the reader's system prefers, as in `prefer(color_scheme="dark")`."""
        told = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self.devtools("Emulation.setEmulatedMedia", features=told)

    def resize(self, width: int, height: int, *, mobile: bool = False, scale: float = 1) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )

    @contextmanager
    def minimised(self) -> Iterator[None]:
        """Nobody sees the window for a while."""
        size = self._ask("POST", "/window/minimize")
        try:
            yield
        finally:
            self._ask("POST", "/window/rect", size)

    def picture(self, path: Path) -> None:
        """The whole page, not only what fits the window."""
        told = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))

    def complaints(self) -> list[str]:
        """What the console has said since this was last asked: errors of scripts, refusals by the page's policy."""
        return [f"{each['level']}: {each['message']}" for each in self._ask("POST", "/se/log", {"type": "browser"})]


@contextmanager
def browser(width: int = 1200, height: int = 900, *, arguments: Sequence[str] = ()) -> Iterator[Browser]:
    """A fresh browser with nothing in its memory; gone afterwards, with all that it started."""
    with (
        tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as folder,
        _driver(Path(folder)) as client,
    ):
        options = {
            "binary": CHROMIUM,
            "args": [*ARGUMENTS, *arguments, f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"],
        }
        always = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = client.post("/session", json={"capabilities": {"alwaysMatch": always}})
        value = answer.json()["value"]
        assert answer.status_code == 200, value["message"]
        try:
            yield Browser(client, value["sessionId"])
        finally:
            client.delete(f"/session/{value['sessionId']}")


@contextmanager
def _driver(folder: Path) -> Iterator[httpx.Client]:
    port = free_port()
    assert DRIVER is not None
    environ = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    command = [DRIVER, f"--port={port}", "--allowed-ips=127.0.0.1", "--log-level=SEVERE"]
    process = subprocess.Popen(
        command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE * 2, trust_env=False) as client:
            _wait_for(client)
            yield client
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


def _wait_for(client: httpx.Client) -> None:
    def is_ready() -> bool:
        try:
            return bool(client.get("/status").json()["value"]["ready"])
        except httpx.TransportError:
            return False

    until(is_ready, "an answer of chromedriver")
