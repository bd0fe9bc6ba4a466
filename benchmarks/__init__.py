"""Speed and size of fabremote, each as a ratio against a floor measured in the same run.

``python -m benchmarks`` runs every group but that of gigabytes and prints one
table; ``python -m benchmarks calls output`` runs those named. ``python -m
benchmarks.peers`` measures others beside fabremote, ``python -m benchmarks.soak``
looks for what grows over 100,000 calls. Whoever is compared takes turns, so
that a busy machine slows all alike; the figures are medians. A missed target
is shown and fails nothing.
"""
