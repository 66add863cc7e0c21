"""The measurements of `launch/benchmark.py`, a module per suite."""
