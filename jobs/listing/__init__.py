"""All jobs without reading all of them each time.

dead_memory  the dead letters as they were when that was last looked at, and what has changed since: for who begins anew
jobs_view    all jobs, remembered by who shows them again and again, and brought up to date by what has changed
"""
