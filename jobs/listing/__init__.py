"""Jobs without reading all of them each time.

dead_memory  the dead letters and the last nights' jobs as a look has left them, and what has changed since
jobs_view    all jobs, remembered by who shows them again and again, and brought up to date by what has changed
looks        how the jobs stand beside a page of a list, by what is known without reading all
newest       a page of the newest jobs, from the ledger and on into the archive
recent_jobs  the newest jobs that have ended and how many there are, as a look leaves them for the next
"""
