"""Benchmarks: each prints a table with ratios to floors measured in the same run. `make bench` runs all."""
