"""The page over many jobs, below a folder of a proxy's, while answers come late, and in a reader's own colours."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.gateway.auth.keys import VARIABLE
from jobs.testing.models import LIBRARY, arbitrary
from jobs.testing.registry.server import RegistryDouble
from tests.support import nginx as web
from tests.support.browser import ENTER, ESCAPE, MISSING, SHIFTS, SPACE, TAB, Browser, browser
from tests.support.gateways import RunningGateway
from tests.support.local_stack import Shell, Up, simulator_as_ollama, up
from tests.support.many_jobs import many_jobs
from tests.support.sample_history import lived
from tests.support.slow_proxy import slow_proxy

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

STEADY = [arbitrary(name, 10_000_000) for name in ("by-nginx", "by-ours")]
"""Some seconds of pulling each, at the stack's rate limit."""


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway without keys, with 500 jobs behind it of which 239 failed in one way."""
    with many_jobs(tmp_path_factory.mktemp("crowd")) as running:
        yield running


@pytest.fixture
def page(window: Browser, crowd: RunningGateway) -> Browser:
    return opened(window, crowd.url)


def opened(window: Browser, url: str) -> Browser:
    """The page at its very beginning, with all that it has to tell."""
    window.prefer(color_scheme="light")
    window.resize(1200, 900)
    window.open(f"{url}/ui")
    window.until(lambda: window.is_shown("#footer"), "the page never came to its end")
    window.complaints()
    return window


def rows(page: Browser) -> list[str]:
    """The first line of each row of the list."""
    script = "return [...document.querySelectorAll('#job-list > li')].map((row) => row.innerText.split('\\n')[0])"
    return [str(each) for each in page.run(script)]


def focused(page: Browser, what: str) -> str:
    return str(page.run(f"return document.activeElement.{what}"))


# -- all jobs ----------------------------------------------------------------------------------------------------------


def test_the_headline_is_of_all_jobs(page: Browser) -> None:
    """What goes on and what failed is counted over all jobs, however few of them the list shows."""
    assert page.text("#now-title") == "3 things need you"
    assert page.text("#problems").splitlines() == [
        "239 pull jobs failed (network) and were not tried again.",
        "Delete library-001:latest failed and was not tried again.",
        "Pull nomic-embed-txt:latest failed and was not tried again.",
    ]
    assert "3 jobs under way" in page.text("#standing")
    counts = page.run("return [...document.querySelectorAll('.filter .count')].map(({innerText}) => innerText)")
    assert counts == ["500", "3", "241"]


def test_failures_of_one_kind_are_one_line(page: Browser) -> None:
    """239 failures of one kind take one row: how many, why, what to do, and each of them behind a click."""
    assert [row for row in rows(page) if "failed in the same way" in row] == ["239 pull jobs failed in the same way"]
    assert not [row for row in rows(page) if "outage" in row]
    group = page.text(".group")
    assert "network: the registry of registry.ollama.ai did not answer within 30 s" in group
    assert "retry them all" in group

    page.click(".group summary")
    page.until(lambda: page.run("return document.querySelectorAll('.members .job').length") == 25)
    assert "outage-238:latest" in page.text(".members .job")
    page.click(".members ~ button")
    page.until(lambda: page.run("return document.querySelectorAll('.members .job').length") == 100)
    page.click(".group summary")


def test_a_problem_leads_to_its_job(page: Browser) -> None:
    """Pressed, a line of the headline brings the job into sight that it is about, whatever the list shows."""
    page.click('input[name="which"][value="open"]')
    page.until(lambda: len(rows(page)) == 3)
    page.click("#problems li:nth-child(2) a")

    # The line that was pressed names it as well, and has the focus until the list is there.
    page.until(lambda: "".join(rows(page)[:1]).startswith("delete library-001:latest"), "the list never showed the job")
    page.until(lambda: "library-001" in focused(page, "innerText"), "the job never had the focus")
    assert page.run("return document.querySelector('input[name=which]:checked').value") == "failed"


def test_the_list_is_read_page_by_page(page: Browser) -> None:
    """By keyboard, older and newer: each job is on one page, and a job that comes meanwhile moves none of them."""
    first = rows(page)
    assert page.text("#page-place") == "Page 1"
    page.run("document.querySelector('#older').focus()")
    page.press(ENTER)
    page.until_text("#page-place", "Page 2")
    second = rows(page)
    assert not set(first) & set(second)
    assert focused(page, "id") == "older"

    posted = page.run(
        "return fetch('ops/v1/jobs', {method: 'POST', body: JSON.stringify({kind: 'pull', model: 'late'}),"
        " headers: {'content-type': 'application/json'}}).then((answer) => answer.json())"
    )
    page.until(lambda: page.text(".filter .count") == "501", "the new job was never counted")
    assert rows(page) == second

    page.press(TAB)
    page.run("document.querySelector('#newer').focus()")
    page.press(SPACE)
    page.until(lambda: rows(page)[0].startswith("pull late:latest"))
    page.run("return fetch(`ops/v1/jobs/${arguments[0]}/cancel`, {method: 'POST'}).then(() => 1)", posted["id"])


def test_the_list_is_searched_as_one_types(page: Browser) -> None:
    """Among all jobs, by words of kind, model and id, a moment after the last key; Escape shows all again."""
    page.type("#find", "OUTAGE-1")
    page.until(lambda: len(rows(page)) == 15 and all("outage-1" in row for row in rows(page)))
    assert page.text("#page-place") == "Page 1"
    page.type("#find", "17 pull")
    page.until(lambda: [row.split(":")[0] for row in rows(page)] == ["pull outage-117"])
    page.type("#find", " nothing")
    page.until_text("#jobs-note", "No job fits.")
    assert focused(page, "id") == "find"

    page.press(ESCAPE)
    page.until(lambda: "239 pull jobs failed in the same way" in rows(page))
    script = "return performance.getEntriesByType('resource').filter(({name}) => name.includes('q=')).length"
    assert page.run(script) <= 6, "it was asked for each key"


def test_a_list_that_lives_moves_nobody(page: Browser) -> None:
    """While the list is looked at again and again, what is looked at stays where it is in the window, and the focus and
    what was opened as they are."""
    page.click("#job-list > li:nth-child(9) summary")
    page.run("document.querySelector('#job-list > li:nth-child(9) summary').focus()")
    place = "const at = document.activeElement; return [Math.round(at.getBoundingClientRect().y), at.closest('li').id]"
    before = page.run(place)
    assert page.run("return scrollY") > 0
    looks = "return performance.getEntriesByType('resource').filter(({name}) => name.includes('jobs?')).length"
    seen = page.run(looks)

    page.until(lambda: page.run(looks) >= seen + 2)

    assert page.run(place) == before
    assert page.run("return document.querySelector('#job-list > li:nth-child(9) details').open")


def test_what_waits_for_another_job_says_so(page: Browser) -> None:
    """A warm-up that waits for the pull of its model names it, and leads to it."""
    warm = '.job:has([data-subject="qwen3:latest"]):not([data-state="running"])'
    assert "queued, waits for the pull of qwen3:latest" in page.text(warm)

    page.click(f"{warm} .waits a")

    page.until(lambda: focused(page, "dataset.state") == "running")


def test_all_failures_of_a_kind_are_tried_again_or_dismissed(window: Browser, tmp_path: Path) -> None:
    """After one more yes all of a group are posted again, some at a time; a group that takes weights away cannot be."""
    with many_jobs(tmp_path, failures=60, total=80) as running:
        page = opened(window, running.url)
        page.click('[aria-label="Try all again: 60 pull jobs"]')
        assert page.text("#asking-title") == "Try all again: 60 pull jobs?"
        page.click('#asking [data-part="yes"]')
        page.until(lambda: not page.run("return document.querySelector('.group')"), "the group stayed")
        assert "62 jobs under way" not in page.text("#standing")
        page.until_text("#standing", "63 jobs under way")
        assert "Delete library-001" in page.text("#problems")
        assert page.text("#news") == "60 jobs posted again"


def test_declared_prices_are_shown_where_nothing_is_rented(window: Browser, tmp_path: Path) -> None:
    """On one machine the prices of its fleet file stand at each tier, with their day and source, and cost nothing."""
    with many_jobs(tmp_path, total=3, rented=False) as running:
        page = opened(window, running.url)
        tiers = " ".join(page.text("#tier-list").split())

        assert "$0 here · $1.42 an hour where it is rented" in tiers
        assert "$4.84 an hour where it is rented" in tiers
        assert "Prices are of 2026-09-15, from" in page.text("footer")
        assert "nothing is rented here" in page.text("footer")
        assert "an hour now" not in page.text("#standing")
        assert page.text("#now-title") == "1 thing needs you"


# -- while it loads ----------------------------------------------------------------------------------------------------

LATE = {
    "top last": {"tiers": 1.2, "health": 0.9, "summary": 1.5, "jobs": 0.3},
    "top first": {"models": 0.9, "days": 1.2, "night": 0.2, "jobs": 0.6},
}
"""By how many seconds which answers come later."""


@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_shifts_while_it_loads(
    window: Browser, weeks: RunningGateway, crowd: RunningGateway, width: int, late: str
) -> None:
    """However late each answer comes, what is shown stays where it is: the sum of all shifts is far below 0.1."""
    for running in (weeks, crowd):
        with slow_proxy(running.url, lambda path: LATE[late].get(path.rpartition("/")[2], 0.1)) as url:
            window.prefer(color_scheme="light")
            window.resize(width, 800, mobile=width == 360)
            window.open(f"{url}/ui")
            window.until(lambda: window.is_shown("#footer"), "the page never came to its end")

            shifts = window.run(SHIFTS)
            window.open("about:blank")

            assert sum(value for value, _ in shifts) < 0.1, shifts


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway without keys, four weeks after it was first used."""
    with lived(tmp_path_factory.mktemp("weeks")) as running:
        yield running


# -- below a folder ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("stack")
    with RegistryDouble((*LIBRARY, *STEADY)) as registry:
        programs = simulator_as_ollama(folder / "bin", registry.url)
        path = f"{programs}:{Shell(folder).environ['PATH']}"
        shell = Shell(folder, {"PATH": path, VARIABLE: "", "OLLAMA_MODAL_REGISTRY": registry.url})
        with up(shell, "--models", str(folder / "models"), "--rate-limit", "4000000") as running:
            yield running


@pytest.mark.parametrize("proxy", ["nginx", "ours"])
def test_it_works_below_a_folder(window: Browser, stack: Up, tmp_path: Path, proxy: str) -> None:
    """Behind a proxy that takes `/llm` off, all of the page works: files, questions, streams and what is posted."""
    with ExitStack() as opened_here:
        if proxy == "nginx":
            if web.MISSING:
                pytest.skip(web.MISSING)
            location = f"location /llm/ {{ proxy_pass {stack.url}/; }}"
            url = f"{opened_here.enter_context(web.nginx(tmp_path, location))}/llm"
        else:
            url = opened_here.enter_context(slow_proxy(stack.url, folder="/llm"))
        page = opened(window, url)
        model = f"by-{proxy}"
        page.type("#pull-model", model)
        page.press(ENTER)
        page.until(lambda: f"{model}:latest" in page.text("#model-list"), "the pull never ended")
        asked = page.run("return performance.getEntriesByType('resource').map(({name}) => new URL(name).pathname)")
        assert all(path.startswith(("/llm/ui/", "/llm/ops/v1/")) for path in asked), asked
        assert any(path.endswith("/events") for path in asked)
        assert page.run("return document.querySelector('.icon use').getBoundingClientRect().width") > 0
        for typed in ("/ui/", "/ui/index.html"):
            page.open(f"{url}{typed}")
            page.until(lambda: page.is_shown("#footer"))
            assert page.url == f"{url}/ui"
        assert [line for line in page.complaints() if "favicon.ico" not in line] == []


def test_the_focus_stays_after_a_delete(window: Browser, stack: Up) -> None:
    """When the row that had the focus goes, the next row has it, and after the last one the heading of that part."""
    page = opened(window, stack.url)
    for model in ("tiny", "qwen2.5:0.5b"):
        page.type("#pull-model", model)
        page.press(ENTER)
        page.until_text("#model-list", model)
    names = "return [...document.querySelectorAll('#model-list th bdi')].map(({innerText}) => innerText)"
    listed = page.run(names)

    def delete_first() -> None:
        before = page.run(names)
        page.run("document.querySelector('#model-list button:not([hidden])').focus()")
        page.press(ENTER)
        page.run("document.querySelector('#asking [data-part=\"yes\"]').focus()")
        page.press(SPACE)
        page.until(lambda: page.run(names) == before[1:], "the model never went")

    for after in listed[1:]:
        delete_first()
        assert focused(page, "innerText").startswith(after)
    delete_first()
    assert focused(page, "id") == "models-title"


# -- in the reader's own colours ---------------------------------------------------------------------------------------


@pytest.fixture
def forced(window: Browser, weeks: RunningGateway) -> Iterator[Browser]:
    """The page as a reader sees it whose system has colours of its own."""
    page = opened(window, weeks.url)
    page.devtools("Emulation.setEmulatedMedia", features=[{"name": "forced-colors", "value": "active"}])
    assert page.run("return matchMedia('(forced-colors: active)').matches")
    yield page
    page.devtools("Emulation.setEmulatedMedia", features=[])


def test_forced_colours_are_legible(forced: Browser) -> None:
    """How far a job has come, which filter is chosen, each state and each figure stand out without our colours."""
    weak = forced.run(CONTRASTS)

    assert weak == []
    done, left = seen(forced, "#job-list .bar", 0.2), seen(forced, "#job-list .bar", 0.95)
    assert max(abs(one - other) for one, other in zip(done, left, strict=True)) > 80, (done, left)


def seen(page: Browser, selector: str, share: float) -> list[int]:
    """The colour that is seen in an element, so far from its left end, in red, green and blue."""
    box = page.run(
        "const node = document.querySelector(arguments[0]); node.scrollIntoView({ block: 'center' });"
        "const { x, y, width, height } = node.getBoundingClientRect();"
        "return { x: x + scrollX, y: y + scrollY, width, height }",
        selector,
    )
    clip = {"x": box["x"] + box["width"] * share, "y": box["y"] + box["height"] / 2 - 1, "width": 2, "height": 2}
    taken = page.devtools("Page.captureScreenshot", format="png", clip={**clip, "scale": 1})
    return list(page.run(PIXEL, f"data:image/png;base64,{taken['data']}"))


PIXEL = """
const image = new Image();
image.src = arguments[0];
return image.decode().then(() => {
  const canvas = new OffscreenCanvas(2, 2).getContext('2d');
  canvas.drawImage(image, 0, 0);
  return [...canvas.getImageData(1, 1, 1, 1).data].slice(0, 3);
});
"""

CONTRASTS = """
const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
const light = (colour, under) => {
  for (const fill of [under, colour]) { canvas.fillStyle = fill; canvas.fillRect(0, 0, 1, 1); }
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, each, at) => sum + each * [0.2126, 0.7152, 0.0722][at], 0);
};
const ground = (node) => {
  const { backgroundColor } = node ? getComputedStyle(node) : { backgroundColor: 'Canvas' };
  return /, 0\\)$/.test(backgroundColor) ? ground(node.parentElement) : backgroundColor;
};
const weak = [];
const need = (what, one, other, least) => {
  const [low, high] = [light(one, other), light(other, other)].sort((a, b) => a - b);
  if ((high + 0.05) / (low + 0.05) < least) weak.push([what, one, other]);
};
const all = (selector) => [...document.querySelectorAll(selector)].filter((node) => node.checkVisibility());
for (const node of all('.icon')) need('an icon', getComputedStyle(node).color, ground(node), 3);
const figures = ['.chart', '.swatch'].flatMap((each) => [`${each} [class^=series]`, `${each} [class^=mark]`]).join();
for (const node of all(figures)) {
  const { fill, stroke } = getComputedStyle(node);
  need(node.getAttribute('class'), fill === 'none' ? stroke : fill, ground(node.closest('figure')), 3);
}
for (const node of all('.chart .axis')) need('axis', getComputedStyle(node).fill, ground(node.closest('figure')), 4.5);
const chosen = document.querySelector('.filter input:checked + span');
const another = document.querySelector('.filter input:not(:checked) + span');
need('what is chosen', getComputedStyle(chosen).color, ground(chosen), 4.5);
need('chosen or not', ground(chosen), ground(another), 1.5);
const bar = document.querySelector('.bar');
need('the border of a bar', getComputedStyle(bar).borderTopColor, ground(bar), 3);
return weak;
"""
