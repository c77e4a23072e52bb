"""The functions that need a secret. Apart from `app.jobs`: whoever only pulls needs none for `modal run`.

The servers worker has the proxy's token. `deliver_alerts`, which posts to a webhook what the tick has found, is
called by nobody unless `alerts.webhook_secret` names its secret.
"""

import modal

from app.deployment.worker_timing import LONGEST, START
from app.fleet.file import read
from app.resources import SERVERS_WORKER, app, cpu_image, deployment, proxy_token

_TABLE = read().get("alerts")
_NAME = _TABLE.get("webhook_secret") if isinstance(_TABLE, dict) else None
_SECRETS = [modal.Secret.from_name(_NAME, required_keys=["OLLAMA_MODAL_WEBHOOK"])] if _NAME else []


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


@app.function(image=cpu_image, secrets=_SECRETS, max_containers=1, timeout=120)
def deliver_alerts() -> None:
    """Tell what is new, once. A webhook that hangs is left, and tried again at the next tick."""
    from app.deployment.schedule_functions import deliver_alerts  # noqa: PLC0415

    deliver_alerts()
