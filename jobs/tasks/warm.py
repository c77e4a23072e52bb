"""Warm: load a model on its tier's server, ask for one token, and tell how long it took and where it runs."""

from datetime import timedelta

from jobs.core.errors import CpuFallback
from jobs.core.model_name import ModelName
from jobs.core.units import human_bytes
from jobs.tasks.context import Result, TaskContext
from jobs.worker.attempt import RunningAttempt

WARM_KEEP_ALIVE = timedelta(minutes=30)
"""How long a warmed model stays loaded when nobody uses it; a server at zero containers forgets it anyway."""


def warm(attempt: RunningAttempt, context: TaskContext) -> Result:
    """Load a model, ask for one token, and tell how long it took and where it runs."""
    name = ModelName.parse(attempt.job.request["model"])
    tier, server = context.server_for_model(name, attempt.job.request.get("tier"))
    attempt.progress.begin(f"loading on {tier.name}")
    started = context.clock.monotonic()
    server.load(str(name), keep_alive=WARM_KEEP_ALIVE, check=attempt.check)
    load_seconds = context.clock.monotonic() - started
    attempt.progress.begin(f"asking {tier.name} for a token")
    one_token = {"num_predict": 1}
    *_, last = server.generate(str(name), "Hi", options=one_token, keep_alive=WARM_KEEP_ALIVE, check=attempt.check)
    resident = server.running(str(name))
    on_gpu = resident is not None and resident.is_on_gpu
    if tier.gpu_promised and not on_gpu:
        size, in_vram = (resident.size, resident.size_vram) if resident else (0, 0)
        raise CpuFallback(
            f"tier {tier.name!r} promises a GPU, but {human_bytes(in_vram)} of {human_bytes(size)} of {str(name)!r}"
            " are in its memory",
            hint="look at the server's log for the GPU it found; a bigger tier may be needed",
        )
    return {
        "model": str(name),
        "tier": tier.name,
        "load_seconds": round(load_seconds, 3),
        "first_token_seconds": last.usage.total.total_seconds(),
        "tokens_per_second": last.usage.tokens_per_second,
        "size": resident.size if resident else None,
        "size_vram": resident.size_vram if resident else None,
        "on_gpu": on_gpu,
    }
