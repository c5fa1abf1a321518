"""Measures a model, and says whether it is good enough to be registered."""

import argparse
import json
import pickle
from pathlib import Path

import mlflow
import numpy as np
from sklearn.metrics import mean_absolute_error, r2_score

parser = argparse.ArgumentParser()
parser.add_argument("--model", type=Path, required=True)
parser.add_argument("--data", type=Path, required=True)
parser.add_argument("--least-r2", type=float, required=True)
parser.add_argument("--report", type=Path, required=True)
parser.add_argument("--good", type=Path, required=True)
arguments = parser.parse_args()

model = pickle.loads((arguments.model / "model.pkl").read_bytes())
data = np.load(arguments.data / "data.npz")
guessed = model.predict(data["x"])
scores = {
    "r2": float(r2_score(data["y"], guessed)),
    "mean_absolute_error": float(mean_absolute_error(data["y"], guessed)),
}
mlflow.log_metrics(scores)
(arguments.report / "scores.json").write_text(json.dumps(scores, indent=2))
good = scores["r2"] >= arguments.least_r2
arguments.good.write_text(str(good))
print(f"r2 {scores['r2']:.3f}: {'good enough' if good else 'not good enough'}")
