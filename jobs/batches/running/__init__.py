"""A batch at work: what an attempt at one does, from its file to its results.

batch_context    what it works with: storage, gateway, routes, prices, and how it keeps time
batch_run        an attempt: reads through, begins, has the lines answered, ends
line_answers     what becomes of a line, by how it was answered: pure
line_client      sends lines to the gateway
line_order       which line goes next to a tier
line_texts       reads the lines that go next
lines_at_work    has the lines of a batch answered, as many at once as their tiers take
result_keeper    keeps results as they come, several in one step
run_state        how a batch stands: told while it runs
shown_pass       the pass that its lines show the gateway
"""
