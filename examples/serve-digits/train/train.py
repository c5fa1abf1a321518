"""Trains a classifier of scikit-learn's handwritten digits. Knows nothing of Tidemill."""

import argparse
import pickle
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

KINDS = {"linear": RidgeClassifier, "svm": SVC}

parser = argparse.ArgumentParser()
parser.add_argument("--kind", choices=KINDS, default="linear")
parser.add_argument("--model", type=Path, required=True)
arguments = parser.parse_args()

images, labels = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.25, random_state=7)
model = KINDS[arguments.kind]().fit(train_x, train_y)
print(f"{arguments.kind}: {model.score(test_x, test_y):.4f} of {len(test_x)} images are read right")

arguments.model.mkdir(parents=True, exist_ok=True)
(arguments.model / "model.pkl").write_bytes(pickle.dumps(model))
