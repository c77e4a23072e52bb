"""What is known of a model without any server: its name, its size, and what its own files say of it."""

from dataclasses import dataclass
from datetime import datetime

from jobs.manifests import ModelDetails
from jobs.names import ModelName


@dataclass(frozen=True)
class Model:
    """A whole model, as lists and routes need it. `digest` is hex without a prefix."""

    name: ModelName
    digest: str
    size: int
    modified_at: datetime
    details: ModelDetails
    capabilities: tuple[str, ...] = ()
