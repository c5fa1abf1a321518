"""Trains a forest on several nodes: each grows its share of the trees, the first puts them together.

The nodes meet by torch's own variables (MASTER_ADDR, RANK, WORLD_SIZE), which the distribution `pytorch`
sets, over a plain socket: no torch is needed.
"""

import argparse
import os
import pickle
import socket
import struct
import time
from pathlib import Path

import numpy as np
from sklearn.ensemble import RandomForestRegressor

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=Path, required=True)
parser.add_argument("--trees", type=int, required=True)
parser.add_argument("--depth", type=int, required=True)
parser.add_argument("--model", type=Path, required=True)
arguments = parser.parse_args()

rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
address = (os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", "29500")))


def receive(connection: socket.socket) -> bytes:
    size = struct.unpack("!Q", connection.recv(8, socket.MSG_WAITALL))[0]
    return connection.recv(size, socket.MSG_WAITALL)


def send(payload: bytes) -> None:
    for _ in range(300):  # the first node may not listen yet
        try:
            with socket.create_connection(address, timeout=60) as connection:
                connection.sendall(struct.pack("!Q", len(payload)) + payload)
            return
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise SystemExit(f"rank {rank}: nobody listens at {address}")


data = np.load(arguments.data / "data.npz")
share = arguments.trees // world + (rank < arguments.trees % world)
forest = RandomForestRegressor(n_estimators=share, max_depth=arguments.depth, random_state=rank)
forest.fit(data["x"], data["y"])
print(f"rank {rank} of {world}: {share} trees on {len(data['x'])} patients")

if rank:
    send(pickle.dumps(forest.estimators_))
else:
    with socket.create_server(address) as server:
        server.settimeout(120)
        for _ in range(world - 1):
            connection, _ = server.accept()
            with connection:
                forest.estimators_ += pickle.loads(receive(connection))
    forest.n_estimators = len(forest.estimators_)
    (arguments.model / "model.pkl").write_bytes(pickle.dumps(forest))
    print(f"{forest.n_estimators} trees together")
