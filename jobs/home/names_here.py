"""The names of the models on this machine, before something is posted about one that is not there."""

from jobs.core.clock import Clock
from jobs.core.errors import BadName, Trouble
from jobs.core.model_name import ModelName
from jobs.home.home import Home
from jobs.ollama.responses import Listed
from jobs.weights.layout import Layout
from jobs.weights.survey import survey


def names_here(home: Home, clock: Clock, *, trash: bool) -> list[ModelName] | None:
    """The models of the stack that `up` composed last; None when nobody can tell."""
    stack = home.read_stack()
    if stack is None:
        return None
    if stack.models is not None:
        return survey(Layout(stack.models)).names(trash=trash)
    from jobs.home.status import client_of  # noqa: PLC0415 - brings httpx, which takes long to import

    try:
        with client_of(stack.servers[0], clock) as ollama:
            return [name for listed in ollama.tags() if (name := _name(listed)) is not None]
    except Trouble:  # the job that is posted will meet it, and say so
        return None


def _name(listed: Listed) -> ModelName | None:
    try:
        return ModelName.parse(listed.name)
    except BadName:
        return None
