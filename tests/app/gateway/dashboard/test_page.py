"""The status page's files and the headers they are served with; the page itself is in `tests/e2e/test_browser.py`."""

import asyncio
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from hatchling.builders.wheel import WheelBuilder
from modal.mount import _Mount  # what Modal itself asks for the files of a function's package

from app.gateway.dashboard.page import FOLDER, TYPES, Page

ROOT = FOLDER.parent.parent.parent.parent
FILES = sorted(path for path in FOLDER.iterdir() if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]

NAMESPACE = "http://www.w3.org/2000/svg"
"""The name of a language, never an address that anybody asks."""


def ask(path: str, method: str = "GET", page: Page | None = None, **headers: str) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(app=page or Page())
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.request(
                method, path, headers={name.replace("_", "-"): headers[name] for name in headers}
            )

    return asyncio.run(once())


def policy(answer: httpx.Response) -> Mapping[str, str]:
    rules = (rule.strip().partition(" ") for rule in answer.headers["content-security-policy"].split(";"))
    return {name: value for name, _, value in rules}


@pytest.mark.parametrize("path", ["/ui", "/ui/page.js", "/ui/page.css", "/ui/icons.svg", "/ui/nothing"])
def test_the_policy_is_strict(path: str) -> None:
    """Every answer forbids what does not come from here, inline code, frames, and text that becomes markup."""
    rules = policy(ask(path))

    assert rules == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


@pytest.mark.parametrize("path", ["/ui", "/ui/page.js", "/ui/page.css", "/ui/icons.svg", "/ui/nothing"])
def test_headers_tell_browsers_not_to_guess(path: str) -> None:
    """Types are not guessed, addresses not passed on, pages of others kept out, and copies asked about each time."""
    headers = ask(path).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-cache"


def test_every_file_is_served_with_its_type() -> None:
    """What lies in the folder is what is served: each file under its name, the first one under `/ui`."""
    served = {path: ask(path) for path in Page().paths}

    assert set(served) == {"/ui", *(f"/ui/{path.name}" for path in FILES if path.name != "index.html")}
    for path in FILES:
        answer = served["/ui" if path.name == "index.html" else f"/ui/{path.name}"]
        assert answer.status_code == 200
        assert answer.headers["content-type"].encode() == TYPES[path.suffix]
        assert answer.content == path.read_bytes()
    assert served["/ui"].content == (FOLDER / "index.html").read_bytes()
    assert served["/ui"].headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("path", ["/ui/", "/ui/index.html"])
@pytest.mark.parametrize("folder", ["", "/llm"])
def test_other_addresses_lead_to_the_page(folder: str, path: str) -> None:
    """Relative addresses mean the same files only from one place, so what else people type is sent there."""
    answer = ask(path)

    assert answer.status_code == 308
    assert urljoin(f"http://proxy{folder}{path}", answer.headers["location"]) == f"http://proxy{folder}/ui"


@pytest.mark.parametrize("path", ["/ui/../page.py", "/ui/%2e%2e/page.py", "/ui/sub/page.js", "/ui/page.py", "/ui/.git"])
def test_nothing_else_is_served(path: str) -> None:
    """No path leads out of the folder, or to what is not part of the page."""
    answer = ask(path)

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_what_a_browser_has_is_not_sent_again() -> None:
    """A browser that names the tag it has is told that it is still good, with no body; another tag gets all of it."""
    first = ask("/ui/page.js")
    tag = first.headers["etag"]

    for told in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = ask("/ui/page.js", if_none_match=told)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
        assert policy(again) == policy(first)
    assert ask("/ui/page.js", if_none_match='"other"').content == first.content


def test_a_changed_file_has_another_tag(tmp_path: Path) -> None:
    """After an update no browser keeps the old file: its tag follows from its bytes."""
    (tmp_path / "index.html").write_text("one")
    before = ask("/ui", page=Page(tmp_path)).headers["etag"]

    (tmp_path / "index.html").write_text("two")

    assert ask("/ui", page=Page(tmp_path)).headers["etag"] != before
    assert ask("/ui", page=Page(tmp_path), if_none_match=before).text == "two"


def test_it_is_only_read() -> None:
    """HEAD has the headers without the body; whoever wants to write is told what goes."""
    head, whole, post = ask("/ui", "HEAD"), ask("/ui"), ask("/ui", "POST")

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
    assert (post.status_code, post.headers["allow"]) == (405, "GET, HEAD")


class Markup(HTMLParser):
    """Every element with its attributes, and the text inside script and style."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in {"script", "style"}:
            self.inline += data.strip()


def markup() -> Markup:
    parsed = Markup()
    parsed.feed((FOLDER / "index.html").read_text("utf-8"))
    return parsed


def test_the_page_holds_no_code_of_its_own() -> None:
    """No script and no style stands in the page itself, no handler and no style in an attribute."""
    parsed = markup()

    assert parsed.inline == ""
    assert not [tag for tag, _ in parsed.found if tag in {"style", "iframe", "object", "embed", "base"}]
    assert not [
        (tag, name)
        for tag, attributes in parsed.found
        for name in attributes
        if name == "style" or name.startswith("on")
    ]


def test_what_the_page_refers_to_is_served() -> None:
    """Every reference is a file that is served, or a part of the page that is there."""
    parsed = markup()
    ids = {attributes["id"] for _, attributes in parsed.found if "id" in attributes}

    for _, attributes in parsed.found:
        for name in ("src", "href"):
            if reference := attributes.get(name):
                page, _, part = reference.partition("#")
                assert not page or urljoin("/ui", page) in Page().paths, reference
                assert page or part in ids, reference


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_names_another_host(path: Path) -> None:
    """No file refers to a host: nothing is fetched from elsewhere, whatever a policy says."""
    text = path.read_text("utf-8").replace(NAMESPACE, "")

    assert not re.findall(r"(?:https?:|wss?:)?//[\w.-]+\.\w+", re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert "@import" not in text
    assert not [found for found in re.findall(r"url\(([^)]*)\)", text) if not found.startswith("#")]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_write_text_and_no_markup(path: Path) -> None:
    """No script can turn a text into markup, code or a style: names and error texts stay what they are."""
    text = path.read_text("utf-8")

    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|\beval\b"
    forbidden += r"|new Function|setTimeout\(\s*[\"'`]|\.style\b|[\"']style[\"']|srcdoc|javascript:"
    assert not re.findall(forbidden, text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_import_what_is_served(path: Path) -> None:
    """Every import names a file of this page, beside the one that imports it."""
    assert not [name for name in imported_by(path) if not (name.startswith("./") and (FOLDER / name).is_file())]


def imported_by(path: Path) -> list[str]:
    return re.findall(r"(?:from|import\(|import)\s*[\"']([^\"']+)[\"']", path.read_text("utf-8"))


def test_every_module_is_preloaded() -> None:
    """All that the first script imports, by whatever way, is named in the page, so that none waits for another."""
    (entry,) = (attributes["src"] for tag, attributes in markup().found if tag == "script")
    assert entry == "ui/page.js"
    needed, open_ends = set(), ["page.js"]
    while open_ends:
        for name in imported_by(FOLDER / open_ends.pop()):
            module = name.removeprefix("./")
            if module not in needed:
                needed.add(module)
                open_ends.append(module)
    preloaded = [each["href"] for tag, each in markup().found if tag == "link" and each.get("rel") == "modulepreload"]

    assert sorted(map(str, preloaded)) == sorted(f"ui/{name}" for name in needed)
    assert {path.name for path in SCRIPTS} == {"page.js", *needed}


def test_the_page_speaks_with_the_ops_api_alone() -> None:
    """One file asks, under one prefix, with the key in a header; no other way out of the page is used."""
    askers = [
        path.name for path in SCRIPTS if re.search(r"\bfetch\(|XMLHttpRequest|EventSource|WebSocket", path.read_text())
    ]
    api = (FOLDER / "api.js").read_text("utf-8")

    assert askers == ["api.js"]
    assert re.findall(r"\bfetch\(([^,]+),", api) == ["`${API}${path}`"]
    assert 'const API = new URL("../ops/v1/", import.meta.url).pathname;' in api
    assert 'credentials: "omit"' in api
    kept = "".join(path.read_text("utf-8") for path in SCRIPTS)
    assert not re.findall(r"localStorage|document\.cookie|location\.(?:search|hash)|history\.|indexedDB", kept)


def test_the_wheel_brings_the_page() -> None:
    """Whoever installs the package has the page, not only its code."""
    packed = {each.distribution_path for each in WheelBuilder(str(ROOT)).recurse_included_files()}

    assert {f"app/gateway/dashboard/ui/{path.name}" for path in FILES} <= packed


def test_containers_on_modal_get_the_page() -> None:
    """Modal copies the package of a deployed function whole; with only its Python files the page would be missing."""
    mount = _Mount._from_local_python_packages("app")
    copied = {str(remote) for entry in mount.entries for _, remote in entry.get_files_to_upload()}

    assert {f"/root/app/gateway/dashboard/ui/{path.name}" for path in FILES} <= copied


def test_addresses_are_relative() -> None:
    """No address says where the page is: a proxy may put it below any folder."""
    for _, attributes in markup().found:
        for name in ("src", "href"):
            if reference := attributes.get(name):
                assert urlsplit(reference).path.startswith("ui/") or reference.startswith("#")
    assert not [path.name for path in FILES if re.search(r"[\"'`(]/(ui|ops)\b", path.read_text("utf-8"))]
