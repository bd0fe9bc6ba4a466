"""What runs on the host for a feature of its own, sent as text with the call that needs it.

Written as the agent is: for Python 3.6, with the standard library alone. Each
module stands by itself and answers in plain data; `fabremote.environments`
sends them.
"""
