"""The gateway: how callers reach the instances of online endpoints. It forwards HTTP/1.1 by a table that
control writes, and goes on while control is down. Its process is `server/gateway_process.py`."""
