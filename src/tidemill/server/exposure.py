"""Listening beyond loopback: whether that may be, with which certificates, and their renewal."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tidemill.domain.errors import Conflict, InvalidRequest
from tidemill.domain.listening import addresses_of
from tidemill.identity import ca
from tidemill.server import home as homes
from tidemill.server.ports import SystemClock, check_addresses
from tidemill.server.tls import Certificates, check_own

LOOK_S = 24 * 3600.0  # a timer of months would run on while the machine sleeps
HOME = "home"  # --certificate home: the home's CA issues it
_WARN_DAYS = 14
_log = logging.getLogger("tidemill.tls")


@dataclass(frozen=True, slots=True)
class Words:
    """--listen, --name, --certificate and --key as they were typed; None or "": as at the last start."""

    listen: str | None = None
    name: str | None = None
    certificate: str = ""
    key: str = ""


async def settle(home: homes.Home, config: homes.Config, words: Words, now: int) -> homes.Config:
    """The configuration with what was typed, stored for the next start. Raises InvalidRequest naming what
    does not go together, Conflict where nobody else could sign in."""
    wanted = replace(config, **_typed(config, words))
    listening = wanted.listening  # says what is wrong with it
    check_addresses(listening.addresses)
    if listening.addresses and not await _somebody_can_sign_in(home, wanted):
        raise Conflict(
            f"--listen {','.join(listening.addresses)}: nobody but this home's owner could sign in, so "
            "there is nobody to listen for. Start the server without it, make a user (tidemill access "
            "create-user NAME; tidemill access set-password NAME) or a provider (tidemill access "
            "add-provider), and start again.",
            "NobodyCanSignIn",
            "--listen",
        )
    pair = wanted.own_pair
    if pair is not None:
        check_own(pair, listening.names, now)
    if wanted != config:
        homes.save_config(home, wanted)
    return wanted


async def _somebody_can_sign_in(home: homes.Home, config: homes.Config) -> bool:
    from tidemill.app.people.sign_in import somebody_can
    from tidemill.store.sql import open_store

    store = open_store(config.database or home.db / "tidemill.db")
    try:
        return await store.read(somebody_can)
    finally:
        await store.close()


def _typed(config: homes.Config, words: Words) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if words.listen is not None:
        found["listen"] = _split(words.listen)
        if not addresses_of(found["listen"]):
            found["names"] = []  # it is a local server again
    if words.name is not None:
        found["names"] = _split(words.name)
    if words.certificate == HOME:
        found |= {"certificate": "", "key": ""}
    elif words.certificate or words.key:
        if not (words.certificate and words.key):
            given, other = ("--certificate", "--key") if words.certificate else ("--key", "--certificate")
            raise InvalidRequest(f"{given} needs {other} beside it: PEM files of one pair.", target=other)
        found |= {
            name: str(Path(getattr(words, name)).expanduser().absolute()) for name in ("certificate", "key")
        }
    return found


def _split(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def certificates(home: homes.Home, config: homes.Config, now: int) -> ssl.SSLContext:
    """The https listener's context, its files made or renewed."""
    names = config.listening.names
    files = ca.ensure(home.tls, now, names)
    return Certificates(files, names, config.own_pair).context()


async def renew(home: homes.Home, config: homes.Config) -> None:
    """Issues what comes near its end, for as long as the server runs; both processes see the new files at
    their next handshake. A pair of the user's own is the user's to renew: the log says when it is time."""
    while True:
        now = SystemClock().now()
        await asyncio.sleep(min(max((ca.renew_at(home.tls) - now) / 1e6, 1.0), LOOK_S))
        try:
            now = SystemClock().now()
            if ca.renew_at(home.tls) <= now:
                ca.ensure(home.tls, now, config.listening.names)
                _log.info("the certificates of the home were renewed")
            if config.own_pair is not None:
                ends = check_own(config.own_pair, config.listening.names, now)
                days = (ends.timestamp() - now / 1e6) / 86_400
                if days < _WARN_DAYS:
                    _log.warning("%s ends in %.0f days: renew it", config.certificate, days)
        except Exception:
            _log.exception("certificates were not renewed; tried again in %.0f h", LOOK_S / 3600)
            await asyncio.sleep(LOOK_S)
