"""What the processes beside control read of the home: its store and its keys, loaded when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tidemill.server.home import Home, read_config

if TYPE_CHECKING:
    from tidemill.domain.model import Caller
    from tidemill.identity.tokens import TokenIssuer
    from tidemill.store.api import Read
    from tidemill.store.postgres import PostgresStore
    from tidemill.store.sqlite import SqliteReader

T = TypeVar("T")


class HomeReader:
    """The home's store, opened with the first request that needs it: control may still be making it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._opened: SqliteReader | PostgresStore | None = None

    async def read(self, fn: Callable[[Read], T]) -> T:
        if self._opened is None:
            from tidemill.store.sql import open_reader

            home = Home(self._home)
            config = read_config(home)
            database = config.database if config is not None else ""
            self._opened = open_reader(database or home.db / "tidemill.db")
        return await self._opened.read(fn)

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()


def bearer_verifier(home: Path) -> Callable[[str], Caller]:
    """Verifies the tokens of this home. Cryptography is loaded with the first token, not before: most
    clients use account keys."""
    made: list[Callable[[str], Caller]] = []

    def verify(token: str) -> Caller:
        if not made:
            made.append(issuer_of(home).verify)
        return made[0](token)

    return verify


def issuer_of(root: Path) -> TokenIssuer:
    """It issues and verifies as control's does."""
    from tidemill.app.services import Addresses
    from tidemill.identity.keys import load_or_create
    from tidemill.server.compose import issuer
    from tidemill.server.home import load_config

    home = Home(root)
    config = load_config(home)
    ports = config.ports
    addresses = Addresses(
        f"https://localhost:{ports.get('https', 0)}",
        f"http://127.0.0.1:{ports.get('http', 0)}",
        f"https://localhost:{ports.get('data', 0)}",
    )
    return issuer(home, config, load_or_create(home.secrets), addresses)
