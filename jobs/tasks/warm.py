"""Warm: load a model on its tier's server, have it prove what it can do, and tell how long that took and where it runs.

A model that generates is asked for a few tokens, one that embeds for a vector, one that ranks for a score; of any other
its load is the proof.
"""

from datetime import timedelta
from typing import Any

from jobs.core.errors import CpuFallback, ModelComing, NotFound
from jobs.core.model_name import ModelName
from jobs.core.units import human_bytes
from jobs.ledger.job import JobState
from jobs.models.placement import TierCapacity
from jobs.ollama.client import OllamaClient
from jobs.tasks.context import Result, TaskContext
from jobs.worker.attempt import RunningAttempt

WARM_KEEP_ALIVE = timedelta(minutes=30)
"""How long a warmed model stays loaded when nobody uses it, unless its tier keeps idle models for longer; a server at
zero containers forgets it anyway."""

TOKENS = 16
"""Enough to tell how fast it is: the first one is made while the prompt is read, so one alone takes no time."""

SEEN_WITHIN = timedelta(minutes=10)
"""A server has seen by then what was pulled."""


def warm(attempt: RunningAttempt, context: TaskContext) -> Result:
    """Load a model, have it prove what it can do, and tell how long that took and where it runs.

    Raises:
        NotFound: the server has no such model; where its pull failed, with the reason.
        ModelComing: it has none yet.
        CpuFallback: it does not run on the GPU that its tier promises.

    """
    name = ModelName.parse(attempt.job.request["model"])
    tier, server = context.server_for_model(name, attempt.job.request.get("tier"))
    try:
        attempt.progress.begin(f"loading on {tier.name}")
        started = context.clock.monotonic()
        server.load(str(name), options=_options(context, name), keep_alive=_keep_alive(tier), check=attempt.check)
        load_seconds = context.clock.monotonic() - started
        proof = _proof(attempt, context, name, tier, server)
    except NotFound as missing:
        why = why_missing(attempt) or _still_coming(attempt, context)
        if why is None:
            raise
        raise why from missing
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
        **proof,
        "size": resident.size if resident else None,
        "size_vram": resident.size_vram if resident else None,
        "on_gpu": on_gpu,
    }


def _keep_alive(tier: TierCapacity) -> timedelta:
    own = tier.keep_alive
    return WARM_KEEP_ALIVE if own is None or timedelta(0) <= own < WARM_KEEP_ALIVE else own


def _proof(
    attempt: RunningAttempt, context: TaskContext, name: ModelName, tier: TierCapacity, server: OllamaClient
) -> dict[str, Any]:
    """Have a loaded model do what it is for, and tell how it went."""
    abilities = context.capabilities(name, server)
    proof: dict[str, Any] = {"proved_by": "its load", "first_token_seconds": None, "tokens_per_second": None}
    if "completion" in abilities:
        attempt.progress.begin(f"asking {tier.name} for {TOKENS} tokens")
        asked_at, options = context.clock.monotonic(), {**_options(context, name), "num_predict": TOKENS}
        frames = server.generate(str(name), "Hi", options=options, keep_alive=_keep_alive(tier), check=attempt.check)
        last = next(frames)
        proof |= {"proved_by": "tokens", "first_token_seconds": round(context.clock.monotonic() - asked_at, 3)}
        for frame in frames:
            last = frame
        if last.usage.tokens > 1:
            proof["tokens_per_second"] = last.usage.tokens_per_second
    elif "embedding" in abilities:
        attempt.progress.begin(f"asking {tier.name} for an embedding")
        options = _options(context, name)
        length = server.embed(str(name), "Hi", options=options, keep_alive=_keep_alive(tier), check=attempt.check)
        proof |= {"proved_by": "an embedding", "embedding_length": length}
    elif "rerank" in abilities:
        attempt.progress.begin(f"asking {tier.name} for a score")
        server.rank(str(name), "Hi", "Hi", check=attempt.check)
        proof |= {"proved_by": "a score"}
    return proof


def _options(context: TaskContext, name: ModelName) -> dict[str, Any]:
    """Those that a load depends on, and that callers will have: with others they would load the model anew."""
    length = context.settings(name).context
    return {"num_ctx": length} if length else {}


def why_missing(attempt: RunningAttempt) -> NotFound | None:
    """Why the model of a warm-up is missing, where its last pull did not bring it; None else."""
    pull = attempt.latest("pull")
    if pull is None or pull.state not in {JobState.FAILED, JobState.CANCELLED}:
        return None
    last = pull.attempts[-1]
    said = f": {last.message}" if last.message else ""
    return NotFound(
        f"{attempt.job.subject!r} is not here, since its pull {pull.id} {_ENDED[pull.state]}{said}",
        hint=last.hint or f"pull it again: `ollama-modal retry {pull.id}`",
    )


_ENDED = {JobState.FAILED: "failed", JobState.CANCELLED: "was cancelled"}


def _still_coming(attempt: RunningAttempt, context: TaskContext) -> ModelComing | None:
    """Why it is worth another try: the model is being pulled since, or the server has not seen it yet."""
    pull = attempt.latest("pull")
    if pull is None or (pull.ended_at is not None and context.clock.now() - pull.ended_at > SEEN_WITHIN):
        return None
    what = "the server has not seen it yet" if pull.has_ended else "it is being pulled"
    return ModelComing(f"{attempt.job.subject!r} is not on the server: {what} (job {pull.id})")
