"""What happens to everyone once: the image does not bring a package that the module needs."""

import modal

from jobs.core.model_name import ModelName

app = modal.App("forgetful")


@app.function(image=modal.Image.debian_slim())
def parse(name: str) -> str:
    return str(ModelName.parse(name))
