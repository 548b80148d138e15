"""Measurements of speed, each beside its alternative: what ``tools/benchmark.py`` runs."""
