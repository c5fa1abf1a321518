"""Splits scikit-learn's diabetes data into what is trained on and what is tested with."""

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

parser = argparse.ArgumentParser()
parser.add_argument("--test-share", type=float, required=True)
parser.add_argument("--train", type=Path, required=True)
parser.add_argument("--test", type=Path, required=True)
arguments = parser.parse_args()

features, progression = load_diabetes(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(
    features, progression, test_size=arguments.test_share, random_state=7
)
np.savez(arguments.train / "data.npz", x=train_x, y=train_y)
np.savez(arguments.test / "data.npz", x=test_x, y=test_y)
print(f"{len(train_x)} patients to train on, {len(test_x)} to test with")
