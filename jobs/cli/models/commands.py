"""`ollama-modal ps`, `show` and `run`, as Ollama's own command has them; through a gateway, here or elsewhere.

Each imports what it needs when it is run: whoever lists jobs imports this file as well.
"""

import sys
from typing import Annotated

import typer

from jobs.cli.main import Json, KeyOption, Name, Url, app, done, gateway_url, remote_at, this_machine
from jobs.cli.output import put_json, put_lines, put_table, put_text, say
from jobs.core.clock import SystemClock
from jobs.core.errors import BadRequest, NotFound
from jobs.core.model_name import ModelName


@app.command()
def ps(url: Url = None, key: KeyOption = None, json: Json = False) -> None:
    """List the models that are in memory, where, and for how long."""
    from jobs.cli.models import loaded  # noqa: PLC0415 - see above

    if url:
        found = list(loaded.loaded_there(remote_at(url, key)))
    else:
        from jobs.home.status import tier_now  # noqa: PLC0415

        at = this_machine()
        tiers = tuple(tier_now(server, at.commands.clock) for server in at.home.need_stack().servers)
        for tier in tiers:
            if tier.version is None:
                say(f"warning: the server of {tier.server.tier} does not answer: {tier.problem}")
        found = list(loaded.loaded_here(tiers))
    now = SystemClock().now()
    if json:
        put_json([each.as_json() for each in found])
    elif found:
        put_table(loaded.HEAD, [each.row(now) for each in found], loaded.GIVE_WAY)
    else:
        say("no model is in memory")


@app.command()
def show(
    model: Name,
    *,
    licence: Annotated[bool, typer.Option("--license", help="Its licence alone")] = False,
    modelfile: Annotated[bool, typer.Option("--modelfile", help="Its Modelfile alone")] = False,
    parameters: Annotated[bool, typer.Option("--parameters", help="Its parameters alone")] = False,
    system: Annotated[bool, typer.Option("--system", help="Its system prompt alone")] = False,
    template: Annotated[bool, typer.Option("--template", help="Its template alone")] = False,
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """Tell what a model is. Its architecture, size, context, capabilities, parameters and licence."""
    from jobs.cli.models import shown  # noqa: PLC0415 - see above
    from jobs.cli.remote_status import Served, absent_there  # noqa: PLC0415

    name = str(ModelName.parse(model))
    asked = dict(zip(shown.TEXTS, (licence, modelfile, parameters, system, template), strict=True))
    remote = remote_at(gateway_url(url), key)
    try:
        found = remote.ollama("POST", "/api/show", {"model": name})
    except NotFound as error:
        raise absent_there(remote, name) or error from error
    text = shown.text_of(found, [each for each, is_asked in asked.items() if is_asked])
    served = None if text is not None else Served.at(remote, name)
    if json:
        put_json({**found, **({"served": served.as_json()} if served else {})})
    elif text is not None:
        put_text(text if text.endswith("\n") or not text else f"{text}\n")
    else:
        put_lines(shown.lines(found, served))


Prompt = Annotated[list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Left out on a terminal, it is a chat")]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="Instead of its own system prompt")]
Shape = Annotated[
    str | None, typer.Option("--format", metavar="json|SCHEMA", help="`json`, or a JSON schema that the answer fits")
]
Think = Annotated[bool | None, typer.Option("--think/--no-think", help="Whether it thinks first, where it can")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Tell how long it took, and how fast it was")]


@app.command()
def run(
    model: Name,
    prompt: Prompt = None,
    *,
    system: System = None,
    shape: Shape = None,
    think: Think = None,
    verbose: Verbose = False,
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """Ask a model, or chat with it. A prompt may be piped in; the answer alone is on stdout."""
    name, gateway = str(ModelName.parse(model)), gateway_url(url)
    from jobs.cli.models import chat  # noqa: PLC0415 - see above

    asked = chat.prompt_of(prompt or (), sys.stdin)
    more = chat.fields_of(shape, think=think)
    if asked is None and (json or not chat.is_talking(sys.stdin, sys.stdout)):
        raise BadRequest("there is nothing to ask", hint=f"`ollama-modal run {model} PROMPT`, or pipe the prompt in")
    with chat.Conversation(gateway, key, name, system=system, more=more, verbose=verbose) as conversation:
        done(conversation.talk() if asked is None else conversation.answer(asked, json=json))
