"""Batches of a deployment: the volume that their files lie on, the container that works on them, and the commands.

functions       the batches worker as a Function
storage         where their files lie, for whoever mounts the volume
worker          what the batches worker does: have lines answered by the gateway
"""
