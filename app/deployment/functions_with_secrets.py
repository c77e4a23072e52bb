"""The servers worker. It stands apart from `app.jobs`: whoever only pulls needs no proxy token for `modal run`."""

from app.deployment.worker_timing import LONGEST, START
from app.resources import SERVERS_WORKER, app, cpu_image, deployment, proxy_token


@app.function(
    image=cpu_image,
    secrets=[proxy_token],
    max_containers=1,
    startup_timeout=int(START.total_seconds()),
    timeout=int(LONGEST.total_seconds()),
)
def servers_worker() -> None:
    """Warm models: wake a server and have it load. No GPU and no volume of its own."""
    from app.deployment.servers_worker import run  # noqa: PLC0415

    if not run():
        deployment.start(servers_worker, SERVERS_WORKER)
