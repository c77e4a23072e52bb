"""Modal as it is called here: each wait has a limit, and each failure is one of ours.

calls   every call that `app` makes, with its limits
errors  what Modal's exceptions mean in `jobs.core.errors`: one table
"""
