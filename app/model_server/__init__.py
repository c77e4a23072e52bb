"""One model server in one container, from its start to its end, and what it reports.

connections        how many callers a port has
gpu                which GPU this container really has
health             how each tier and each of its containers is, by what they last reported
manifest_settings  what the fleet sets for a model, as layers of its manifest
models_view        what Ollama sees of the weights: manifests near, blobs on the volume
process            one `ollama serve` and all that it starts
reload_policy      when new weights may be taken in: pure
report             what a server says of itself in the ledger, on Modal and on one machine alike
settings           what a container offers to its server, and what the tier asks of it: plain values
start_failures     which starts of a tier were refused, and when the next one may be tried: pure
supervisor         one server from start to end: checks, reports, ends the container
weights_reload     how new weights get into a server that runs
"""
