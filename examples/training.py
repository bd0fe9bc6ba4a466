"""Train a model on a host, with the packages it needs and its progress shown here.

Run it in this folder, on a host that you can log in to::

    fab -c training -H gpu1 train --epochs 20 --model model.json

The packages are installed there the first time, into an environment of their own; nothing need be
installed on the host but Python. The bar is the host's, the model is written here. The training is
a plain logistic regression, to be replaced by your own.
"""

import json
import math
import operator
import os
import random
from pathlib import Path

from invoke import Exit

from fabremote import task

REQUIRES = ["tqdm>=4"]


def samples(count, seed):
    """Return points, and whether each lies above a line."""
    chance = random.Random(seed)
    points = [(1.0, chance.uniform(-1, 1), chance.uniform(-1, 1)) for _ in range(count)]
    return [(point, 0.3 + 2 * point[1] - point[2] > 0) for point in points]


def predict(weights, point):
    """Return how likely the point lies above the line."""
    return 1 / (1 + math.exp(-sum(map(operator.mul, weights, point))))


def fit(epochs, rate, count):
    """Train; return the weights and the share of right answers. This runs on the host."""
    from tqdm import tqdm

    data, weights = samples(count, seed=1), [0.0, 0.0, 0.0]
    for _ in tqdm(range(epochs), desc="training", unit="epoch", ascii=True):
        for point, above in data:
            error = predict(weights, point) - above
            weights = list(map(lambda w, x: w - rate * error * x, weights, point))
    fresh = samples(1000, seed=2)
    right = sum((predict(weights, point) > 0.5) == above for point, above in fresh)
    return {"weights": weights, "accuracy": right / len(fresh)}


@task(help={"epochs": "how often to go through the data", "model": "the file to write here"})
def train(c, epochs=20, rate=0.1, count=2000, model="model.json"):
    """Train a model there, and keep it here."""
    folder = Path(model).resolve().parent
    if not os.access(folder, os.W_OK):  # Better known before than after the training.
        raise Exit(f"{folder} is no folder to write in", 1)
    found = c.python(requires=REQUIRES).call(fit, epochs, rate, count)
    Path(model).write_text(json.dumps(found))
    print(f"{100 * found['accuracy']:.1f} % right; the model is in {model}")
