"""The renderer of the sample data set."""
