"""Trains a support vector machine on scikit-learn's handwritten digits. Knows nothing of Tidemill."""

import argparse
import json
import pickle
import time
from pathlib import Path

import mlflow
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

parser = argparse.ArgumentParser()
parser.add_argument("--settings", type=Path, required=True)
parser.add_argument("--test-share", type=float, default=0.25)
parser.add_argument("--model", type=Path, required=True)
arguments = parser.parse_args()

settings = json.loads(arguments.settings.read_text())
images, labels = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(
    images, labels, test_size=arguments.test_share, random_state=settings["seed"], stratify=labels
)
print(f"{len(train_x)} images to train on, {len(test_x)} to test with")

mlflow.log_params({**settings, "test_share": arguments.test_share})
started = time.perf_counter()
model = SVC(gamma=settings["gamma"], C=settings["C"])
for share in (0.1, 0.3, 1.0):
    count = int(len(train_x) * share)
    model.fit(train_x[:count], train_y[:count])
    accuracy = float(accuracy_score(test_y, model.predict(test_x)))
    mlflow.log_metric("accuracy", accuracy, step=count)
    print(f"trained on {count:4d} images: accuracy {accuracy:.4f}")
mlflow.log_metric("train_seconds", time.perf_counter() - started)

arguments.model.mkdir(parents=True, exist_ok=True)
(arguments.model / "model.pkl").write_bytes(pickle.dumps(model))
print(f"model saved, {(arguments.model / 'model.pkl').stat().st_size} bytes")
