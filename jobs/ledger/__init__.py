"""What a job is, the only writer of its facts, and how its story is told.

all_jobs      all jobs of one reading, page by page; which jobs fit, and what waits for which
attempts      writes what becomes of attempts: claims and ends, and with them the index and the pointer
dead_letters  dead letters: the jobs that failed for good, by the class of their failure
expiry        removes what the ledger holds of archived jobs: the only place where a fact is taken away
job           job, attempt, state, and the fold from facts to state
job_queue     carries the ids of jobs that are due to whoever works, and keeps nothing
job_text      a job in words: what was asked, what happened, why (in the words of jobs.core.errors), what to do
kinds         the kinds of jobs, a record each: from it commands, entry points, API, request and story are made
ledger        post, claim, beat, end, sweep, cancel, retry: the only writer of the queue and of a job's facts
open_jobs     the index of the jobs that are open: what a sweep looks at, however many have ended
reader        get, find, list and select jobs: the fold over their facts, for whoever only reads
sweeper       gives up silent attempts, finishes cancellations, and has in the queue what somebody could take up
"""
