"""The status page as a person meets it: headless Chromium, a real gateway, simulated servers and registry."""

import re
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from app.gateway.auth.keys import VARIABLE
from jobs.access.keys.proofs import hash_of, new_key
from jobs.testing.models import LIBRARY, arbitrary
from jobs.testing.registry.faults import RegistryFault
from jobs.testing.registry.server import RegistryDouble
from tests.support.browser import ENTER, ESCAPE, MISSING, SPACE, TAB, Browser, WrongPage, browser
from tests.support.gateways import RunningGateway
from tests.support.local_stack import Shell, Up, simulator_as_ollama, up
from tests.support.sample_history import lived
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

ADMIN, CHAT = new_key(), new_key()
KEYS = f"root {hash_of(ADMIN)} chat admin\nalice {hash_of(CHAT)} chat"

RATE = 4_000_000
STEADY = arbitrary("steady", 10_000_000)
"""Some seconds of pulling at the stack's rate limit."""
LENGTHY = arbitrary("lengthy", 400_000_000)
"""So long that a test ends before it."""

HOSTILE = '<img src=x onerror="window.struck=1"><script>window.struck=1</script>\u202egnp.exe'


@dataclass(frozen=True)
class House:
    up: Up
    registry: RegistryDouble
    shell: Shell


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """`ollama-modal up` with keys, two simulated servers, and a registry whose faults a test can switch on."""
    folder = tmp_path_factory.mktemp("house")
    with RegistryDouble((*LIBRARY, STEADY, LENGTHY)) as registry:
        programs = simulator_as_ollama(folder / "bin", registry.url)
        path = f"{programs}:{Shell(folder).environ['PATH']}"
        shell = Shell(folder, {"PATH": path, VARIABLE: KEYS, "OLLAMA_MODAL_REGISTRY": registry.url})
        words = ("--tier", "a10g", "--tier", "h100", "--models", str(folder / "models"), "--rate-limit", str(RATE))
        with up(shell, *words) as running:
            yield House(running, registry, shell)


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture
def page(house: House, window: Browser) -> Browser:
    """The page as it opens for the first time."""
    fresh(window, house)
    window.open(f"{house.up.url}/ui")
    window.until(lambda: window.is_shown("#key-form"))
    window.complaints()
    return window


@pytest.fixture
def board(house: House, window: Browser) -> Browser:
    """The page in a tab that has signed in before, with a key that may do everything."""
    fresh(window, house)
    window.run("sessionStorage.setItem('ollama-modal key', arguments[0])", ADMIN)
    window.open(f"{house.up.url}/ui")
    window.until(lambda: window.is_shown("#footer"), "the board never came")
    window.complaints()
    return window


def fresh(window: Browser, house: House) -> None:
    """Nothing is kept of what was before."""
    window.prefer(color_scheme="light")
    window.resize(1200, 900)
    window.open(f"{house.up.url}/healthz")
    window.run("sessionStorage.clear()")


def sign_in(page: Browser, key: str) -> None:
    page.type("#key", key)
    page.press(ENTER)
    page.until(lambda: page.is_shown("#footer"), "the board never came")


def row(subject: str) -> str:
    """Where the newest job about this model stands."""
    return f'.job:has([data-subject="{subject}"])'


def pull(page: Browser, model: str) -> None:
    page.type("#pull-model", model)
    page.press(ENTER)


def state(page: Browser, subject: str) -> str:
    script = "return document.querySelector(arguments[0])?.dataset.state ?? ''"
    return str(page.run(script, row(subject)))


def asked(page: Browser) -> list[str]:
    """What the page has asked for since it was opened, as paths."""
    script = "return performance.getEntriesByType('resource').map(({name}) => new URL(name).pathname)"
    return [str(path) for path in page.run(script)]


# -- the key -----------------------------------------------------------------------------------------------------------


def test_the_key_is_asked_for_once_and_kept_for_the_tab(page: Browser, house: House) -> None:
    """Nothing is shown without a key; a good one is kept by this tab alone, survives a reload, and can be forgotten."""
    assert not page.is_shown("#board")
    page.type("#key", "omk_wrong")
    page.press(ENTER)
    page.until_text("#key-trouble", "key")
    assert not page.is_shown("#board")

    sign_in(page, ADMIN)
    assert page.url == f"{house.up.url}/ui"
    assert ADMIN not in page.run(
        "return JSON.stringify(localStorage) + document.cookie + JSON.stringify(history.state)"
    )
    page.open(f"{house.up.url}/ui")
    page.until_text("#now-title", "All is well")
    assert "root" in page.text("#caller")

    page.click("#forget")
    page.until(lambda: page.is_shown("#key-form"))
    assert page.run("return sessionStorage.length") == 0


def test_a_key_that_is_no_longer_good_brings_the_form_back(board: Browser) -> None:
    """When the gateway refuses the key in the middle, the form comes back with the reason, and nothing stays shown."""
    board.run("for (const name of Object.keys(sessionStorage)) sessionStorage.setItem(name, 'omk_revoked')")

    pull(board, "steady")

    board.until(lambda: board.is_shown("#key-form"))
    board.until_text("#key-trouble", "key")
    assert not board.is_shown("#board")


def test_a_chat_key_looks_and_is_told_why_it_may_not_touch(page: Browser) -> None:
    """A key of scope chat sees how all stands and no button that changes something; the page says why."""
    sign_in(page, CHAT)

    page.until_text("#read-only", "scope admin")
    assert "alice has the scope chat" in page.text("#read-only")
    assert not page.is_shown("#pull-form")
    assert not page.is_shown("#acts")
    assert "/ops/v1/audit" not in asked(page)
    assert not page.run(
        "return [...document.querySelectorAll('.job button, #models button')].some((each) => each.checkVisibility())"
    )


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_a_pull_from_the_form_ends(board: Browser, house: House) -> None:
    """A pull that is asked for in the form shows up, moves before one's eyes, ends, and its model is listed."""
    seen: list[int] = []

    def has_moved() -> bool:
        value = board.run("return document.querySelector(arguments[0])?.value ?? 0", f"{row('steady:latest')} progress")
        if state(board, "steady:latest") == "running" and value not in {0, *seen[-1:]}:
            seen.append(value)
        return len(seen) >= 3

    house.registry.throttle.bytes_per_second = 50_000  # minutes, of which a machine takes what it needs to show three
    pull(board, "steady")
    board.until(has_moved, "the progress moved three times")
    house.registry.throttle.bytes_per_second = None

    board.until(lambda: state(board, "steady:latest") == "succeeded")
    assert seen == sorted(seen)
    board.until_text("#model-list", "steady:latest")
    assert "10.0 MB" in board.text("#model-list")
    assert board.text("#news") == "pull steady:latest: succeeded"
    assert board.run("return document.activeElement.id") == "pull-model"  # ready for the next
    board.until_text("#act-list", "pull steady:latest posted")
    assert board.complaints() == []


def test_a_failure_tells_its_story_and_is_retried(board: Browser, house: House) -> None:
    """A failed pull says why and what to do, and one press tries exactly the same again."""
    house.registry.faults.add(RegistryFault("manifest", "status", 404, times=None))
    pull(board, "tiny")
    board.until(lambda: state(board, "tiny:latest") == "failed")
    told = board.text(row("tiny:latest"))
    assert "not found" in told
    assert "Check the spelling" in told
    board.until_text("#now-title", "1 thing needs you")
    house.registry.faults.clear()

    board.click(f"{row('tiny:latest')} summary")
    assert "Story: 1 attempt of 8" in board.text(row("tiny:latest"))
    assert "posted by\nroot" in board.text(row("tiny:latest"))
    board.click(f'{row("tiny:latest")} [aria-label="Try again: pull tiny:latest"]')

    board.until(lambda: state(board, "tiny:latest") == "succeeded")
    board.until_text("#now-title", "All is well")
    board.until_text("#model-list", "tiny:latest")


def test_the_list_can_be_narrowed(board: Browser, house: House) -> None:
    """Only what is under way, or only what has failed, whichever is chosen; what was mended needs nobody any more."""
    house.registry.faults.add(RegistryFault("manifest", "status", 404, times=1))
    pull(board, "tiny:v2")
    board.until(lambda: state(board, "tiny:v2") == "failed")
    pull(board, "tiny:v2")
    board.until(lambda: state(board, "tiny:v2") == "succeeded")

    choose(board, "failed")
    board.until(lambda: state(board, "tiny:v2") == "failed")
    assert board.run("return [...document.querySelectorAll('.job')].every(({dataset}) => dataset.state === 'failed')")
    assert "tiny:v2" not in board.text("#problems")
    assert not board.is_shown('[aria-label="Try again: pull tiny:v2"]')  # a later one has succeeded
    choose(board, "open")
    board.until_text("#jobs-note", "Nothing is under way.")
    choose(board, "all")
    board.until(lambda: state(board, "tiny:v2") == "succeeded")


def choose(page: Browser, which: str) -> None:
    page.click(f'input[name="which"][value="{which}"]')


def test_a_model_is_deleted_only_after_one_more_yes(board: Browser, house: House) -> None:
    """By keyboard: Escape means no and the focus goes back; yes posts the job, and the model leaves the list."""
    pull(board, "qwen2.5:0.5b")
    board.until(lambda: state(board, "qwen2.5:0.5b") == "succeeded")
    board.until_text("#model-list", "qwen2.5:0.5b")
    button = "element.getAttribute('aria-label') === 'Delete: qwen2.5:0.5b'"
    board.run("document.querySelector('#pull-model').focus()")
    walk_to(board, button)

    board.press(ENTER)
    assert board.text("#asking-title") == "Delete qwen2.5:0.5b?"
    assert "not kept in the trash" in board.text("#asking-words")
    board.press(ESCAPE)
    assert not board.is_shown("#asking")
    assert board.run(f"const element = document.activeElement; return {button}")
    assert "delete" not in board.text("#job-list")

    board.press(ENTER)
    walk_to(board, "element.dataset.part === 'yes'")
    board.press(SPACE)
    board.until(lambda: state(board, "qwen2.5:0.5b") == "succeeded" and "delete" in board.text(row("qwen2.5:0.5b")))
    board.until(lambda: "qwen2.5:0.5b" not in board.text("#model-list"))
    assert not board.is_shown("#asking")


def test_a_pull_supersedes_a_delete_that_failed(board: Browser, house: House) -> None:
    """A delete that failed needs nobody, and cannot be tried again, once its model was pulled after it."""
    with closing(house.shell.store()) as store:
        id = store.ledger().post("delete", "nomic-embed-text:latest", {"model": "nomic-embed-text"}, by="test").job.id
    again = '[aria-label="Try again: delete nomic-embed-text:latest"]'
    board.until(lambda: board.is_shown(f"#job-{id} {again}"), "it never failed")
    board.until_text("#problems", "Delete nomic-embed-text:latest failed")
    pull(board, "nomic-embed-text")
    board.until(lambda: state(board, "nomic-embed-text:latest") == "succeeded")
    board.until(lambda: "nomic-embed-text" not in board.text("#problems"))
    assert board.is_shown(f"#job-{id}")
    assert not board.is_shown(again)


def test_a_failure_can_be_dismissed(board: Browser) -> None:
    """One press, and a failed job needs nobody any more; it stays in the list with its story."""
    pull(board, "no-such-model")
    board.until_text("#problems", "no-such-model")
    board.click('[aria-label="Dismiss: pull no-such-model:latest"]')
    board.until(lambda: "no-such-model" not in board.text("#problems"))
    board.until_text(row("no-such-model:latest"), "and dismissed")
    assert not board.is_shown('[aria-label="Dismiss: pull no-such-model:latest"]')


def test_a_rollback_says_what_it_does(board: Browser, house: House) -> None:
    """It is offered where the trash has a version: what comes back, and that the night leaves it so."""
    house.registry.put(arbitrary("turned", 60_000, layers=2))
    pull(board, "turned")
    board.until(lambda: state(board, "turned:latest") == "succeeded")  # else the next pull would be this one
    board.until_text("#model-list", "turned:latest")
    assert not board.is_shown('[aria-label="Roll back: turned:latest"]')
    house.registry.put(arbitrary("turned", 61_000, layers=2))
    pull(board, "turned")
    board.until(lambda: board.is_shown('[aria-label="Roll back: turned:latest"]'))
    board.click('[aria-label="Roll back: turned:latest"]')
    assert "comes back from the trash" in board.text("#asking-words")
    board.click('#asking [data-part="yes"]')
    board.until(lambda: "rollback" in board.text(row("turned:latest")) and state(board, "turned:latest") == "succeeded")


def test_without_streams_the_looks_still_tell(board: Browser) -> None:
    """Where no stream gets through, a job's end is still seen: the list is looked at now and then."""
    board.devtools("Network.enable")
    board.devtools("Network.setBlockedURLs", urls=["*/events"])
    try:
        pull(board, "qwen2.5:0.5b")
        board.until(lambda: state(board, "qwen2.5:0.5b") == "succeeded")
    finally:
        board.devtools("Network.setBlockedURLs", urls=[])


# -- what stands, and what was -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway without keys, four weeks after it was first used."""
    with lived(tmp_path_factory.mktemp("weeks")) as running:
        yield running


@pytest.fixture
def past(window: Browser, weeks: RunningGateway) -> Browser:
    """The page of that gateway."""
    window.prefer(color_scheme="light")
    window.resize(1200, 900)
    window.open(f"{weeks.url}/ui")
    window.until(lambda: window.is_shown("#charts figure:nth-child(3)") and window.text("#run-list"))
    return window


def test_on_loopback_without_keys_none_is_asked_for(past: Browser) -> None:
    """Where no keys are configured the page opens at once, and may do everything."""
    assert not past.is_shown("#key-form")
    assert not past.is_shown("#forget")
    assert past.is_shown("#pull-form")


def test_simulated_servers_are_told_at_the_top(window: Browser, past: Browser, tmp_path: Path) -> None:
    """Whoever looks at a stack whose servers only pretend reads so before all else; nobody else does."""
    assert not past.is_shown("#simulated")
    with up(Shell(tmp_path), "--simulate") as running:
        window.open(f"{running.url}/ui")
        window.until(lambda: window.is_shown("#simulated"), "nothing said that it is simulated")
        assert window.text("#simulated").startswith("SIMULATED")


def test_tiers_are_shown_with_state_and_price(past: Browser) -> None:
    """Each tier says in words how it is, what it costs now, and what it holds; asleep is healthy and free."""
    tiers = " ".join(past.text("#tier-list").split())

    assert "Ready for 4" in tiers
    assert "$1.42 an hour now" in tiers
    assert "llama3.2:latest 4.1 GB" in tiers
    assert "Asleep, which is healthy" in tiers
    assert "$0 now · $4.84 an hour when awake" in tiers
    assert "Prices are of 2026-09-15" in past.text("footer")


def test_models_are_shown_with_pin_and_last_use(past: Browser) -> None:
    """Each model has its other names, its size, tier, pin and last use; their sum stands beside the quota."""
    pinned = past.text("#model-list tr:nth-child(1)")

    assert "llama3.2:latest" in pinned
    assert re.search(r"also (gpt-4o, claude-\*|claude-\*, gpt-4o)", pinned)
    assert "2.0 GB" in pinned
    assert "pinned" in pinned
    assert "min ago" in pinned
    assert "not recorded" in past.text("#model-list tr:nth-child(4)")
    assert "28.7 GB of a quota of 1.0 TB" in past.text("#models-note")


def test_the_last_weeks_are_drawn_and_said(past: Browser) -> None:
    """Requests, cost and health are drawn day by day, said in a sentence, and written in a table."""
    for title, words in (
        ("Requests", "answered to their end"),
        ("Cost", "of a budget of $200"),
        ("Health", "degraded"),
    ):
        assert words in said(past, title), said(past, title)

    assert past.run("return document.querySelectorAll('#charts rect.series-0').length") > 20
    assert (
        past.run("return document.querySelectorAll('#charts .pattern').length") > 20
    )  # to be told apart without colour
    assert past.run("return document.querySelectorAll('#charts .mark-lost').length") > 1  # one is in the legend
    past.run("document.querySelectorAll('#charts details').forEach((each) => (each.open = true))")
    assert past.run("return document.querySelectorAll('#charts tbody tr').length") == 3 * 28


def test_next_runs_are_shown(past: Browser) -> None:
    """What runs next by itself stands there with its time and what it does."""
    runs = past.text("#run-list")

    assert "Tick" in runs
    assert "The window of a10g" in runs
    assert "Nightly" in runs
    assert "in " in runs
    assert "The last night came" in past.text("#last-night")
    assert "1 job, 1 succeeded; pulled 0 B, freed 0 B, verified 29 GB" in past.text("#last-night")


def test_what_waits_says_why_and_until_when(past: Browser) -> None:
    """A job between two attempts says when the next one comes and what the last one met."""
    waiting = past.text('.job[data-state="waiting"]')

    assert "the next try is in" in waiting
    assert "network: tier 'h100' answered 503" in waiting


def said(page: Browser, title: str) -> str:
    """What a screen reader says of the drawing under this title."""
    script = """
        const figures = [...document.querySelectorAll('#charts figure')];
        const figure = figures.find((each) => each.innerText.startsWith(arguments[0]));
        const ids = figure.querySelector('svg[role=img]').getAttribute('aria-labelledby').split(' ');
        return ids.map((id) => document.getElementById(id).textContent).join(': ');
    """
    return str(page.run(script, title))


def test_looking_wakes_nobody(past: Browser, weeks: RunningGateway) -> None:
    """However the page looks, no server is asked or woken: what sleeps goes on sleeping."""
    past.until(lambda: "/ops/v1/days" in asked(past))

    assert weeks.composed.metrics.wakes() == 0
    assert weeks.open_exchanges() == 0
    assert "Asleep" in past.text("#tier-list")


# -- what others wrote -------------------------------------------------------------------------------------------------


def test_hostile_texts_are_shown_as_text(page: Browser, house: House) -> None:
    """Markup in a model's name, in a poster's, or in an error stays text; a turn of the reading direction is shown."""
    store = house.shell.store()
    ledger = store.ledger()
    request = {"model": HOSTILE, "way": "auto", "rate_limit": None}
    posted = ledger.post("pull", HOSTILE, request, by=HOSTILE, attempts=1).job
    until(lambda: ledger.reader.get(posted.id).has_ended)
    store.close()
    shown = '<img src=x onerror="window.struck=1"><script>window.struck=1</script>\\u{202e}gnp.exe'

    sign_in(page, ADMIN)
    page.click(f"#job-{posted.id} summary")
    page.until(lambda: page.text(f"#job-{posted.id}").count(shown) >= 3)  # as subject, poster, request
    assert "<script>" in page.text(f"#job-{posted.id} .trouble")
    page.run("document.querySelector('#pull-model').value = arguments[0]", HOSTILE)
    page.type("#pull-model", ENTER)
    page.until_text("#pull-trouble", "<script>window.struck=1</script>")

    assert page.run("return window.struck ?? null") is None
    assert page.run("return document.querySelectorAll('main img, main script').length") == 0
    assert not [line for line in page.complaints() if "Content Security" in line]


def test_the_policy_would_refuse_markup(board: Browser) -> None:
    """Even a script of this page could not turn a text into markup: the browser refuses."""
    with pytest.raises(WrongPage, match="TrustedHTML"):
        board.run("document.body.innerHTML = '<b>markup</b>'")


def test_the_page_asks_its_own_gateway_and_only_for_what_is_known(board: Browser) -> None:
    """Everything the page asks for is one of its files or a part of the ops API; it never asks a server."""
    paths = asked(board)

    assert "/ops/v1/tiers" in paths
    assert not [path for path in paths if not path.startswith(("/ui/", "/ops/v1/"))]
    origins = board.run("return performance.getEntriesByType('resource').map(({name}) => new URL(name).origin)")
    assert set(origins) == {board.url.removesuffix("/ui")}


# -- for everybody -----------------------------------------------------------------------------------------------------


def test_everything_can_be_done_with_the_keyboard(page: Browser) -> None:
    """From the skip link over the form to a job's button: each stop is visible, and Enter and Space do it all."""
    page.press(TAB)
    sign_in(page, ADMIN)
    assert page.run("return document.activeElement.id") == "main"
    page.open(page.url)
    page.until(lambda: page.is_shown("#footer"))

    page.press(TAB)
    assert page.run("return document.activeElement.className") == "skip"
    assert page.run("return document.activeElement.getBoundingClientRect().top") >= 0
    page.press(ENTER)
    assert page.run("return document.activeElement.id") == "main"

    walk_to(page, "element.id === 'pull-model'")
    page.type("#pull-model", "lengthy")
    page.press(ENTER)
    page.until(lambda: state(page, "lengthy:latest") == "running")
    page.run("document.querySelector('#main').focus()")
    walk_to(page, "element.getAttribute('aria-label') === 'Cancel: pull lengthy:latest'")
    page.press(SPACE)
    page.until(lambda: state(page, "lengthy:latest") == "cancelled")


def walk_to(page: Browser, condition: str) -> None:
    """Press Tab until this has the focus; every stop on the way shows that it has it."""
    script = f"""
        const element = document.activeElement;
        const shown = element.matches('.filter input') ? element.nextElementSibling : element;
        const {{ outlineStyle, outlineWidth }} = getComputedStyle(shown);
        return [{condition}, outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2, element.outerHTML.slice(0, 120)]
    """
    for _ in range(60):
        page.press(TAB)
        is_there, is_visible, what = page.run(script)
        assert is_visible, f"nobody sees that this has the focus: {what}"
        if is_there:
            return
    raise AssertionError(f"no stop on the way where {condition}")


def test_everything_has_a_name(board: Browser) -> None:
    """A screen reader can name every control, and the headings go down one by one."""
    board.devtools("Accessibility.enable")
    nodes = [node for node in board.devtools("Accessibility.getFullAXTree")["nodes"] if not node.get("ignored")]

    named = {"button", "textbox", "link", "radio", "progressbar", "image", "img", "table", "region", "navigation"}
    assert not [node for node in nodes if _of(node, "role") in named and not _of(node, "name")]
    levels = [
        int(each["value"]["value"])
        for node in nodes
        if _of(node, "role") == "heading"
        for each in node["properties"]
        if each["name"] == "level"
    ]
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in pairwise(levels)), levels
    assert board.run("return new Set([...document.querySelectorAll('[id]')].map(({id}) => id)).size") == board.run(
        "return document.querySelectorAll('[id]').length"
    )


def _of(node: dict[str, Any], what: str) -> str:
    return str(node.get(what, {}).get("value", ""))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_both_themes(board: Browser, scheme: str) -> None:
    """Every text has the contrast that people with weak sight need, in the light theme and in the dark one."""
    board.prefer(color_scheme=scheme)

    weak = board.run(
        """
        const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
        const rgb = (colour, under) => {
          canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
          canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
          return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
        };
        const light = (channels) => channels.map((value) => value / 255)
          .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
          .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
        const ground = (node) => {
          if (!node) return 'white';
          const under = ground(node.parentElement);
          return `rgb(${rgb(getComputedStyle(node).backgroundColor, under)})`;
        };
        const weak = [];
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
          const node = walker.currentNode.parentElement;
          if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
          if (node.closest('.unseen, :disabled, svg')) continue;
          const under = ground(node);
          const [one, other] = [light(rgb(getComputedStyle(node).color, under)), light(rgb(under, 'white'))];
          const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
          if (contrast < 4.5) weak.push([node.textContent.slice(0, 40), contrast.toFixed(2)]);
        }
        return weak;
        """
    )

    assert weak == []
    dark = board.run("return getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(14, 17, 22)") == (scheme == "dark")


def test_it_fits_a_phone(board: Browser) -> None:
    """At 360 pixels nothing is wider than the screen, and what is to be pressed is large enough for a finger."""
    board.resize(360, 780, mobile=True, scale=2)
    board.open(board.url)
    board.until(lambda: board.is_shown("#footer"))

    assert board.run("return document.documentElement.scrollWidth") == 360
    small = board.run(
        """
        return [...document.querySelectorAll('button, input:not([type=radio]), nav a')]
          .filter((each) => each.checkVisibility() && each.getBoundingClientRect().height < 36)
          .map(({ outerHTML }) => outerHTML.slice(0, 80))
        """
    )
    assert small == []


def test_whoever_wants_no_motion_has_none(board: Browser) -> None:
    """Where the reader's system asks for less motion, nothing glides."""
    board.prefer(reduced_motion="reduce")

    durations = board.run(
        "return [...document.querySelectorAll('*')].map((each) => getComputedStyle(each).transitionDuration)"
    )
    assert set(durations) == {"0s"}


# -- when things go wrong, or nobody looks -----------------------------------------------------------------------------


def test_a_gateway_that_is_gone_is_told_in_one_line(board: Browser) -> None:
    """While nothing answers the page says so and keeps what it knew; when the gateway is back, it goes on by itself."""
    board.devtools("Network.enable")
    nothing = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    board.devtools("Network.emulateNetworkConditions", offline=True, **nothing)

    pull(board, "steady")
    board.until_text("#pull-trouble", "The gateway does not answer. See whether it runs")
    board.until_text("#live", "Not up to date")
    board.until_text("#offline", "it asks again in")
    assert "a10g" in board.text("#tier-list")

    board.devtools("Network.emulateNetworkConditions", offline=False, **nothing)
    board.until_text("#live", "Live")
    assert not board.is_shown("#offline")


def test_nobody_is_asked_while_nobody_looks(board: Browser) -> None:
    """In a window that nobody sees the looks and the streams end; they go on when it comes back."""
    pull(board, "lengthy")
    board.until(lambda: state(board, "lengthy:latest") == "running")
    with board.minimised():
        before = -1
        while before != len(asked(board)):
            before = len(asked(board))
            time.sleep(3.0)  # what was under way comes in
        time.sleep(5.5)  # while a job runs a look comes every five seconds
        assert len(asked(board)) == before

    board.until(lambda: len(asked(board)) > before)
    board.click(f'{row("lengthy:latest")} [aria-label="Cancel: pull lengthy:latest"]')
    board.until(lambda: state(board, "lengthy:latest") == "cancelled")
