"""A conversation with a model, through a gateway: one question, or as many as somebody has.

The answer alone goes to stdout; thinking, waiting and rates are talk. A cold start is told of while it lasts.
"""

import json as json_of
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Self, TextIO

import httpx

from jobs.cli.interrupt import INTERRUPTED, Interruptible
from jobs.cli.output import complain, put, put_json, put_text, say
from jobs.cli.remote_status import Served, absent_there
from jobs.core.clock import Clock, SystemClock
from jobs.core.errors import BadRequest, Misconfigured, NetworkTrouble, NotFound, Trouble, Unauthorized
from jobs.core.retry import NEVER
from jobs.core.units import human_span
from jobs.home.gateway_client import KEY_HINT, GatewayClient
from jobs.home.unreachable import hint_for
from jobs.http.errors import LOOPBACK_IS_DIRECT
from jobs.ollama.client import OllamaClient
from jobs.ollama.responses import ChatFrame, Usage

FIRST_WORD = timedelta(seconds=3)
"""A model that is loaded says something sooner; after that it is told what is waited for."""

WORD_EVERY = timedelta(seconds=10)

PATIENCE = timedelta(minutes=30)
"""A cold start of a large model on a busy day; the gateway gives up long before."""

HELP = (
    "/clear    forget what was said",
    "/bye      leave; so does Ctrl-D",
    "Ctrl-C    stop an answer",
    '"""       begins and ends what has several lines',
)


def prompt_of(words: Sequence[str], stdin: TextIO | None) -> str | None:
    """What is asked: what is piped in, and then what was typed; None when that is nothing."""
    piped = stdin.read() if stdin is not None and not stdin.isatty() else ""
    parts = [part for part in (piped.rstrip("\n"), " ".join(words)) if part.strip()]
    return "\n\n".join(parts) or None


def is_talking(stdin: TextIO | None, stdout: TextIO | None) -> bool:
    """Whether somebody sits there to talk."""
    return stdin is not None and stdout is not None and stdin.isatty() and stdout.isatty()


def fields_of(shape: str | None, *, think: bool | None) -> dict[str, Any]:
    """Of a request to `/api/chat`.

    Raises:
        BadRequest: the format is neither `json` nor a JSON schema.

    """
    more: dict[str, Any] = {} if think is None else {"think": think}
    if shape is None:
        return more
    if shape == "json":
        return {**more, "format": shape}
    try:
        schema = json_of.loads(shape)
    except ValueError as error:
        raise BadRequest(f"--format is no JSON: {error}", hint='`json`, or a schema as {"type": "object"}') from error
    if not isinstance(schema, dict):
        raise BadRequest("--format is no schema", hint='`json`, or a schema as {"type": "object"}')
    return {**more, "format": schema}


class Conversation:
    """One with a model of a gateway.

    Args:
        url: the gateway's.
        key: opens it.
        model: its name.
        system: is said before all else.
        more: fields of each request.
        verbose: tell rates after each answer.
        clock: for waiting.

    """

    def __init__(
        self,
        url: str,
        key: str | None,
        model: str,
        *,
        system: str | None = None,
        more: Mapping[str, Any] | None = None,
        verbose: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._model, self._more, self._verbose = model, more or {}, verbose
        self._first = [{"role": "system", "content": system}] if system else []
        self._messages: list[dict[str, str]] = list(self._first)
        self._remote = GatewayClient(url, key, clock=self._clock, policy=NEVER)
        headers = {"authorization": f"Bearer {self._remote.key}"} if self._remote.key else {}
        limits = httpx.Limits(max_keepalive_connections=0)  # a watched stream reuses none
        self._client = httpx.Client(headers=headers, limits=limits, mounts=LOOPBACK_IS_DIRECT)
        self._ollama = OllamaClient(self._remote.url, client=self._client, policy=NEVER, clock=self._clock)
        self._ctrl_c = Interruptible(held=True, second_leaves=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._remote.close()

    # -- one question --------------------------------------------------------------------------------------------------

    def answer(self, prompt: str, *, json: bool = False) -> int:
        """Ask, and print the answer as it comes; or with what it cost, as one document. Ctrl-C ends its last line."""
        try:
            with self._ctrl_c:
                said, thought, last = self._ask(prompt, quiet=json)
        except KeyboardInterrupt:
            return INTERRUPTED
        if json:
            put_json(_document(self._model, self._alias_of() or self._model, said, thought, last))
        return 0

    def _ask(self, prompt: str, *, quiet: bool = False) -> tuple[str, str, ChatFrame]:
        """The answer, what was thought before, and the frame that ends it. Only a whole answer is remembered."""
        messages = [*self._messages, {"role": "user", "content": prompt}]
        taken = _Taken(quiet)
        waiting = _Waiting(self._remote, self._model, self._clock, self._ctrl_c)
        with self._hinted():
            try:
                for frame in self._ollama.chat(
                    self._model, messages, more=self._more, check=waiting.look, patience=PATIENCE
                ):
                    waiting.is_over = waiting.is_over or bool(frame.text or frame.thinking)
                    with self._ctrl_c.at_once():  # nobody may read what is written
                        taken.take(frame)
            finally:
                taken.end()
        self._messages = [*messages, {"role": "assistant", "content": taken.text}]
        if self._verbose:
            with self._ctrl_c.at_once():
                alias_of = self._alias_of()
            if alias_of:
                say(f"{'alias of:':<22}{alias_of}")
            for line in rates(taken.last.usage):
                say(line)
        return taken.text, taken.thinking, taken.last

    @contextmanager
    def _hinted(self) -> Iterator[None]:
        """What to do about what goes wrong: a server's own words do not say it."""
        try:
            yield
        except NotFound as error:
            with self._ctrl_c.at_once():
                absent = absent_there(self._remote, self._model)
            raise absent or error from error
        except (NetworkTrouble, Misconfigured) as error:
            error.hint = error.hint or hint_for(self._remote.url, error)
            raise
        except Unauthorized as error:
            error.hint = error.hint or KEY_HINT
            raise

    def _alias_of(self) -> str | None:
        """The model that answers, where the name is an alias of it."""
        served = Served.at(self._remote, self._model)
        return served.model if served and served.is_alias else None

    # -- as many as somebody has ---------------------------------------------------------------------------------------

    def talk(self) -> int:
        """Answer whatever is asked at the terminal, until somebody leaves."""
        import readline  # noqa: F401, PLC0415 - lines are edited and called up again, for whoever talks alone

        alias_of = self._alias_of()
        whom = f"{self._model}, an alias of {alias_of}" if alias_of else self._model
        say(f"chatting with {whom}; /? tells what else there is, /bye ends it")
        self._ctrl_c = Interruptible(held=True)
        with self._ctrl_c:
            while (prompt := self._read()) is not None:
                try:
                    if prompt:
                        self._answer_or_command(prompt)
                except KeyboardInterrupt:
                    say("stopped")
        return 0

    def _answer_or_command(self, prompt: str) -> None:
        match prompt.split(maxsplit=1)[0]:
            case "/clear":
                self._messages = list(self._first)
                say("what was said is forgotten")
            case "/?" | "/help":
                for line in HELP:
                    say(line)
            case word if word.startswith("/") and word.count("/") == 1:
                say(f"there is no {word} here; /? tells what there is")
            case _:
                try:
                    self._ask(prompt)
                except Trouble as trouble:
                    complain(trouble)

    def _read(self) -> str | None:
        """The next question; None when somebody leaves."""
        lines: list[str] = []
        while True:
            before = len(lines)
            self._ctrl_c.forget()
            try:
                with self._ctrl_c.at_once():
                    # In one step: a Ctrl-C of which `input` hears too late does not lose the line that it read.
                    lines.extend(map(input, ["... " if lines else ">>> "]))
            except EOFError:
                say()
                return None
            except KeyboardInterrupt:
                if len(lines) == before:
                    say()
                    say("Ctrl-D or /bye leaves")
                    lines = []
                    continue
            whole = "\n".join(lines).strip()
            if whole in {"/bye", "/exit"}:
                return None
            if whole.count('"""') % 2 == 0:
                self._ctrl_c.forget()
                return whole.replace('"""', "").strip()


class _Taken:
    """What has come of an answer, shown as it comes unless it is to be `quiet`."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self.text = self.thinking = ""
        self.last = ChatFrame("")

    def take(self, frame: ChatFrame) -> None:
        self.last = frame
        if frame.thinking and not self.thinking and not self._quiet:
            say("thinking…")
        self.thinking += frame.thinking
        self.text += frame.text
        if frame.text and not self._quiet:
            put_text(frame.text)

    def end(self) -> None:
        if self.text and not self._quiet:
            put("")


class _Waiting:
    """Tells what is waited for, while nothing comes."""

    def __init__(self, remote: GatewayClient, model: str, clock: Clock, ctrl_c: Interruptible) -> None:
        self._remote, self._model, self._clock, self._ctrl_c = remote, model, clock, ctrl_c
        self._began = clock.monotonic()
        self._next = self._began + FIRST_WORD.total_seconds()
        self.is_over = False

    def look(self) -> None:
        self._ctrl_c.check()
        now = self._clock.monotonic()
        if self.is_over or now < self._next:
            return
        self._next = now + WORD_EVERY.total_seconds()
        say(f"waiting for {self._model} for {human_span(now - self._began)}: {self._why()}")

    def _why(self) -> str:
        try:
            with self._ctrl_c.at_once():
                tier = str(self._remote.route(self._model, None)["tier"])
                tiers = self._remote.tiers()
            return next((_stands(each) for each in tiers if each["tier"] == tier), f"tier {tier}")
        except Trouble as trouble:
            return f"why is not known: {trouble}"


def _stands(tier: Mapping[str, Any]) -> str:
    why = f", {tier['why']}" if tier.get("why") else ""
    return f"tier {tier['tier']} is {tier['state']}{why}"


def rates(usage: Usage) -> list[str]:
    """As `ollama run --verbose` tells them."""
    read = usage.prompt_eval.total_seconds()
    lines = [
        ("total duration", human_span(usage.total)),
        ("load duration", human_span(usage.load)),
        ("prompt eval count", f"{usage.prompt_tokens} token(s)"),
        ("prompt eval duration", human_span(usage.prompt_eval)),
        ("prompt eval rate", f"{usage.prompt_tokens / read if read else 0:.2f} tokens/s"),
        ("eval count", f"{usage.tokens} token(s)"),
        ("eval duration", human_span(usage.eval)),
        ("eval rate", f"{usage.tokens_per_second:.2f} tokens/s"),
    ]
    return [f"{name + ':':<22}{value}" for name, value in lines]


def _document(model: str, behind: str, said: str, thought: str, last: ChatFrame) -> dict[str, Any]:
    usage = last.usage
    return {
        "model": model,
        "served_model": behind,
        "response": said,
        **({"thinking": thought} if thought else {}),
        "done_reason": last.done_reason,
        "prompt_tokens": usage.prompt_tokens,
        "output_tokens": usage.tokens,
        "total_seconds": usage.total.total_seconds(),
        "load_seconds": usage.load.total_seconds(),
        "tokens_per_second": round(usage.tokens_per_second, 2),
    }
