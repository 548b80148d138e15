"""Pictures of clips, networks and runs: what ``octvideo visualize`` writes."""
