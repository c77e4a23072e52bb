"""The command line, on this machine or against a gateway.

audit_list     who did what, as a list for a person
completion     what the shell offers for an argument that is being typed
follow         follows jobs to their end: a bar each on a terminal, else a line per ten per cent
help           the commands as people look for them, and what is said to one that there is not
interrupt      Ctrl-C: it ends a command at once and without a word, but where it has something to say
job_commands   what a person does with jobs, in the same words wherever the ledger is kept
main           the command line: `ollama-modal`
output         what the command line writes: data to stdout, talk to stderr
progress_bar   the progress bars: rich lives here and nowhere else
remote_status  how a gateway elsewhere stands, in words: `status`, `models` and `route` with a URL
signature      gives a function its parameters at run time: typer, `modal run` and FastAPI read them from its signature
warnings_log   of what happens inside a command, tells warnings alone
"""
