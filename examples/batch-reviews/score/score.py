"""A review's mood is the sum of its words' weights."""

import json
import os
import re
from pathlib import Path


def init():
    global weights
    (found,) = Path(os.environ["AZUREML_MODEL_DIR"]).rglob("weights.json")
    weights = json.loads(found.read_text())


def run(mini_batch):
    rows = []
    for path in map(Path, mini_batch):
        words = re.findall(r"[a-z]+", path.read_text().lower())
        mood = sum(weights.get(word, 0) for word in words)
        rows.append(f"{path.name},{mood},{'happy' if mood > 0 else 'unhappy'}")
    return rows
