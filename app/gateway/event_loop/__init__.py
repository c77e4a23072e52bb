"""What keeps the gateway's event loop free, and what tells of it when it is not.

callbacks     an event loop that has everything it calls go through a wrapper
interpreter   how Python itself is set for a process whose event loop serves people
lag           how late the event loop comes to a timer, as a meter
long_answers  answers that may be long, made beside the event loop
watch         a debug mode: reports what held the event loop up
"""
