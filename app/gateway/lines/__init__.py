"""Lines of batches beside the people: when one may go to its tier, and which one gives way.

line_gate   the lines of one tier: who waits, who is in flight, who is cut when a person comes
line_shape  what is wrong with the body of a line, told before it is sent
line_turn   one line on its way: its turn, what it counts for, what its batch is told
tier_room   what a tier has room for: its slots, whether it sleeps, what its memory holds
"""
