"""python count.py TEXTS SHORTEST COUNTS: words of all texts that have at least so many letters."""

import re
import sys
from pathlib import Path

texts, shortest, counts = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
words = re.findall(r"[A-Za-z]+", " ".join(path.read_text() for path in sorted(texts.glob("*.txt"))))
Path(counts, "words.txt").write_text(f"{sum(len(word) >= shortest for word in words)}\n")
