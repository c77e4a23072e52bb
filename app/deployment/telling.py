"""The messenger: tells a webhook of what the tick has found. Apart from `app.jobs`, because it needs a secret.

Nobody calls it unless `alerts.webhook_secret` names one.
"""

import modal

from app.fleet.file import read
from app.resources import app, cpu_image

_TABLE = read().get("alerts")
_NAME = _TABLE.get("webhook_secret") if isinstance(_TABLE, dict) else None
_SECRETS = [modal.Secret.from_name(_NAME, required_keys=["OLLAMA_MODAL_WEBHOOK"])] if _NAME else []


@app.function(image=cpu_image, secrets=_SECRETS, max_containers=1, timeout=120)
def messenger() -> None:
    """Tell what is new, once. A webhook that hangs is left, and tried again at the next tick."""
    from app.deployment.schedule_functions import tell  # noqa: PLC0415

    tell()
