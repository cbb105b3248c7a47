"""A whole graph in one call: of a prompt, or of a circuit that a run of `prune` kept."""
