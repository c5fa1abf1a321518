"""Backups of a home: a snapshot of one moment, packed in one file, and a home made of such a file."""
