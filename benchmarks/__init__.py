"""Speed and size of fabremote, each as a ratio against a floor measured in the same run.

``python -m benchmarks`` runs every group and prints one table; ``python -m
benchmarks calls output`` runs those named. Whoever is compared takes turns, so
that a busy machine slows all alike; the figures are medians. A missed target
is shown and fails nothing.
"""
