"""Finds e-mail addresses (of any script) and IP addresses.

What looks like one and is none stays: `git@host:path`, decorators, matrix products, `package@1.2.3`, version numbers of
four parts, section numbers, Python slices, C++ scopes. Addresses that are the same on every machine (loopback,
unspecified, net masks) say nothing about anybody and stay as well.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from honed.server.store.redaction.number_labels import is_small_word, label_after, label_before
from honed.server.store.redaction.text_spans import Span, merged, walk

# Scripts that are written without spaces run into the address, so a part of it is of one script only.
_LATIN = "A-Za-z0-9À-ÖØ-öø-ɏ"
_FOREIGN = (
    "\u0250-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\ua000-\ufdff\ufe70-\ufeff\U00010000-\U0003ffff"
)
_LABEL = rf"(?:[{_LATIN}](?:[{_LATIN}_-]{{0,62}}[{_LATIN}])?|[{_FOREIGN}][{_FOREIGN}0-9-]{{0,62}})"
_TOP = rf"(?:xn--[A-Za-z0-9-]{{2,59}}|[A-Za-zÀ-ÖØ-öø-ɏ]{{2,24}}|[{_FOREIGN}]{{2,24}})(?![{_LATIN}_])"
_EMAIL = re.compile(
    rf"""(?:(?<![{_LATIN}_.+@-])[{_LATIN}_][{_LATIN}_.+&'~-]{{0,63}}+
        |(?<![{_FOREIGN}_.+@-])[{_FOREIGN}][{_FOREIGN}0-9_.+-]{{0,63}}+
        |"[^"\s@]{{1,62}}")
        (?:@|%40)
        (?P<domain>(?:{_LABEL}\.){{1,8}}{_TOP})""",
    re.VERBOSE,
)
# Against harvesters: jane [at] example [dot] org
_SPELT_OUT = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}+ ?[\[(]at[\])] ?"
    r"(?:[A-Za-z0-9-]{1,63}(?: ?[\[(](?:dot|punkt|punto|point)[\])] ?|\.)){1,6}[A-Za-z]{2,24}(?!\w)"
)
_SHELL_TARGET = re.compile(r"\b(?:ssh|scp|sftp|rsync|mosh|sshfs|ssh-copy-id)\s(?:(?:-\S+|\S*[./]\S*|[0-9]+)\s){0,5}$")
_MESSAGE_ID = re.compile(r"(?i)(?:message-id|in-reply-to|references|content-id|cid)\W{1,4}$")
_FILE_NAMES: Final = """
    png jpg jpeg gif svg webp avif ico bmp tiff pdf css scss js jsx tsx mjs json yaml yml toml xml html txt log csv lock
    exe dll dylib jar whl gz tgz dtype shape grad numpy transpose diag item sum mean local localhost internal invalid
    next beta alpha rc latest canary"""
_NO_TOP_LEVEL: Final = frozenset(_FILE_NAMES.split())


def find_emails(seen: str) -> list[Span]:
    spans: list[Span] = []
    if "@" in seen or "%40" in seen:
        spans = [found.span() for found in _EMAIL.finditer(seen) if _is_email(seen, found)]
    if "at]" in seen or "at)" in seen:
        spans += [found.span() for found in _SPELT_OUT.finditer(seen)]
    return merged(spans)


def _is_email(seen: str, found: re.Match[str]) -> bool:
    start, end = found.span()
    before, after = seen[max(0, start - 48) : start], seen[end : end + 2]
    local, domain = re.split("@|%40", found[0])[0], found["domain"]
    top = domain.rpartition(".")[2].lower()
    is_method = after.startswith(("(", "[")) and (len(local) <= 2 or len(top) > 4)  # of a matrix product
    is_package = top in _NO_TOP_LEVEL or re.match(r"v?\d+\.\d", domain) is not None
    is_account = local in ("git", "hg") or after in (":/", ":~") or _SHELL_TARGET.search(before) is not None
    if is_method or is_package or is_account or _MESSAGE_ID.search(before):
        return False
    # The user in `https://user@host`: not an address, and a password there is another finder's.
    scheme, slashes, rest = before.rpartition("://")
    return not (slashes and re.fullmatch(r"[^/\s?#]*", rest) and not scheme.endswith("mailto"))


_QUAD = re.compile(r"[0-9](?<![\w.].)(?=[0-9]{0,2}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9])", re.ASCII)
_QUAD_END = re.compile(r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w%])(?!\.\w)(?![-+][a-z])", re.ASCII)
_PRODUCT_BEFORE = re.compile(r"[A-Za-z]{2,}[-_]$|[A-Za-z]{3,}/$|(?:==|>=|<=|~=|~>|\^|~)\s?$|§\s?$|\b[vV]\.? $")
_HEADING = re.compile(r"(?:^|[\n>])[#*\s]*$")
_TITLE_AFTER = re.compile(r"\.?[ \t]+[A-ZÀ-Þ][a-zß-ÿ]")
_RESOLVERS: Final = {"1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9"}
_LARGEST_SECTION, _LARGEST_IN_VERSION = 40, 99

_COLONS = re.compile(r"[0-9A-Fa-f:](?<![\w:.].)(?=[0-9A-Fa-f]{0,3}:[0-9A-Fa-f:])", re.ASCII)
_COLONS_END = re.compile(
    r"(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4})(?:%[A-Za-z0-9]{1,15})?(?![\w:])(?!\.\w)",
    re.ASCII,
)


def find_ips(seen: str) -> list[Span]:
    spans: list[Span] = []
    if seen.count(":") >= 2:
        spans += walk(seen, "ip", _COLONS, lambda start, _: _version_6(seen, start))
    if seen.count(".") >= 3:
        taken = {stop for _, stop in spans}  # `::ffff:192.0.2.1` is one address
        quads = walk(seen, "ip", _QUAD, lambda start, before: _version_4(seen, start, before))
        spans += [span for span in quads if span[1] not in taken]
    return sorted(spans)


def _version_4(seen: str, start: int, before: str) -> int:
    found = _QUAD_END.match(seen, start)
    if not found or not _is_somebodys(found[0]):
        return 0
    largest = max(map(int, found[0].split(".")))
    label = label_before(before) or label_after(seen, found.end())
    is_small = largest <= _LARGEST_IN_VERSION and not found[0].startswith("10.")
    if label and label.meaning == "version" and (label.tight or is_small):
        return 0
    if found[0][1] == "." and label is None and _follows_product(before) and found[0] not in _RESOLVERS:
        return 0
    is_heading = largest <= _LARGEST_SECTION and _HEADING.search(before) and _TITLE_AFTER.match(seen, found.end())
    return 0 if is_heading or _PRODUCT_BEFORE.search(before) else found.end()


def _follows_product(before: str) -> bool:
    """`MySQL 8.0.35.1`, `gradle@8.5.0.1`: but not "from 8.0.35.1"."""
    word = re.search(r"([^\W\d_]+)[ @]$", before)
    return word is not None and not is_small_word(word[1])


def _version_6(seen: str, start: int) -> int:
    found = _COLONS_END.match(seen, start)
    if not found:
        return 0
    groups = [group for group in found[0].partition("%")[0].split(":") if group]
    # Clocks, MAC addresses, slices and scopes have short groups or no digit.
    if not any(len(group) >= 3 for group in groups) or not any(char.isdigit() for char in found[0]):
        return 0
    is_long = len(groups) >= 3 or len(groups[0]) == 4 or "." in found[0]
    return found.end() if is_long and _is_somebodys(found[0]) else 0


def _is_somebodys(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    is_mask = address.startswith("255.") or address.endswith(".0.0.0")
    return not (is_mask or parsed.is_loopback or parsed.is_unspecified)
