"""Everything that is deployed or composed, and the only folder that may import modal.

It composes the jobs package for where it runs: on Modal, or (`local`) on one machine. Import files by name, as
`from app.local.main import main`; this file imports nothing.

deploy              all of it: `modal deploy -m app.deploy`
deploy_refusals     what whoever deploys is told of a fleet file: its errors, a line each, or what has no effect
endpoint            a server class for each tier
endpoint_v2         the simple alternative: one server behind Modal's own token
file_start          what `modal` is told when it is given the path of a file instead of a module
image_pinning       the bytes of Ollama's image: pinned, or told that they are not
image_requirements  which pinned packages an image gets
jobs                the workers and schedules, and what `modal run -m app.jobs::NAME` can be called with
log_queue           log lines on their way out, so that a reader who stops reading holds up nobody
logs                how lines look, in a container and on a terminal, and what never stands in one
resources           Modal's objects, each name once: app, images, volume, dict, queue, secrets
"""
