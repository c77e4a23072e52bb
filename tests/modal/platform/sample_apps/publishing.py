"""What a weights worker does to the volume, in a container of its own: publish a model or remove one, commit, tell."""

from pathlib import Path

import modal

from app.resources import cpu_image

app = modal.App("publishing")
image = cpu_image.add_local_python_source("app")
weights = modal.Volume.from_name("ollama-model-weights", create_if_missing=True, version=2)
ledger = modal.Dict.from_name("ollama-ledger", create_if_missing=True)


@app.function(image=image, volumes={"/models": weights}, max_containers=1)
def publish(text: str, generation: int) -> None:
    from jobs.core.clock import SystemClock  # noqa: PLC0415 - shipped by `add_local_python_source`
    from jobs.core.model_name import ModelName  # noqa: PLC0415
    from jobs.testing.models import find  # noqa: PLC0415
    from jobs.testing.toy_models import all_toys  # noqa: PLC0415
    from jobs.weights.directory import ModelsDirectory  # noqa: PLC0415
    from jobs.weights.manifest import Manifest  # noqa: PLC0415

    name = ModelName.parse(text)
    model = next((toy for toy in all_toys() if toy.name == name), None) or find(name)
    assert model is not None
    models = ModelsDirectory(
        Path("/models"),
        lock=Path.home() / "weights.lock",
        persist=weights.commit,
        clock=SystemClock(),
        disk_counts=False,
    )
    staging = models.stage(text, "test")
    for digest, blob in model.blobs.items():
        with staging.path(digest).open("wb") as file:
            file.writelines(blob.chunks())
        staging.settle(digest)
    models.publish(name, Manifest.parse(model.manifest), staging, still_ours=lambda: None)
    ledger["weights/generation"] = generation
