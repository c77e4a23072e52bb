"""Claims jobs, runs them, beats for them and ends them; and what a task sees of its attempt.

attempt   what a task sees of the attempt it runs
presence  whether a lane has a worker at work: said by it, asked by who would send for another
silence   tells a ledger that answers nothing from one that nobody has asked
worker    claim, run, beat, end: the loop that works one lane
"""
