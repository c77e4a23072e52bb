"""Where models may come from: what is listed, and nothing that only looks like it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fleet.schema import declared, load
from app.local.plan import VARIABLE, allowed_registries
from jobs.core.errors import BadName, BadRequest, NotFound
from jobs.core.model_name import ModelName
from jobs.registry.allowlist import ANYWHERE, USUAL, Registries, Unlisted
from jobs.registry.client import Registry
from jobs.tasks.context import TaskContext
from jobs.tasks.pull import pull
from jobs.testing.clock import HandClock
from tests.support.ops_api import ADMIN_KEY, ops_api, served
from tests.support.waiting import PATIENCE

LISTED = Registries.of([*USUAL, "lan.example:5000", "http://plain.example"], "list it there")

REACHED = {"registry.ollama.ai", "hf.co", "huggingface.co", "lan.example:5000", "plain.example"}

NOT_LISTED = [
    "169.254.169.254/x/y",
    "http://169.254.169.254/x/y",
    "127.0.0.1/x/y",
    "127.1/x/y",
    "2130706433/x/y",
    "0x7f000001/x/y",
    "localhost:8000/x/y",
    "0.0.0.0/x/y",
    "hf.co./x/y",
    "hf.co:80/x/y",
    "hf.co:443/x/y",
    "hf.co:/x/y",
    "hf.co.evil.example/x/y",
    "evil-hf.co/x/y",
    "xn--hf-co/x/y",
    "lan.example/x/y",
    "lan.example:5001/x/y",
    "metadata.google.internal/x/y",
    "modal.internal/x/y",
]
NO_NAMES = [
    "me:secret@hf.co/x/y",
    "hf.co@evil.example/x/y",
    "hf.co\\@evil/x/y",
    "\uff48f.co/x/y",
    "hf\u3002co/x/y",
    "[::1]/x/y",
]


@pytest.mark.parametrize("text", ["llama3.2", "me/tiny:q4", "hf.co/u/r:Q4_K_M", "HF.co/u/r", "lan.example:5000/x/y"])
def test_what_is_listed_may_be_asked(text: str) -> None:
    """A listed host may be asked in any case; a name without a host means Ollama's own registry."""
    LISTED.need(ModelName.parse(text))


@pytest.mark.parametrize("text", NOT_LISTED)
def test_what_is_not_listed_is_refused(text: str) -> None:
    """Another host, port or spelling is refused by name, with where it could be listed."""
    name = ModelName.parse(text)
    with pytest.raises(Unlisted, match="nothing is pulled from") as refused:
        LISTED.need(name)
    assert repr(name.host) in str(refused.value)
    assert refused.value.hint == "list it there"


@pytest.mark.parametrize("text", NO_NAMES)
def test_what_is_no_name_has_no_host(text: str) -> None:
    """Names, passwords, brackets and letters of other alphabets are in no model's name."""
    with pytest.raises(BadName):
        ModelName.parse(text)


@given(st.text(alphabet="hf.co:/@xn-0127abl%[]\u3002\uff48\\", max_size=40) | st.sampled_from(NOT_LISTED + NO_NAMES))
def test_no_text_leads_elsewhere(text: str) -> None:
    """Whatever the text, nothing but a listed host is ever asked."""
    reached: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        reached.append(request.url.netloc.decode())
        return httpx.Response(404, content=iter(()))  # as it comes over a wire: not read yet

    with (
        httpx.Client(transport=httpx.MockTransport(answer)) as client,
        pytest.raises((NotFound, BadName, Unlisted)),
    ):
        Registry(client=client, registries=LISTED).manifest(ModelName.parse(text))
    assert set(reached) <= REACHED


@pytest.mark.parametrize("text", ["a:b:c/x/y", "xn--/x/y"])
def test_an_address_that_is_none(text: str) -> None:
    """A host that the grammar of names allows and that is no address is refused as a name, and nobody is asked."""
    with pytest.raises(BadName, match="names no registry"):
        Registry().manifest(ModelName.parse(text))


@pytest.mark.parametrize("text", ["127.0.0.1:5000/x/y", "localhost/x/y", "plain.example/x/y", "PLAIN.example/x/y"])
def test_plain_http_is_for_loopback_and_what_is_listed_so(text: str) -> None:
    """Plain HTTP is spoken to this machine, and to registries that are listed with it."""
    assert Registries.of(["*", "http://plain.example"]).is_plain(ModelName.parse(text))


def test_plain_http_is_for_nobody_else() -> None:
    """To list a registry is not to list it without https, and loopback is no way around the list."""
    assert not LISTED.is_plain(ModelName.parse("hf.co/x/y"))
    with pytest.raises(Unlisted):
        LISTED.need(ModelName.parse("127.0.0.1/x/y"))


@pytest.mark.parametrize(
    "entry", ["", " ", "https://hf.co", "hf.co/user", "me@hf.co", "[::1]", "hf.co:x", "hf .co", "*.co"]
)
def test_an_entry_that_is_no_host(entry: str) -> None:
    """An entry that could never match is refused, and not kept for nothing."""
    with pytest.raises(BadRequest, match="is no registry"):
        Registries.of([entry])


# -- who says what is listed -------------------------------------------------------------------------------------------


def test_a_fleet_lists_the_usual_ones(tmp_path: Path) -> None:
    """The file that ships lists where Ollama's names lead; one that says nothing of registries means the same."""
    assert declared().may_pull_from().hosts == frozenset(USUAL)
    shipped = Path("app/fleet.toml").read_text("utf-8")
    silent = shipped.replace("[registries]", "").replace(
        'allowed = ["registry.ollama.ai", "hf.co", "huggingface.co"]', ""
    )
    (tmp_path / "fleet.toml").write_text(silent, "utf-8")
    assert load(tmp_path / "fleet.toml").may_pull_from() == declared().may_pull_from()


def test_one_machine_lists_what_it_is_told() -> None:
    """The environment wins over a fleet file; with neither, who can only be on this machine pulls from anywhere."""
    told = allowed_registries({VARIABLE: "hf.co, http://lan:5000"}, declared(), is_loopback=True)
    assert (told.hosts, told.plain) == (frozenset({"hf.co", "lan:5000"}), frozenset({"lan:5000"}))
    assert allowed_registries({}, declared(), is_loopback=True).hosts == frozenset(USUAL)
    assert allowed_registries({}, None, is_loopback=True) == ANYWHERE
    assert allowed_registries({}, None, is_loopback=False).hosts == frozenset(USUAL)
    assert allowed_registries({VARIABLE: "*"}, None, is_loopback=False).hosts is None
    with pytest.raises(BadRequest, match=f"{VARIABLE}: 'hf.co/x' is no registry"):
        allowed_registries({VARIABLE: "hf.co/x"}, None, is_loopback=True)


# -- where it is checked -----------------------------------------------------------------------------------------------


def test_it_is_checked_where_jobs_run() -> None:
    """A pull that got into the ledger by any way asks neither the registry nor a server to ask it."""
    for way in ("auto", "registry", "server"):
        run = SimpleNamespace(job=SimpleNamespace(request={"model": "169.254.169.254/x/y", "way": way}))
        with pytest.raises(Unlisted):
            pull(cast("Any", run), TaskContext(HandClock(), Registry(registries=LISTED)))


def test_it_is_checked_where_jobs_are_posted(tmp_path: Path) -> None:
    """403 on each way to post one, with the line to add, and nothing in the ledger; a retry is a post, too."""
    with ops_api(tmp_path) as here:
        ops_context = here.ops_context(registries=LISTED)
        elsewhere = {"model": "169.254.169.254/x/y"}
        old = here.ledger().post("pull", "169.254.169.254/x/y:latest", elsewhere, by="root").job
        here.ledger().cancel(old.id, by="root")

        def refused(client: httpx.Client, path: str, body: Any) -> str:
            answer = client.post(path, json=body)
            assert answer.status_code == 403, answer.text
            return answer.text

        with (
            served(here.app(ops_context)) as url,
            httpx.Client(base_url=url, headers={"x-api-key": ADMIN_KEY}, timeout=PATIENCE) as client,
        ):
            assert "nothing is pulled from '169.254.169.254'" in refused(client, "/api/pull", elsewhere)
            assert "list it there" in refused(client, "/ops/v1/jobs", {"kind": "pull", **elsewhere})
            refused(client, "/api/pull", {**elsewhere, "insecure": True})
            refused(client, f"/ops/v1/jobs/{old.id}/retry", None)
            assert client.post("/ops/v1/jobs", json={"kind": "pull", "model": "hf.co/x/y"}).status_code == 201
        assert len(here.ledger().reader.ids()) == 2
