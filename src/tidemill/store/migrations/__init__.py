"""The revisions of the main database, oldest first. alembic itself is imported only to upgrade."""

REVISIONS = ("0001", "0002", "0003", "0004", "0005")
HEAD = REVISIONS[-1]
