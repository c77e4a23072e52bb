"""The commands that need what only `app` knows: `ollama-modal keys new` makes a key for the gateway.

It writes nothing anywhere: the key is printed once, for whoever is to have it, and the line that lets him in.
"""

import os
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import typer

from jobs.cli.main import app
from jobs.cli.output import put, put_json, say
from jobs.core.clock import SystemClock, isoformat
from jobs.core.errors import BadRequest
from jobs.core.units import parse_span
from jobs.home.home import home_of

SECRET = "ollama-api-keys"  # noqa: S105 - the name of one

ADMIN_ONLY = "admin-only"
"""Who asks for an administrator's key mostly wants to try the service as well; a key that may not chat is asked for."""

keys = typer.Typer(add_completion=False, rich_markup_mode=None, help="Keys that open the gateway.")
app.add_typer(keys, name="keys")


@keys.callback()
def about() -> None:
    """Keys that open the gateway."""


@keys.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is: shown in logs, jobs and usage")],
    *,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar=f"chat|admin|{ADMIN_ONLY}",
            help="chat when left out; admin is chat as well, admin-only is not; may be repeated",
        ),
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Only these, like llama* or hf.co/*; may be repeated")
    ] = None,
    rpm: Annotated[int | None, typer.Option(metavar="N", help="At most so many requests within a minute")] = None,
    concurrent: Annotated[int | None, typer.Option(metavar="N", help="At most so many at once")] = None,
    public_key: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="No key: let in who signs with this, the text of ~/.ollama/id_ed25519.pub"),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="WHEN", help="A day, a moment, or a span from now, like 90d")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout")] = False,
) -> None:
    """Make a key. It is shown this once; the line beside it holds only its hash."""
    from app.gateway.auth.keys import VARIABLE, Key  # noqa: PLC0415 - others start without
    from jobs.access.proofs import hash_of, new_key, proof_of  # noqa: PLC0415 - others start without

    key = new_key() if public_key is None else None
    proof = hash_of(key) if key is not None else proof_of(public_key or "")
    words = [name, proof, *scopes_of(scope or ())]
    words += [f"models={','.join(models)}"] if models else []
    words += [f"rpm={rpm}"] if rpm is not None else []
    words += [f"concurrent={concurrent}"] if concurrent is not None else []
    words += [f"expires={isoformat(expiry_of(expires, SystemClock().now()))}"] if expires is not None else []
    if any(len(word.split()) != 1 or "#" in word for word in words):
        raise BadRequest("a value holds a space or a `#`, which no line can", hint="leave it out")
    line = str(Key.parse(" ".join(words)))
    if json:
        put_json({"name": name, "key": key, "line": line})
        return
    if key is not None:
        put(key)
        say("the first line is the key: give it away now, it is not kept and cannot be shown again")
    else:
        say("Ollama's own command signs what it asks with OLLAMA_AUTH=1 in its environment")
    put(line)
    say(f"the line with the name lets it in: put it into {home_of(os.environ).keys}, or of a deployment into a secret:")
    say(f'hint: `modal secret create --force {SECRET} {VARIABLE}="$(cat FILE)"`, with all lines in FILE; then deploy')


def scopes_of(asked: Iterable[str]) -> list[str]:
    """The words of the line, which says all that a key may: `admin` alone, there, is one that cannot chat."""
    from jobs.access.key_words import ADMIN, CHAT  # noqa: PLC0415 - as above

    words = [word for each in asked for word in each.split(",")] or [CHAT]
    implied = [CHAT] if ADMIN in words else []
    return list(dict.fromkeys([*implied, *(ADMIN if word == ADMIN_ONLY else word for word in words)]))


def expiry_of(text: str, now: datetime) -> datetime:
    """When a key ends that is said to expire then.

    Raises:
        BadRequest: it is no time, or over already.

    """
    from jobs.access.key_words import parse_expiry  # noqa: PLC0415 - as above

    moment = now + parse_span(text, "--expires") if text[-1:].isalpha() and text[-1] != "Z" else parse_expiry(text)
    if moment <= now:
        raise BadRequest(f"--expires {text!r} is over already", hint=f"it is {isoformat(now)} now")
    return moment
