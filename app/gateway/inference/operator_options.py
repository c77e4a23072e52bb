"""Options of a request that only the operator may set, because they are not only about the request that brings them.

Where a model runs, with how much of the GPU's memory and for how long is the same for all who use it: what one caller
sets, the next ones have, since Ollama keeps a model as it is in memory for requests that need no other setting
(server/sched.go:1381-1431). Bodies pass as they come, so such a request is refused, not mended. An `admin` key may say
all of it; on one machine without keys everybody may.
"""

from collections.abc import Mapping
from typing import Any

from app.gateway.auth.keys import Caller
from app.gateway.protocol.request import InferenceRequest
from jobs.access.keys.key_words import ADMIN
from jobs.core.errors import BadRequest

PLACEMENT: Mapping[str, tuple[Any, ...]] = {
    "num_gpu": (-1,),
    "main_gpu": (0,),
    "num_thread": (0,),
    "use_mmap": (),
    "num_batch": (512,),
}
"""Each with the values that change nothing, Ollama's own defaults, which some clients send with every request.

`num_gpu` and `main_gpu` say where layers go, `num_thread` how many cores those on the CPU take, `use_mmap` whether
all of the weights are read into the container's own memory, `num_batch` how much of the GPU's memory a model takes
beside its weights and its context, which cannot be known when a tier is chosen.
"""


def refuse(request: InferenceRequest, caller: Caller) -> None:
    """Refuse what this caller may not say.

    Raises:
        BadRequest: it names the option.

    """
    if caller.may(ADMIN):
        return
    for name, value in request.settings:
        if name in PLACEMENT and value not in PLACEMENT[name]:
            raise BadRequest(
                f"options.{name} is the operator's to say: a model is in memory once, for all who use it",
                hint=f"leave {name} out; a key with the scope {ADMIN} may set it",
            )
    if not request.is_kept:
        raise BadRequest(
            "keep_alive is below a minute, or no duration: that would take the model out of memory for all who use it",
            hint=f"leave keep_alive out, or let it be a minute or more; a key with the scope {ADMIN} may set less",
        )
