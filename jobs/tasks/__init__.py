"""What each kind of job does.

table  what each kind of job does: pull, verify, delete, prune, rollback, warm
"""
