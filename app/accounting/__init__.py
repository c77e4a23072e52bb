"""What leaves the Dict for the archive, and what it all cost.

archive       what leaves the Dict for files beside the weights
modal_prices  what Modal itself asks for at this moment
spending      what the servers of a deployment have cost, from the Dict and the archive
window_cost   what the declared windows cost, and from how many cold starts on they pay
window_proposals  windows that would have paid, from when callers asked: pure
"""
