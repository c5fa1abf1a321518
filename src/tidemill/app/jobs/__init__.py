"""Jobs of every kind, from the body that is submitted to what is left of one that has ended."""
