"""Where things lie in the store, and how their records are written."""
