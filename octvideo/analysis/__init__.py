"""Analyses of networks: the paper's tables, and the frequencies of feature maps."""
