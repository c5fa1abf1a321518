"""What people read: summaries, details and reasons, for the native API, the pages and the command line."""
