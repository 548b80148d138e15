"""Run on a cluster."""
