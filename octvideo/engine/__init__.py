"""Train and test networks."""
