"""What runs as Modal functions, and the commands that speak to them.

batches/                their volume, their worker, their commands
addresses               where the deployed servers answer, and the headers that their proxy wants
functions_with_secrets  the servers worker and the delivery of alerts, apart because they need secrets
modal_cli               what `modal run` does on the caller's machine: the commands, on the deployment's ledger
schedule_functions      the two schedules, and the delivery of alerts, as a container runs them
server_container        what a Modal container hands to the server it runs
servers_worker          what the servers worker does: wake a tier and have it load
spawn_worker            calls the deployed worker of a lane
status                  how a deployment stands, by what was last reported
volume_queries          what is on the volume: the models, the archive, what a prune and the next night would do
weights_worker          what the weights worker does: on the volume, committing while it works
worker_process          a worker of one lane, as a container runs it
worker_timing           the times of the two workers, from which the limits of their Functions follow
"""
