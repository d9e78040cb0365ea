"""Finds secrets by what they look like: tokens with a known prefix, private keys, passwords in URLs and headers.

Sources: each service's documentation of its tokens; RFC 7519 (JWT), RFC 7468 (PEM), RFC 6750 (bearer), RFC 3986
(user information in a URL). Public halves (certificates, public keys, publishable keys) are no secrets.
Lengths are lower bounds on purpose: services have changed them, prefixes they keep.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from honed.server.store.redaction.secret_values import (
    digits_in,
    entropy,
    is_placeholder,
    is_secret_password,
    is_varied,
    kinds_of_characters,
)
from honed.server.store.redaction.text_spans import Span, merged

_LONG_WORD = 16  # no token is shorter
_WORD_CHARS: Final = r"(?<![A-Za-z0-9_-])"

# What is in the text if the token is, and the token; where it has a group, the secret is the group.
_TOKENS: Final = tuple(
    (needle, re.compile(_WORD_CHARS + pattern))
    for needle, pattern in (
        ("sk-", r"sk-(?!ecdsa|ssh)[A-Za-z0-9_-]{16,}+"),  # OpenAI, Anthropic, OpenRouter, DeepSeek
        ("AKIA", r"AKIA[A-Z0-9]{16}(?![A-Za-z0-9])"),
        ("ASIA", r"ASIA[A-Z0-9]{16}(?![A-Za-z0-9])"),
        ("gh", r"gh[pousr]_[A-Za-z0-9]{20,}+"),
        ("github_pat_", r"github_pat_[A-Za-z0-9_]{20,}+"),
        ("gl", r"gl(?:pat|dt|rt|cbt|ptt|ft|soat|imt|agent|oas)-[A-Za-z0-9_.-]{18,}+"),
        ("xox", r"xox[abeoprs]-[A-Za-z0-9-]{10,}+"),
        ("xapp-", r"xapp-[A-Za-z0-9-]{16,}+"),
        ("hooks.slack.com", r"https://hooks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9_/+-]{16,}+)"),
        ("webhooks/", r"https://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/([0-9]{10,}/[A-Za-z0-9_-]{20,}+)"),
        ("_live_", r"(?:sk|rk)_live_[A-Za-z0-9]{10,}+"),  # Stripe
        ("_test_", r"(?:sk|rk)_test_[A-Za-z0-9]{10,}+"),
        ("whsec_", r"whsec_[A-Za-z0-9+/=]{16,}+"),
        ("AIza", r"AIza[A-Za-z0-9_-]{30,}+"),  # Google
        ("ya29.", r"ya29\.[A-Za-z0-9_-]{16,}+"),
        ("GOCSPX-", r"GOCSPX-[A-Za-z0-9_-]{16,}+"),
        ("1//0", r"1//0[A-Za-z0-9_-]{30,}+"),
        ("hf_", r"hf_[A-Za-z0-9]{20,}+"),
        ("eyJ", r"eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]*){0,3}+"),  # JWT, JWE
        ("npm_", r"npm_[A-Za-z0-9]{20,}+"),
        ("pypi-", r"pypi-[A-Za-z0-9_-]{20,}+"),
        ("SG.", r"SG\.[A-Za-z0-9_-]{10,}+\.[A-Za-z0-9_-]{10,}+"),  # SendGrid
        ("SK", r"SK[0-9a-f]{32}(?![A-Za-z0-9])"),  # Twilio
        ("AC", r"AC[0-9a-f]{32}(?![A-Za-z0-9])"),
        (":AA", r"[0-9]{8,10}:AA[A-Za-z0-9_-]{30,}+"),  # Telegram
        ("M", r"[MNO][A-Za-z0-9_-]{22,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,}+"),  # Discord
        ("_v1_", r"do[opr]_v1_[0-9a-f]{32,}+"),  # DigitalOcean
        ("shp", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{24,}+"),  # Shopify
        ("sq0", r"sq0[a-z]{3}-[A-Za-z0-9_-]{20,}+"),  # Square
        ("EAA", r"EAA[A-Za-z0-9]{40,}+"),  # Facebook, Square
        ("dapi", r"dapi[0-9a-f]{32}(?:-[0-9])?"),  # Databricks
        ("dckr_", r"dckr_[a-z]{3}_[A-Za-z0-9_-]{20,}+"),
        ("key-", r"key-[0-9a-f]{32}(?![A-Za-z0-9])"),  # Mailgun
        ("-us", r"[0-9a-f]{32}-us[0-9]{1,2}(?![0-9])"),  # Mailchimp
        ("xkeysib-", r"xkeysib-[0-9a-f]{32,}+-[A-Za-z0-9]{8,}+"),
        ("lin_api_", r"lin_api_[A-Za-z0-9]{20,}+"),
        ("ntn_", r"ntn_[A-Za-z0-9]{30,}+"),  # Notion
        ("secret_", r"secret_[A-Za-z0-9]{40,}+"),
        ("fig", r"fig[dou]r?_[A-Za-z0-9_-]{20,}+"),  # Figma
        ("gl", r"gl(?:sa|c)_[A-Za-z0-9_=+/]{20,}+"),  # Grafana
        ("gsk_", r"gsk_[A-Za-z0-9]{20,}+"),  # Groq
        ("xai-", r"xai-[A-Za-z0-9]{20,}+"),
        ("pplx-", r"pplx-[A-Za-z0-9]{20,}+"),
        ("r8_", r"r8_[A-Za-z0-9]{20,}+"),  # Replicate
        ("hv", r"hv[sbr]\.[A-Za-z0-9_-]{20,}+"),  # Vault
        (".atlasv1.", r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{40,}+"),
        ("AGE-SECRET-KEY-", r"AGE-SECRET-KEY-1[0-9A-Z]{30,}+"),
        ("tskey-", r"tskey-[a-z]+-[A-Za-z0-9]{8,}+-?[A-Za-z0-9]*"),
        ("PMAK-", r"PMAK-[0-9a-f]{20,}+-?[0-9a-f]*"),
        ("NRAK-", r"NRAK-[A-Z0-9]{20,}+"),
        ("rubygems_", r"rubygems_[0-9a-f]{32,}+"),
        ("sbp_", r"sbp_[0-9a-f]{32,}+"),
        ("sb_secret_", r"sb_secret_[A-Za-z0-9_-]{16,}+"),
        ("sntry", r"sntry[su]_[A-Za-z0-9+/=_-]{20,}+"),
        ("ATATT3", r"ATATT3[A-Za-z0-9_=-]{30,}+"),  # Atlassian
        ("pscale_", r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.=-]{20,}+"),
        ("Q~", r"[A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.-]{30,}+"),  # Azure
        ("ops_", r"ops_eyJ[A-Za-z0-9_=-]{20,}+"),
        ("glffct-", r"glffct-[A-Za-z0-9_-]{20,}+"),
    )
)
_AMAZON_SECRET = re.compile(r"(?<![A-Za-z0-9/+=_.-])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=_-])")
_AMAZON_BITS = 4.3  # a character; names of forty letters have less
_KEY_BEGIN: Final = r"-----BEGIN [A-Z0-9 ]{0,24}PRIVATE KEY(?: BLOCK)?-----"
_KEY_END: Final = r"-----END [A-Z0-9 ]{0,24}PRIVATE KEY(?: BLOCK)?-----"
_PRIVATE_KEY = re.compile(rf"{_KEY_BEGIN}(?:(?:[^-]|-(?!----))*+{_KEY_END}|(?:[A-Za-z0-9+/=]|\\[nr]|\s)*+)")
_KEY_DATA = re.compile(r"[A-Za-z0-9+/=]{16}")
_URL_PASSWORD = re.compile(
    r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:/?#@\"'<>]{0,80}:([^\s/\"'<>]{1,160})@(?=[^\s@])"
)
_TRIVIAL_PASSWORDS: Final = frozenset({"password", "passwd", "pass", "pwd", "secret", "passwort", "senha"})
_HEADER = re.compile(
    r"""(?i:(?P<header>\b(?:proxy-)?authorization["']?\s{0,2}[:=]\s{0,2}["']?
            (?:(?:bearer|basic|token|digest|apikey|api-key|bot|key)\s{1,3})?)
        |\bbearer\s{1,3})(?P<value>[A-Za-z0-9._~+/=:-]{8,4096}+)""",
    re.VERBOSE,
)
_ARGUMENTS: Final = tuple(
    (needle, re.compile(rf"(?i:{pattern})(?P<value>[^\s\"'|;&]{{4,100}}+)"))
    for needle, pattern in (
        ("curl", r"\bcurl\b[^\n|;]{0,200}?\s(?:-u|--user)[ =]?[\"']?[^\s:\"']{1,64}:"),
        ("sshpass", r"\bsshpass\s+-p\s?[\"']?"),
        ("mysql", r"\bmysql(?:dump|admin)?\b[^\n|;]{0,80}?\s-p(?=\S)[\"']?"),
        ("redis-cli", r"\bredis-cli\b[^\n|;]{0,80}?\s-a\s[\"']?"),
        ("login", r"\b(?:docker|helm|podman|az)\b[^\n|;]{0,20}\blogin\b[^\n|;]{0,120}?\s-p[ =][\"']?"),
        ("login", r"\blogin\s{1,9}\S{1,64}\s{1,9}password\s{1,9}[\"']?"),  # .netrc
        ("identified", r"\bidentified\s{1,9}by\s{1,9}(?:password\s{1,9})?[\"']"),  # SQL
        ("password '", r"\b(?:user|role|login|with)\b[^\n;]{0,80}?\bpassword\s'"),
    )
)


def find_secret_shapes(seen: str) -> list[Span]:
    """Overlapping spans are merged: a token in a header is one secret."""
    low = seen.lower()  # only to ask what is in it: its length may differ
    spans = [*_private_keys(seen), *_url_passwords(seen), *_headers(seen, low), *_arguments(seen, low)]
    ascii_only = seen if seen.isascii() else seen.encode("ascii", "replace").decode().replace("?", " ")
    if long_words := " ".join([word for word in ascii_only.split() if len(word) >= _LONG_WORD]):
        spans += [*_tokens(seen, long_words), *_amazon_secrets(seen, low)]
    return merged(spans)


def _tokens(seen: str, long_words: str) -> Iterator[Span]:
    for needle, pattern in _TOKENS:
        if needle in long_words:
            for found in pattern.finditer(seen):
                start, end = found.span(1 if pattern.groups else 0)
                token = seen[start:end].rstrip("-_.")
                payload = token.removeprefix(needle)
                if _is_real(token, payload):
                    yield start, start + len(token)


def _is_real(token: str, payload: str) -> bool:
    """No placeholder (`sk-your-key-here`) and no hyphenated words (`sk-learn-pipeline-notes`)."""
    if is_placeholder(token) or is_placeholder(payload) or not is_varied(payload):
        return False
    digits = digits_in(payload)
    return digits >= 2 or ((digits == 1 or "-" not in payload) and kinds_of_characters(payload) >= 2)


def _amazon_secrets(seen: str, low: str) -> Iterator[Span]:
    """They have no prefix: told from a hash by its letters of both cases, and only where the service is spoken of."""
    if "AKIA" in seen or "ASIA" in seen or "aws" in low or "amazon" in low:
        for found in _AMAZON_SECRET.finditer(seen):
            letters_and_digits = re.sub("[/+]", "", found[0])
            is_mixed = kinds_of_characters(letters_and_digits) >= 3 and digits_in(found[0]) >= 2
            if is_mixed and entropy(found[0]) >= _AMAZON_BITS:
                yield found.span()


def _private_keys(seen: str) -> Iterator[Span]:
    if "PRIVATE KEY" in seen:
        for found in _PRIVATE_KEY.finditer(seen):
            if _KEY_DATA.search(found[0].replace("PRIVATE KEY", "")):
                yield found.start(), found.start() + len(found[0].rstrip())


def _url_passwords(seen: str) -> Iterator[Span]:
    if "://" in seen and "@" in seen:
        for found in _URL_PASSWORD.finditer(seen):
            if len(found[1]) > 2 and not is_placeholder(found[1]) and found[1].lower() not in _TRIVIAL_PASSWORDS:
                yield found.span(1)


def _headers(seen: str, low: str) -> Iterator[Span]:
    if "bearer" in low or "authorization" in low:
        for found in _HEADER.finditer(seen):
            value = found["value"].rstrip(".,:")
            is_long = found["header"] is not None or len(value) >= _LONG_WORD
            if is_long and is_varied(value) and not is_placeholder(value):
                yield found.start("value"), found.start("value") + len(value)


def _arguments(seen: str, low: str) -> Iterator[Span]:
    for needle, pattern in _ARGUMENTS:
        if needle in low:
            for found in pattern.finditer(seen):
                if is_secret_password(found["value"], literal=True):
                    yield found.span("value")
