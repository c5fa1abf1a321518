"""Models that answer requests: the scoring server, which runs in the user's environment."""
