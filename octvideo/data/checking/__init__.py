"""Checks whether videos decode completely."""
