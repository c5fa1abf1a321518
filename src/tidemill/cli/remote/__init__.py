"""A server on another machine, seen from a laptop as if it ran there: `tidemill connect`."""
