"""The commands as people look for them: in groups, by the names that Ollama's own command has as well, and what is said
to one that there is not.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from typer.core import TyperGroup

from jobs.core.errors import BadRequest
from jobs.core.sanitize import plain
from jobs.ledger.kinds import KINDS

ALIASES: Mapping[str, str] = {"list": "models", "ls": "models", "rm": "delete", "serve": "up"}
"""Names that fingers know from Ollama's command, for what we call by another."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Ask and load": ("run", "ps", "warm", "route"),
    "Models": ("pull", "models", "show", "verify", "rollback", "delete", "prune"),
    "Batches": ("batch", "batches"),
    "Jobs": ("jobs", "job", "cancel", "retry", "dismiss"),
    "Service": ("up", "status", "plan", "night", "windows", "cost", "cold", "audit", "keys", "help"),
}

_ELSEWHERE: Mapping[str, str] = {
    "stop": "a model leaves memory by itself; `ollama-modal ps` shows when; a job is ended by `ollama-modal cancel ID`",
    "create": "models are pulled, from Ollama's registry, Hugging Face or another: `ollama-modal pull MODEL`",
    "cp": "another name for a model is made by `ollama cp` at the gateway, or stands in [aliases] of the fleet file",
    "push": "models are only pulled; publish them with Ollama's own command",
    "signin": "a private registry is opened where the workers run; keys of the gateway: `ollama-modal keys new NAME`",
    "install": "`ollama-modal pull MODEL` brings a model here",
    "download": "`ollama-modal pull MODEL` brings a model here",
    "start": "`ollama-modal up` starts the stack on this machine",
    "chat": "`ollama-modal run MODEL` is a chat",
    "log": "`ollama-modal status` names the home; its logs lie in `logs/`; `ollama-modal job ID` tells a job's story",
    "logs": "`ollama-modal status` names the home; its logs lie in `logs/`; `ollama-modal job ID` tells a job's story",
}
"""What people ask for that has no command here, and what they may have meant."""


class CommandGroup(TyperGroup):
    """Knows the other names, and lists commands in groups."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, ALIASES.get(cmd_name, cmd_name))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is meant.

        Raises:
            BadRequest: there is none of this name.

        """
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing and not name.startswith("-"):
            raise BadRequest(f"there is no command {plain(name, 40)!r}", hint=self._meant(name))
        return super().resolve_command(ctx, args)

    def _meant(self, name: str) -> str:
        """What was meant, most likely. Never what takes weights away: that is typed in full, or not at all."""
        if name in _ELSEWHERE:
            return _ELSEWHERE[name]
        offered = {*self.commands, *ALIASES} - {each for each in self.commands if _takes_away(each)} - {"rm"}
        near = get_close_matches(name.lower(), sorted(offered), n=2, cutoff=0.7)
        meant = f"did you mean {' or '.join(f'`ollama-modal {each}`' for each in near)}? " if near else ""
        return f"{meant}`ollama-modal help` lists commands"

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as typer calls it
        grouped = {name for names in GROUPS.values() for name in names}
        rest = tuple(name for name in self.commands if name not in grouped)
        for title, names in {**GROUPS, "Others": rest}.items():
            there = [name for name in names if name in self.commands and not self.commands[name].hidden]
            labels = {name: ", ".join((name, *_aliases_of(name))) for name in there}
            if there:
                width = formatter.width - 6 - max(map(len, labels.values()))
                with formatter.section(title):
                    formatter.write_dl(
                        [(labels[name], self.commands[name].get_short_help_str(width)) for name in there]
                    )


def _aliases_of(name: str) -> list[str]:
    return [alias for alias, command in ALIASES.items() if command == name]


def _takes_away(name: str) -> bool:
    return name in KINDS and KINDS[name].takes_away
