"""What a job is, the only writer of its facts, and how its story is told.

dead_letters  dead letters: the jobs that failed for good, by the class of their failure
expiry        removes what the ledger holds of archived jobs: the only place where a fact is taken away
job           job, attempt, state, and the fold from facts to state
job_queue     carries the ids of jobs that are due to whoever works, and keeps nothing
job_text      a job in words, for somebody who is tired: what was asked, what happened, why, and what to do now
kinds         the kinds of jobs, a record each: from it commands, entry points, API, request and story are made
ledger        post, claim, beat, end, sweep, cancel, retry: the only writer of queue and dict
reader        get, find, list and select jobs: the fold over their facts, for whoever only reads
"""
