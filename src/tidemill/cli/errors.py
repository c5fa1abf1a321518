"""Exit codes and the one error type of the command line."""

from __future__ import annotations

from typing import Any

OK = 0
FAILED = 1  # the command, or the job it followed, failed
USAGE = 2  # wrong flags, or a file that is not what its schema says
NOT_FOUND = 3
REFUSED = 4  # the server refused it: not allowed, not valid there, in conflict
NOT_RUNNING = 5  # no server answers for this home
INTERRUPTED = 130


class CliError(Exception):
    """What a user reads on stderr: `message` names the fix; `code` and `details` are ARM's."""

    def __init__(
        self,
        message: str,
        exit_code: int = FAILED,
        code: str = "CommandFailed",
        target: str | None = None,
        details: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.code = code
        self.target = target
        self.details = details or []

    def arm(self) -> dict[str, Any]:
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.target:
            error["target"] = self.target
        if self.details:
            error["details"] = self.details
        return {"error": error}


class ServerGone(CliError):
    """Nothing answers at the address of this home (exit code 5)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, NOT_RUNNING, "ServerNotRunning")


def exit_code_of(status: int) -> int:
    """The exit code for an HTTP status that is an error."""
    if status == 404:
        return NOT_FOUND
    return REFUSED if 400 <= status < 500 or status == 507 else FAILED


def did_you_mean(word: str, known: list[str] | tuple[str, ...], ending: str = "?") -> str:
    """`" Did you mean 'x'?"`, or "" when nothing is near."""
    from difflib import SequenceMatcher, get_close_matches

    lowered = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), list(lowered), n=2, cutoff=0.6)
    if not near:
        return ""
    likeness = [SequenceMatcher(None, word.lower(), name).ratio() for name in near]
    close = [name for name, ratio in zip(near, likeness, strict=True) if ratio > likeness[0] - 0.1]
    return " Did you mean " + " or ".join(f"'{lowered[name]}'" for name in close) + ending
