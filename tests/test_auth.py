"""API keys and where the server may listen."""

from pathlib import Path

import pytest

from honed.server.auth import (
    ANONYMOUS,
    Caller,
    KeyRing,
    Role,
    is_loopback,
    load_keyring,
    read_keys,
    require_own_page,
    require_safe_binding,
    short_hash,
)
from honed.server.errors import Forbidden, ForeignPage, InvalidApiKey

KEY = "sk-test-0123456789abcdef"


def test_a_key_opens_and_gets_a_short_id() -> None:
    ring = KeyRing(["sk-other-0123456789", KEY])
    assert ring.verify(f"Bearer {KEY}") == ring.verify(f"bearer  {KEY} ") == Caller(short_hash(KEY))
    assert ring.verify("Bearer sk-other-0123456789").key_id != short_hash(KEY)
    assert len(short_hash(KEY)) == 12


def test_without_keys_everybody_is_anonymous() -> None:
    """And on loopback, where alone they may be, they may do everything."""
    assert KeyRing([]).verify(None) == KeyRing([]).verify("Bearer whatever") == Caller(ANONYMOUS, Role.ADMIN)


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", KEY, f"Basic {KEY}", "Bearer sk-test", f"Bearer {KEY}x", "Bearer \udcff"],
)
def test_anything_else_is_refused(header: str | None) -> None:
    with pytest.raises(InvalidApiKey) as refused:
        KeyRing([KEY]).verify(header)
    assert refused.value.status == 401
    assert refused.value.headers["www-authenticate"] == "Bearer"


def test_no_key_is_shown_anywhere() -> None:
    ring = KeyRing([KEY])
    assert KEY not in repr(ring) + str(vars(ring))
    with pytest.raises(InvalidApiKey) as refused:
        ring.verify("Bearer hunter2-is-my-secret-password")
    assert refused.value.message == "Incorrect API key provided: hunt****."
    with pytest.raises(InvalidApiKey) as refused:
        ring.verify("Bearer hunter2")
    assert refused.value.message == "Incorrect API key provided: ****."


@pytest.mark.parametrize("key", ["", "schlüssel", "line\nbreak"])
def test_keys_that_no_client_could_send_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        KeyRing([key])


def test_keys_come_from_settings_and_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# staff\nsk-file-0123456789  # Ada\n\n")
    ring = load_keyring([KEY], path)
    assert ring.verify("Bearer sk-file-0123456789").key_id == short_hash("sk-file-0123456789")
    assert ring.verify(f"Bearer {KEY}").key_id == short_hash(KEY)
    assert load_keyring([], None).is_open


def test_a_key_may_have_a_role_and_a_rule_of_its_own() -> None:
    ring = KeyRing([f"{KEY}  role=labeler logging=opt_in training=deny", "sk-admin-0123456789 role=admin"])
    assert ring.verify(f"Bearer {KEY}") == Caller(short_hash(KEY), Role.LABELER, "opt_in", denies_training=True)
    assert ring.verify("Bearer sk-admin-0123456789").role is Role.ADMIN


@pytest.mark.parametrize("options", ["role=king", "logging=some", "training=maybe", "colour=red", "role", "admin"])
def test_options_that_a_key_does_not_have_are_refused(options: str) -> None:
    with pytest.raises(ValueError, match="API key"):
        KeyRing([f"{KEY} {options}"])


def test_a_role_may_do_what_the_lesser_ones_may() -> None:
    client, labeler, admin = (Caller("x", role) for role in Role)
    for caller in (labeler, admin):
        caller.require(Role.LABELER)
    with pytest.raises(Forbidden, match="'labeler'"):
        client.require(Role.LABELER)
    with pytest.raises(Forbidden, match="'admin'"):
        labeler.require(Role.ADMIN)
    assert (client.scope, labeler.scope, admin.scope) == ("x", "x", None)


def test_a_ring_knows_whether_anything_may_be_kept() -> None:
    assert KeyRing([]).keeps("all")
    assert not KeyRing([]).keeps("off")
    assert KeyRing([f"{KEY} logging=all", "sk-other"]).keeps("off")
    assert not KeyRing([f"{KEY} logging=off"]).keeps("all")


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000", "app.localhost:1", None])
@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://127.0.0.1", None])
def test_this_machines_own_pages_may_ask_a_server_without_keys(host: str | None, origin: str | None) -> None:
    require_own_page(KeyRing([]), host, origin)


@pytest.mark.parametrize(
    ("host", "origin"),
    [("evil.example", None), ("localhost.evil.example:8000", None), ("10.0.0.1", None), ("127.0.0.1", "https://evil.example"),
     ("127.0.0.1", "null"), (":8000", None)],
)  # fmt: skip
def test_other_peoples_pages_may_not(host: str, origin: str | None) -> None:
    with pytest.raises(ForeignPage):
        require_own_page(KeyRing([]), host, origin)
    require_own_page(KeyRing([KEY]), host, origin)


def test_a_file_of_no_use_never_opens_the_server(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(ValueError, match="cannot read"):
        read_keys(path)
    path.write_text("# nothing\n")
    with pytest.raises(ValueError, match="holds no API key"):
        load_keyring([], path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match="cannot read"):
        read_keys(path)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.8.9.10", "::1", "[::1]", "localhost", "LOCALHOST.", "::ffff:127.0.0.1", "127.1"],
)
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    require_safe_binding(host, KeyRing([]))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "", "0", "::ffff:10.0.0.1", "x" * 300, "a..b"])
def test_elsewhere_a_key_is_needed(host: str) -> None:
    with pytest.raises(ValueError, match="--api-key"):
        require_safe_binding(host, KeyRing([]))
    require_safe_binding(host, KeyRing([KEY]))
