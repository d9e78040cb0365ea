"""Finds secrets by their name: `password=...`, `api_key: ...`, `"SECRET_TOKEN": "..."`, `mot de passe : ...`.

A name is searched first, as a plain string, since most messages have none; what stands behind it is then read as code,
configuration, markup, a command's option or a sentence would have it. Only the value is a secret, and only if
`secret_values` does not take it for a placeholder, a variable or a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

from honed.server.store.redaction.secret_values import (
    is_code,
    is_high_entropy,
    is_secret_passphrase,
    is_secret_password,
    is_secret_token,
)
from honed.server.store.redaction.text_spans import MASK, Span, lowered, merged

Strength = Literal["password", "token", "weak"]

# By how much a name says: after a password's a word may be one, a weak one needs a value that is nothing but random.
# A space in a name is written as a tilde here.
_WORDS: Final[dict[Strength, str]] = {
    "password": """
        password passwd passphrase passcode _pass -pass dbpass userpass pwd pw
        passwort kennwort contraseña contrasena contrasenya clave senha palavra-passe parola parolă
        mot~de~passe mot_de_passe motdepasse mdp wachtwoord hasło haslo heslo jelszó lösenord passord şifre sifre
        κωδικός пароль 密码 密碼 口令 パスワード 暗証番号 비밀번호 암호 पासवर्ड كلمة~المرور كلمة~السر סיסמה סיסמא รหัสผ่าน
        mật~khẩu""",
    "token": """
        secret secret_key secret-key secret~key secretkey client-secret token pass apikey api_key api-key api~key
        access_key access-key access~key accesskey private_key private-key private~key privatekey
        auth_key auth-key authkey account_key account~key accountkey signing_key signing~key
        encryption_key encryption~key encryptionkey master_key master-key master~key masterkey
        shared_key shared~key storage_key service_key license_key credential credentials
        clé~api clé~d'api clave~api clave~de~api chave~api chave~de~api chave_api api-schlüssel api~schlüssel geheimnis
        密钥 密鑰 秘钥 令牌 apiキー トークン シークレット 토큰 비밀키 токен секрет ключ~api api-ключ""",
    "weak": """
        key auth authorization signature sig cookie session sessionid session_id jwt salt seed
        chave schlüssel ключ キー 키""",
}
_NAMES: Final[dict[str, Strength]] = {
    name.replace("~", " "): strength for strength, names in _WORDS.items() for name in names.split()
}
# Few strings that one of is in every ASCII name: most texts have none of them.
_ROOTS: Final = (
    *("pass", "key", "secret", "token", "auth", "pw", "credential", "sig", "cookie", "session", "jwt", "salt", "seed"),
    *("mdp", "senha", "parola", "sifre", "contrase", "wort", "wachtw", "clave", "chave", "haslo", "heslo", "geheim"),
)
_ASCII_NAMES: Final = {root: [name for name in _NAMES if name.isascii() and root in name] for root in _ROOTS}
_OTHER_NAMES: Final = tuple(name for name in _NAMES if not name.isascii())
# Inside of other words: `compass`, `monkey`.
_WHOLE_WORDS: Final = frozenset(
    name for name, strength in _NAMES.items() if strength == "weak" or (len(name) <= 6 and name.isascii())
)
_HARMLESS_WORDS: Final = """
    public publishable primary foreign sort order partition cache unique idempotency row group object pad eos bos cls
    sep unk mask stop special next page continuation hash shortcut hot arrow map dict json natural composite hard random
    num host answer trans palabra palavra bypass one single first last low high band by max min csrf xsrf turn music
    piano minor major"""
_HARMLESS: Final = frozenset(_HARMLESS_WORDS.split())
_WORD_BEFORE = re.compile(r"([^\W\d_]+)[_ -]?$")

_SUFFIX: Final = (
    r"(?:[_-]?(?:base|prod|production|dev|development|staging|test|live|value|[0-9]{1,2}))?(?![A-Za-z0-9_])"
)
_TYPE: Final = r"(?:[ ]?:[ ]?[A-Za-z][\w<>\[\]|.& ]{0,24}(?=[ ]?=[^=>]))?"  # `: str`, before the sign of equality
_AFTER_NAME = re.compile(
    rf"""{_SUFFIX}
    (?:(?P<code>[\\"'`\])}}]{{0,4}}{_TYPE}[ \t]{{0,8}}(?:=>|:=|={{1,3}}|:|\?\??=?|\|\|=?|->)[ \t]{{0,8}}>?)
    |(?P<attribute>["'][ ]value[ ]?=[ ]?(?=["']))
    |(?P<tag>>)
    |(?P<argument>["'],[ ]?(?=["'`]))
    |(?P<setter>\([ ]?(?=["'`]))
    |(?P<option>[ \t]{{1,3}}(?=\S))
    )""",
    re.VERBOSE,
)
_BEFORE_NAME: Final = {
    "code": re.compile(""),
    "attribute": re.compile(""),
    "tag": re.compile(r"<[\w:.-]{0,40}$"),
    "argument": re.compile(
        r"(?i)(?:define|put|set\w{0,20}|putenv|add|append|header|with\w{0,20}|env|property)\(\s?[\"'][\w.-]{0,40}$"
    ),
    "setter": re.compile(r"(?i)(?:set|with|update|change|reset|new)_?\w{0,20}$"),
    "option": re.compile(r"-(?<![\w-]-)[\w-]{0,24}$"),
}
_NAME_CHARS = 64
_IS: Final = r"(?:is|was|ist|war|lautet|es|est|é|è|e'|jest|är|er|adalah|это|है)"
_BETWEEN: Final = (
    r"(?:[ \t](?!(?:is|must|should|was|ist|es|est)\b)[\w'’.-]{1,16}){0,4}?(?:[ \t]{1,3}\([^()\n]{1,24}\))?"
)
_PROSE = re.compile(
    rf"""{_BETWEEN}(?:[ \t]{{0,3}}:(?!//)[ \t]{{0,3}}|[ \t]{{1,3}}{_IS}[ \t]{{0,2}}:?[ \t]{{1,3}})
        |[ \t]?(?:是|为|為|は|는|은|이|가)[ \t:]{{0,3}}""",
    re.VERBOSE | re.IGNORECASE,
)
_CONNECTION = re.compile(rf":(?!//)|[是为為は는은이가]|[ \t]{_IS}[ \t:]", re.IGNORECASE)
_PROSE_CHARS = 96
_QUOTED = re.compile(
    r"""[bfruBFRU@]{0,2}\\?
    (?:"(?P<double>(?:[^"\\\n]|\\[^"\n]){1,400})\\?"|'(?P<single>(?:[^'\\\n]|\\.){1,400})'|`(?P<back>[^`\n]{1,400})`)""",
    re.VERBOSE,
)
_BARE = re.compile(rf"(?:[^\s\"'`<>,;&(){{}}\[\]|{MASK}]|&(?!\w{{1,20}}=)){{1,400}}+")


def find_assigned_secrets(seen: str) -> list[Span]:
    low = lowered(seen)
    names = {name for root in _ROOTS if root in low for name in _ASCII_NAMES[root] if name in low}
    if not seen.isascii():
        names.update(name for name in _OTHER_NAMES if name in low)
    return merged([span for name in names for span in _values_of(name, seen, low)])


def _values_of(name: str, seen: str, low: str) -> Iterator[Span]:
    start = low.find(name)
    while start >= 0:
        end = start + len(name)
        if _is_name(name, start, seen, low) and (span := _value_behind(seen, start, end, _NAMES[name])):
            yield span
            end = span[1]
        start = low.find(name, end)


def _is_name(name: str, start: int, seen: str, low: str) -> bool:
    before = low[max(0, start - 24) : start]
    is_inside = name in _WHOLE_WORDS and before[-1:].isalpha() and before[-1:].isascii()
    if is_inside and not (seen[start].isupper() and seen[start - 1].islower()):  # `dbKey` has a name inside
        return False
    word = _WORD_BEFORE.search(before)
    return word is None or word[1] not in _HARMLESS


def _value_behind(seen: str, start: int, end: int, strength: Strength) -> Span | None:
    found = _AFTER_NAME.match(seen, end)
    form = found.lastgroup if found else None
    if found and form and _BEFORE_NAME[form].search(seen[max(0, start - _NAME_CHARS) : start]):
        is_tight = form != "option" and not (form == "code" and re.search(r"[ \t:]", found[form]))
        return _value(seen, found.end(), strength, is_tight=is_tight, must_end="<" if form == "tag" else "")
    if strength == "weak" or not _CONNECTION.search(seen, end, end + _PROSE_CHARS):
        return None
    prose = _PROSE.match(seen, end)
    return _value(seen, prose.end(), strength, is_prose=True) if prose else None


def _value(
    seen: str, start: int, strength: Strength, *, is_tight: bool = False, is_prose: bool = False, must_end: str = ""
) -> Span | None:
    """`is_tight`: assigned without a space or as only machines read it, so that a plain word may be a password."""
    if quoted := _QUOTED.match(seen, start):
        first, last = quoted.span(quoted.lastgroup or 0)
        value = seen[first:last]
        is_phrase = strength == "password" and is_secret_passphrase(value)
        return (first, last) if is_phrase or _is_secret(value, strength, literal=not is_prose) else None
    bare = _BARE.match(seen, start)
    value = bare[0].rstrip(".,:?)") if bare else ""
    if not bare or not value:
        return None
    follows = seen[bare.end() : bare.end() + 1]
    literal = is_tight and follows not in (")", ",")
    if (must_end and follows != must_end) or is_code(value, follows, literal=literal):
        return None
    return (start, start + len(value)) if _is_secret(value, strength, literal=literal) else None


def _is_secret(value: str, strength: Strength, *, literal: bool) -> bool:
    if strength == "weak":
        return is_high_entropy(value)
    return (is_secret_token if strength == "token" else is_secret_password)(value, literal=literal)
