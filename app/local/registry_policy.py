"""Which registries may be pulled from on one machine: the environment says it, else the fleet, else who may ask.

Where the gateway listens to this machine alone, whoever asks it may reach any host from here without it, so none is
refused. Where others may ask it, they would reach through it what only this machine should.
"""

from collections.abc import Mapping

from app.fleet.schema import Fleet
from jobs.core.errors import BadRequest
from jobs.registry.allowlist import ANYWHERE, USUAL, Registries

VARIABLE = "OLLAMA_MODAL_PULL_FROM"


def allowed_registries(environ: Mapping[str, str], fleet: Fleet | None, *, is_loopback: bool) -> Registries:
    """
    Args:
        environ: the process environment.
        fleet: what is declared, if something is.
        is_loopback: only this machine can ask.

    Raises:
        BadRequest: an entry of the variable is no registry.

    """
    remedy = f"list it in {VARIABLE}, with commas between, and start `up` again"
    if text := environ.get(VARIABLE, "").strip():
        try:
            return Registries.of([entry.strip() for entry in text.split(",")], remedy)
        except BadRequest as error:
            raise BadRequest(f"{VARIABLE}: {error}", hint=error.hint) from error
    if fleet is not None:
        return fleet.may_pull_from()
    return ANYWHERE if is_loopback else Registries.of(USUAL, remedy)
