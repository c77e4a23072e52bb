"""Batches of a deployment: the volume that their files lie on, the container that works on them, and the commands.

commands            what `modal run` does about batches: the commands of `ollama-modal`, on the deployment
deployed_batches    the batches of a deployment, for those: in its ledger, their files on their volume
deployed_estimates  what one will take, and when it begins
functions           the batches worker as a Function
storage             where their files lie, for whoever mounts the volume
worker              what the batches worker does: have lines answered by the gateway
"""
