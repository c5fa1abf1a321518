"""Reads digits: {"data": [[64 numbers from 0 to 16], …]} -> {"digits": […], "model": its class}.
Written as for Azure's inference server."""

import json
import logging
import os
import pickle
from pathlib import Path

model = None


def init():
    global model
    found = next(Path(os.environ["AZUREML_MODEL_DIR"]).rglob("model.pkl"))
    model = pickle.loads(found.read_bytes())
    logging.info("%s is loaded from %s", type(model).__name__, found)


def run(raw_data):
    images = json.loads(raw_data)["data"]
    return {"digits": model.predict(images).tolist(), "model": type(model).__name__}
