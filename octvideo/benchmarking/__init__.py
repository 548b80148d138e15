"""Measure speed, compared with an alternative: the code of ``tools/benchmark.py``."""
