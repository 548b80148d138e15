"""Download and preparation of Kinetics."""
