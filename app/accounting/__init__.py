"""Brings the archive up to date, and tells what it all cost.

archiving           brings the archive up to date, and a thread that sees to it on one machine
batch_prices        what batches will cost, and have: prices beside what was measured
key_budgets         what budgets of keys go by: prices as `cost` shares them, and what the usage knows of before
modal_prices        what Modal itself asks for at this moment
spending            what the servers of a deployment have cost, from the Dict and the archive
window_cost         what the declared windows cost, and from how many cold starts on they pay
window_proposals    windows that would have paid, from when callers asked: pure
window_suggestions  what is said of them, and how it is written into a fleet file
"""
