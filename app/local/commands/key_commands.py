"""`ollama-modal keys`: make, list, change, rotate and revoke keys, of this machine or of a gateway with `--url`.

A key is made here and printed once; what is kept anywhere is its hash. With `--line` nothing is kept: the line that is
printed is for a file or a secret, as the first administrator of a deployment needs it.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from jobs.cli.main import Json, KeyOption, Url, app, remote_at
from jobs.cli.output import put, put_json, say
from jobs.core.clock import SystemClock, isoformat
from jobs.core.errors import BadRequest
from jobs.core.units import human_span, parse_span
from jobs.home.home import home_of

if TYPE_CHECKING:
    from jobs.access.keys.key_change import KeyChange

SECRET = "ollama-api-keys"  # noqa: S105 - the name of one

ADMIN_ONLY = "admin-only"
"""Who asks for an administrator's key mostly wants to try the service as well; a key that may not chat is asked for."""

keys = typer.Typer(add_completion=False, rich_markup_mode=None, help="Keys that open the gateway.")
app.add_typer(keys, name="keys")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Whose it is: shown in logs, jobs and usage")]
ScopeOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar=f"chat|admin|{ADMIN_ONLY}",
        help="admin is chat as well, admin-only is not; may be repeated",
    ),
]
ModelsOption = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help="Only these, like llama* or hf.co/*; may be repeated")
]
RpmOption = Annotated[int | None, typer.Option(metavar="N", help="At most so many requests within a minute")]
ConcurrentOption = Annotated[int | None, typer.Option(metavar="N", help="At most so many at once")]
LimitOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Like tpm=20000 or dollars=5/month; with no value none; may be repeated"),
]
PublicKeyOption = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="No key: let in who signs with this, the text of ~/.ollama/id_ed25519.pub"),
]
ExpiresOption = Annotated[
    str | None, typer.Option(metavar="WHEN", help="A day, a moment, a span from now, like 90d; or never")
]


@keys.callback()
def about() -> None:
    """Keys that open the gateway."""


@keys.command()
def new(
    name: NameArgument,
    *,
    scope: ScopeOption = None,
    models: ModelsOption = None,
    rpm: RpmOption = None,
    concurrent: ConcurrentOption = None,
    limit: LimitOption = None,
    public_key: PublicKeyOption = None,
    expires: ExpiresOption = None,
    line: Annotated[
        bool, typer.Option("--line", help="Keep nothing: print a line for the keys file or the secret")
    ] = False,
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """Make a key, for chat unless a scope says otherwise. It is shown this once: only its hash is kept."""
    from jobs.access.keys.proofs import hash_of, new_key, proof_of  # noqa: PLC0415 - every command imports this file

    change = _change(scope or [], models, _limits(rpm, concurrent, limit), expires)
    made = new_key() if public_key is None else None
    proof = hash_of(made) if made is not None else proof_of(public_key or "")
    if line:
        _put_line(name, made, proof, change, json=json)
        return
    at = _keys_at(url, key)
    before = [] if url or json else at.all()["keys"]
    entry = at.make(name, proof, change)
    _put_made(made, entry, json=json)
    if not url and not json:
        _say_who_may([*before, entry], is_first=not before)


@keys.command("list")
def list_keys(url: Url = None, key: KeyOption = None, json: Json = False) -> None:
    """List all keys: what each may, until when, who made it."""
    from app.local.commands.key_list import put_keys  # noqa: PLC0415 - as above

    told = _keys_at(url, key).all()
    if json:
        put_json(told["keys"])
    else:
        put_keys(told["keys"], told["problems"], SystemClock().now().astimezone())


@keys.command()
def show(name: NameArgument, url: Url = None, key: KeyOption = None, json: Json = False) -> None:
    """Tell what a key may, until when, and who made, changed or revoked it."""
    _put_entry(_keys_at(url, key).get(name), json=json)


@keys.command("set")
def set_key(
    name: NameArgument,
    *,
    scope: ScopeOption = None,
    models: ModelsOption = None,
    all_models: Annotated[bool, typer.Option("--all-models", help="Every model, from now on")] = False,
    rpm: RpmOption = None,
    concurrent: ConcurrentOption = None,
    limit: LimitOption = None,
    expires: ExpiresOption = None,
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """Change what a key may, or until when. What is not said stays."""
    if models and all_models:
        raise BadRequest("--models and --all-models say two things", hint="leave one of them out")
    wanted = [] if all_models else models
    change = _change(scope, wanted, _limits(rpm, concurrent, limit), expires)
    if not change.as_json():
        raise BadRequest("nothing is to be changed", hint="say what: `ollama-modal keys set -h`")
    _put_entry(_keys_at(url, key).change(name, change), json=json)


@keys.command()
def rotate(
    name: NameArgument,
    *,
    overlap: Annotated[
        str, typer.Option(metavar="SPAN", help="For so long the old one is good as well; 0s ends it now")
    ] = "24h",
    public_key: PublicKeyOption = None,
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """Make another key in place of this one. It is shown this once; both are good for as long as they overlap."""
    from jobs.access.keys.key_store import need_overlap  # noqa: PLC0415 - as above
    from jobs.access.keys.proofs import hash_of, new_key, proof_of  # noqa: PLC0415

    span = timedelta(0) if overlap in {"0", "0s"} else parse_span(overlap, "--overlap")
    need_overlap(span)
    made = new_key() if public_key is None else None
    proof = hash_of(made) if made is not None else proof_of(public_key or "")
    entry = _keys_at(url, key).rotate(name, proof, span)
    _put_made(made, entry, json=json)
    if not json:
        say(f"the old one is good for {human_span(span)} more" if span else "the old one is refused from now on")


@keys.command()
def revoke(name: NameArgument, url: Url = None, key: KeyOption = None, json: Json = False) -> None:
    """Take a key back: refused everywhere within 10 s, and what it has under way ends within 30 s."""
    entry = _keys_at(url, key).revoke(name)
    if json:
        put_json(entry)
        return
    put(f"key {name} is revoked")
    say("it is refused everywhere within 10 s, and what it has under way ends within 30 s")


# -- where they are ----------------------------------------------------------------------------------------------------


class _Keys(Protocol):
    """Keys of this machine, or of a gateway: as documents, as `/ops/v1/keys` tells them."""

    def all(self) -> Mapping[str, Any]: ...
    def get(self, name: str) -> Mapping[str, Any]: ...
    def make(self, name: str, proof: str, change: "KeyChange") -> Mapping[str, Any]: ...
    def change(self, name: str, change: "KeyChange") -> Mapping[str, Any]: ...
    def rotate(self, name: str, proof: str, overlap: timedelta) -> Mapping[str, Any]: ...
    def revoke(self, name: str) -> Mapping[str, Any]: ...


def _keys_at(url: str | None, key: str | None) -> _Keys:
    if url:
        return remote_at(url, key).keys
    from app.local.commands.local_keys import LocalKeys  # noqa: PLC0415 - as above

    return LocalKeys(home_of(os.environ), os.environ, SystemClock())


# -- what was asked ----------------------------------------------------------------------------------------------------


def _change(
    scope: list[str] | None, models: list[str] | None, limits: Mapping[str, str], expires: str | None
) -> "KeyChange":
    from jobs.access.keys.key_change import NEVER, KeyChange  # noqa: PLC0415 - as above

    now = SystemClock().now()
    until = expires if expires in {None, NEVER} else isoformat(expiry_of(str(expires), now))
    given = None if scope is None else scopes_of(scope)
    return KeyChange.read(now, scopes=given, models=models, limits=limits, expires=until)


def _limits(rpm: int | None, concurrent: int | None, limit: list[str] | None) -> dict[str, str]:
    told = {name: str(value) for name, value in (("rpm", rpm), ("concurrent", concurrent)) if value is not None}
    for word in limit or ():
        name, equals, value = word.partition("=")
        if not equals:
            raise BadRequest(f"--limit {word!r} says nothing", hint="NAME=VALUE, as in --limit dollars=5/month")
        if name in told:
            raise BadRequest(f"limit {name!r} is there twice", hint="say it once")
        told[name] = value
    return told


def scopes_of(asked: Iterable[str]) -> list[str]:
    """The words of a key, which say all that it may: `admin` alone, there, is one that cannot chat."""
    from jobs.access.keys.key_words import ADMIN, CHAT  # noqa: PLC0415 - as above

    words = [word for each in asked for word in each.split(",")] or [CHAT]
    implied = [CHAT] if ADMIN in words else []
    return list(dict.fromkeys([*implied, *(ADMIN if word == ADMIN_ONLY else word for word in words)]))


def expiry_of(text: str, now: datetime) -> datetime:
    """When a key ends that is said to expire then.

    Raises:
        BadRequest: it is no time, or over already.

    """
    from jobs.access.keys.key_words import parse_expiry  # noqa: PLC0415 - as above

    moment = now + parse_span(text, "--expires") if text[-1:].isalpha() and text[-1] != "Z" else parse_expiry(text)
    if moment <= now:
        raise BadRequest(f"--expires {text!r} is over already", hint=f"it is {isoformat(now)} now")
    return moment


# -- what is shown -----------------------------------------------------------------------------------------------------


def _put_made(made: str | None, entry: Mapping[str, Any], *, json: bool) -> None:
    if json:
        put_json({"key": made, **entry})
        return
    if made is not None:
        put(made)
        say("this is the key: give it away now, it is not kept and cannot be shown again")
    else:
        say("Ollama's own command signs what it asks with OLLAMA_AUTH=1 in its environment")
    say(f"hint: `ollama-modal keys show {entry['name']}` tells what it may")


def _say_who_may(keys: Sequence[Mapping[str, Any]], *, is_first: bool) -> None:
    """Whom the gateway of this machine answers from now on."""
    if is_first:
        say("from now on the gateway of this machine answers nobody without a key")
    if not any("admin" in each["scopes"] and each["state"] == "active" for each in keys):
        say("hint: no key here is an administrator's: `ollama-modal keys new NAME --scope admin` makes one")


def _put_entry(entry: Mapping[str, Any], *, json: bool) -> None:
    from app.local.commands.key_list import put_key  # noqa: PLC0415 - as above

    if json:
        put_json(entry)
    else:
        put_key(entry, SystemClock().now().astimezone())


def _put_line(name: str, made: str | None, proof: str, change: "KeyChange", *, json: bool) -> None:
    from app.gateway.auth.keys import VARIABLE, Key  # noqa: PLC0415 - as above
    from jobs.access.keys.key_records import KeySettings  # noqa: PLC0415

    settings = change.of(KeySettings())
    words = [name, proof, *settings.scopes]
    words += [f"models={','.join(settings.models)}"] if settings.models else []
    words += [f"{limit}={value}" for limit, value in settings.limits.options().items()]
    words += [f"expires={isoformat(settings.expires)}"] if settings.expires is not None else []
    if any(len(word.split()) != 1 or "#" in word for word in words):
        raise BadRequest("a value holds a space or a `#`, which no line can", hint="leave it out")
    line = str(Key.parse(" ".join(words)))
    if json:
        put_json({"name": name, "key": made, "line": line})
        return
    if made is not None:
        put(made)
        say("the first line is the key: give it away now, it is not kept and cannot be shown again")
    else:
        say("Ollama's own command signs what it asks with OLLAMA_AUTH=1 in its environment")
    put(line)
    say(f"the line with the name lets it in: put it into {home_of(os.environ).keys}, or of a deployment into a secret:")
    say(f'hint: `modal secret create --force {SECRET} {VARIABLE}="$(cat FILE)"`, with all lines in FILE; then deploy')
