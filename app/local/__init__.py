"""The one-machine stack and its commands.

__main__        `python -m app.local`: the command line as `ollama-modal` has it
coming_night    what the next night would do on this machine, by what is here and what the registries say
gateway         the gateway of the one-machine stack: what it is composed of here, and its life from open to close
main            one machine, end to end: `ollama-modal up` runs servers, workers and the ledger until it is told to
                stop
nightly_thread  the nights of the one-machine stack: a thread does what the schedule does on Modal
plan            what `up` was asked for, checked; and which registries may be pulled from
server_reports  the servers of this machine, reported to the ledger as those of a deployment report themselves
servers         which Ollama servers the one-machine stack has, and which models directory: found, started, or
                simulated
stack           composes the one-machine stack and runs it: servers, workers, the ledger, until somebody asks it to
                stop
windows         the windows on one machine: what they keep loaded while they are open
workers         the workers of the one-machine stack: one per lane, each in a thread, on ledgers of their own
"""
