"""Counts the words of each text of a mini-batch."""

import argparse
import os

shortest = 1


def init():
    """Once for each worker, before its first mini-batch."""
    global shortest
    parser = argparse.ArgumentParser()
    parser.add_argument("--shortest", type=int, default=1)
    given, _ = parser.parse_known_args()
    shortest = given.shortest


def run(mini_batch):
    """Paths in, a row for each out: what is returned for no item counts as its failure."""
    rows = []
    for path in mini_batch:
        with open(path) as file:
            words = [word for word in file.read().split() if len(word) >= shortest]
        rows.append(f"{os.path.basename(path)},{len(words)}")
    return rows
