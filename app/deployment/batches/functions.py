"""The batches worker. Apart from `app.jobs`: whoever only pulls has no batches, and so no volume for them."""

from app.deployment.worker_timing import LONGEST, START
from app.resources import BATCHES, BATCHES_WORKER, MODELS, app, batches, cpu_image, deployment, weights


@app.function(
    image=cpu_image,
    volumes={BATCHES: batches, MODELS: weights.with_mount_options(read_only=True)},
    cpu=1,
    memory=1024,
    max_containers=1,
    startup_timeout=int(START.total_seconds()),
    timeout=int(LONGEST.total_seconds()),
)
def batches_worker() -> None:
    """Have the lines of batches answered by the gateway, and keep the answers. No GPU, no key and no secret."""
    from app.deployment.batches.worker import run  # noqa: PLC0415

    if not run():
        deployment.start(batches_worker, BATCHES_WORKER)
