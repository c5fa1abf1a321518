"""How fast passwords may be guessed, and what a refresh token gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.signin import (
    FORGET_US,
    IDLE_US,
    LEEWAY_US,
    SECOND,
    Failures,
    Refresh,
    Session,
    check_password,
    failed,
    refresh,
    taken_back,
    throttle_keys,
    wait_until,
)

NOW = 1_800_000_000 * SECOND


class Guesser:
    """Failed attempts as the use case counts them, each as early as it may be."""

    def __init__(self) -> None:
        self.held: dict[str, Failures] = {}
        self.now = NOW

    def wait(self, account: str, address: str) -> int:
        """Microseconds until an attempt is let through; 0: now."""
        keys = throttle_keys(account, address)
        until = wait_until([self.held.get(key, Failures(key)) for key in keys], self.now)
        return max(until - self.now, 0)

    def guess(self, account: str, address: str) -> None:
        self.now += self.wait(account, address)
        for key in throttle_keys(account, address):
            self.held[key] = failed(self.held.get(key, Failures(key)), self.now)


def test_one_place_guessing_at_one_account_is_slowed_exponentially() -> None:
    guesser = Guesser()
    waits = []
    for _ in range(18):
        waits.append(guesser.wait("ann", "10.0.0.1") // SECOND)
        guesser.guess("ann", "10.0.0.1")
    assert waits[:5] == [0] * 5
    assert waits[5:15] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert set(waits[15:]) == {900}


def test_nobody_else_is_locked_out() -> None:
    guesser = Guesser()
    for _ in range(60):
        guesser.guess("ann", "10.0.0.1")
    assert guesser.wait("ann", "10.0.0.2") <= 30 * SECOND  # Ann herself, elsewhere
    assert guesser.wait("bob", "10.0.0.2") == 0
    assert guesser.wait("ANN ", "10.0.0.1") > 30 * SECOND  # the same name


def test_many_places_guessing_at_one_account_get_two_a_minute() -> None:
    guesser = Guesser()
    for number in range(200):
        guesser.guess("ann", f"10.0.{number // 250}.{number % 250}")
    began = guesser.now
    for number in range(20):
        guesser.guess("ann", f"10.1.0.{number}")
    assert guesser.now - began == 20 * 30 * SECOND


def test_one_place_trying_many_accounts_is_slowed_too_but_not_loopback() -> None:
    guesser = Guesser()
    for number in range(40):
        guesser.guess(f"user-{number}", "10.0.0.1")
    assert guesser.wait("user-99", "10.0.0.1") > 60 * SECOND
    local = Guesser()
    for number in range(40):
        local.guess(f"user-{number}", "127.0.0.1")
        local.guess(f"user-{number}", "::1")
    assert local.wait("user-99", "127.0.0.1") == 0


def test_guesses_on_loopback_keep_nobody_out_for_long() -> None:
    """A job and its author's own terminal both come from there."""
    guesser = Guesser()
    for _ in range(60):
        guesser.guess("ann", "127.0.0.1")
    assert 0 < guesser.wait("ann", "127.0.0.1") <= 30 * SECOND
    assert guesser.wait("ann", "::1") == guesser.wait("ann", "127.0.0.1")


def test_made_up_names_take_bounded_room() -> None:
    """On loopback, where nobody is slowed as a whole, a job may try any number of names."""
    keys = {key for number in range(100_000) for key in throttle_keys(f"name-{number}", "127.0.0.1")}
    assert len(keys) <= 2 * 65_536


def test_an_ipv6_network_is_one_place_and_mapped_addresses_are_ipv4() -> None:
    assert throttle_keys("a", "2001:db8:1:2::1") == throttle_keys("a", "2001:db8:1:2:ffff::9")
    assert throttle_keys("a", "2001:db8:1:2::1") != throttle_keys("a", "2001:db8:1:3::1")
    assert throttle_keys("a", "::ffff:10.0.0.1") == throttle_keys("a", "10.0.0.1")
    assert len(throttle_keys("a", "::ffff:127.0.0.1")) == 2


def test_failures_are_forgotten_after_a_day_and_the_name_is_not_kept() -> None:
    held = Failures(throttle_keys("hunter2 typed as name", "10.0.0.1")[0], 30, NOW)
    assert "hunter2" not in held.key
    assert wait_until([held], NOW + 1) > NOW
    assert wait_until([held], NOW + FORGET_US) == 0
    assert failed(held, NOW + FORGET_US).count == 1
    assert taken_back(replace(held, count=0)).count == 0


@given(st.integers(0, 10_000), st.integers(0, 2 * FORGET_US))
def test_a_wait_is_bounded_and_never_in_the_past(count: int, later: int) -> None:
    for key in throttle_keys("ann", "10.0.0.1"):
        until = wait_until([Failures(key, count, NOW)], NOW + later)
        assert until == 0 or NOW + later < until <= NOW + 900 * SECOND


def session(**changes: object) -> Session:
    made = Session("s", "o", "c", "password", "::1", b"", 5, NOW, NOW, NOW + 10 * IDLE_US)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("held", "generation", "later", "what"),
    [
        (session(), 5, 0, Refresh.ROTATE),
        (session(), 5, IDLE_US - 1, Refresh.ROTATE),
        (session(), 5, IDLE_US, Refresh.DEAD),
        (session(expires_at=NOW + 9), 5, 9, Refresh.DEAD),
        (session(), 4, LEEWAY_US - 1, Refresh.REPEAT),
        (session(), 4, LEEWAY_US, Refresh.REUSE),
        (session(), 3, 0, Refresh.REUSE),
        (session(ended_at=NOW, end_reason="signed out"), 5, 0, Refresh.DEAD),
        (session(ended_at=NOW), 3, 0, Refresh.DEAD),
    ],
)
def test_what_a_refresh_token_gets(held: Session, generation: int, later: int, what: Refresh) -> None:
    found, why = refresh(held, generation, NOW + later)
    assert found is what
    assert bool(why) == (what in (Refresh.DEAD, Refresh.REUSE))


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaa", "ann.lee@org1", "x" * 1025, ""])
def test_passwords_that_will_not_do(password: str) -> None:
    assert check_password(password, "ann.lee@org")


def test_a_sentence_will_do() -> None:
    assert check_password("correct horse battery", "ann") == ""


def test_what_jobs_guess_slows_nobody_on_the_host() -> None:
    """Each node with a network of its own has an address in 127.64.0.0/10 (agent/relay.py)."""
    guesser = Guesser()
    for _ in range(30):
        guesser.guess("ann", "127.100.1.2")
    assert guesser.wait("ann", "127.100.1.2") > 60 * SECOND
    assert guesser.wait("bob", "127.100.1.2") > 0, "nor at anybody else from there"
    assert guesser.wait("ann", "127.0.0.1") == guesser.wait("ann", "127.100.1.3") == 0
