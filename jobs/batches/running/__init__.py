"""A batch at work: what an attempt at one does, from its file to its results.

batch_context  what it works with: storage, gateway, routes, prices, and how it keeps time
batch_run      an attempt: reads through, begins, has the lines answered, ends
beginning      whether lines may be sent: where they go, what they will take, when they may begin
crash_marks    finds the line that kills its worker
line_client    sends lines to the gateway
line_order     which line goes next to a tier
lines_at_work  has lines answered, as many at once as their tiers take
result_keeper  keeps results as they come, several in one step
run_parts      what the parts of an attempt share
run_state      how a batch stands: told while it runs
sending        the part in which lines are sent: kept, watched, told
shown_pass     the pass that its lines show the gateway
"""
