"""Trains a support vector machine with the settings it is given. Knows nothing of Tidemill."""

import argparse

import mlflow
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

parser = argparse.ArgumentParser()
parser.add_argument("--gamma", type=float, required=True)
parser.add_argument("--kernel", choices=("rbf", "linear"), required=True)
arguments = parser.parse_args()

images, labels = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(
    images, labels, test_size=0.25, random_state=0, stratify=labels
)
model = SVC(gamma=arguments.gamma, kernel=arguments.kernel)
for count in (200, 600, len(train_x)):
    accuracy = model.fit(train_x[:count], train_y[:count]).score(test_x, test_y)
    mlflow.log_metric("accuracy", accuracy, step=count)
    print(f"trained on {count:4d} images: accuracy {accuracy:.4f}", flush=True)
