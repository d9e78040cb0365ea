"""Finds secrets by their name: `password=...`, `api_key: ...`, `"SECRET_TOKEN": "..."`, `mot de passe : ...`.

A name is searched first, as a plain string, since most messages have none; what stands behind it is then read as code,
configuration, markup, a command's option or a sentence would have it. Only the value is a secret, and only if
`secret_values` does not take it for a placeholder, a variable or a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

from honed.server.store.secret_values import is_code, is_high_entropy, is_placeholder, is_secret_password, is_secret_token
from honed.server.store.text_spans import MASK, Span, lowered, merged

Strength = Literal["password", "token", "weak"]

_NAMES: Final[dict[str, Strength]] = {
    name.replace("~", " "): strength
    for strength, names in {
        "password": "password passwd passphrase passcode passwort kennwort contraseña contrasena contrasenya senha wachtwoord "
        "hasło haslo parola parolă şifre sifre lösenord passord heslo jelszó "
        "mot~de~passe motdepasse mot_de_passe mdp pwd passwrd passw _pass -pass dbpass userpass clave palavra-passe κωδικός пароль "
        "密码 密碼 口令 パスワード 暗証番号 비밀번호 암호 पासवर्ड كلمة~المرور كلمة~السر סיסמה סיסמא รหัสผ่าน mật~khẩu",
        "token": "secret secret_key secret-key secret~key secretkey pass token apikey api_key api-key api~key access_key access-key access~key accesskey private_key private~key "
        "private-key privatekey auth_key auth-key authkey account_key accountkey account~key signing_key signing~key "
        "encryption_key encryption~key encryptionkey master_key master-key master~key masterkey shared_key shared~key "
        "storage_key service_key license_key clé~api cle~api clé~d'api clave~api clave~de~api chave~api chave~de~api "
        "chave_api api-schlüssel api~schlüssel geheimnis zugangstoken credential credentials client-secret "
        "密钥 密鑰 秘钥 令牌 apiキー トークン シークレット 토큰 비밀키 токен секрет ключ~api api-ключ",
        "weak": "key auth authorization signature sig cookie session sessionid session_id jwt salt seed "
        "chave schlüssel ключ キー 키",
    }.items()
    for name in names.split()
}
# Few strings that one of is in every ASCII name: most texts have none of them.
_ROOTS: Final = (
    "pass key secret token auth pwd credential sig cookie session jwt salt seed mdp senha parol sifre contrase wort wachtw "
    "clave chave haslo heslo geheim".split()
)
_ASCII_NAMES: Final = {root: [name for name in _NAMES if name.isascii() and root in name] for root in _ROOTS}
_OTHER_NAMES: Final = tuple(name for name in _NAMES if not name.isascii())
# Inside of other words: `compass`, `monkey`, `besides`.
_WHOLE_WORDS: Final = frozenset(name for name in _NAMES if _NAMES[name] == "weak" or len(name) <= 6 and name.isascii())
_NO_SECRETS: Final = re.compile(
    r"(?:public|publishable|primary|foreign|sort|order|partition|cache|unique|idempotency|row|group|object|pad|eos|bos|cls|sep|unk|mask|"
    r"stop|special|next|page|continuation|hash|shortcut|hot|arrow|map|dict|json|natural|composite|hard|random|num|host|answer|trans|palabra|palavra|"
    r"bypass|one|single|first|last|low|high|band|by|max|min|csrf|xsrf|turn|music|piano|minor|major)[_ -]?$"
)
_SUFFIX = r"(?:[_-]?(?:base|prod|production|dev|development|staging|test|live|value|hash_?key|id_?secret|[0-9]{1,2}))?(?![A-Za-z0-9_])"
_IS = r"(?:is|was|ist|war|lautet|es|est|é|è|e'|jest|är|er|adalah|это|है)"
_BETWEEN = r"(?:[ \t](?!(?:is|must|should|was|ist|es|est)\b)[\w'’.-]{1,16}){0,4}?"
_AFTER_NAME = re.compile(
    rf"""{_SUFFIX}
    (?:(?P<code>[\\"'`\])}}]{{0,4}}(?:[ ]?:[ ]?[A-Za-z][\w<>\[\]|.& ]{{0,24}}(?=[ ]?=[^=>]))?[ \t]{{0,8}}(?P<by>=>|:=|={{1,3}}|:|\?\??=?|\|\|=?|->)[ \t]{{0,8}}>?)
    |(?P<attribute>["'][ ]value[ ]?=[ ]?(?=["']))
    |(?P<tag>>)
    |(?P<call>["'],[ ]?(?=["'`]))
    |(?P<setter>\([ ]?(?=["'`]))
    |(?P<option>[ \t]{{1,3}}(?=\S))
    )""",
    re.VERBOSE,
)
_PROSE = re.compile(
    rf"""(?:{_BETWEEN}(?:[ \t]{{1,3}}\([^()\n]{{1,24}}\))?(?:[ \t]{{0,3}}:[ \t]{{0,3}}|[ \t]{{1,3}}{_IS}[ \t]{{0,2}}:?[ \t]{{1,3}})
        |[ \t]?(?:是|为|為|は|는|은|이|가)[ \t:]{{0,3}})""",
    re.VERBOSE | re.IGNORECASE,
)
_CONNECTED = re.compile(rf"[:是为為は는은이가]|[ \t]{_IS}[ \t:]", re.IGNORECASE)
_PROSE_CHARS = 96
_QUOTED = re.compile(r"""[bfruBFRU@]{0,2}\\?(?:"(?P<double>(?:[^"\\\n]|\\[^"\n]){1,400})\\?"|'(?P<single>(?:[^'\\\n]|\\.){1,400})'|`(?P<back>[^`\n]{1,400})`)""")
_BARE = re.compile(rf"(?:[^\s\"'`<>,;&(){{}}\[\]|{MASK}]|&(?!\w{{1,20}}=)){{1,400}}+")
_CALL_NAMES = re.compile(r"(?:define|put|set\w{0,20}|setenv|putenv|add|append|header|with\w{0,20}|env|property)\(\s?[\"']?[\w.-]{0,40}$", re.IGNORECASE)


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
    if name in _WHOLE_WORDS and before[-1:].isalpha() and before[-1:].isascii():
        is_camel = seen[start].isupper() and not seen[start - 1].isupper()
        if not is_camel:
            return False
    return not _NO_SECRETS.search(before)


def _value_behind(seen: str, start: int, end: int, strength: Strength) -> Span | None:
    found = _AFTER_NAME.match(seen, end)
    if found and found["code"] is not None:
        return _value(seen, found.end(), strength, is_tight=not re.search(r"[ \t:]", found["code"]))
    if found and found["tag"] and re.search(r"<[\w:.-]{0,40}$", seen[max(0, start - 41) : start]):
        return _value(seen, found.end(), strength, is_tight=True, ends="<")
    if found and found["attribute"]:
        return _value(seen, found.end(), strength, is_tight=True)
    if found and found["call"] and _CALL_NAMES.search(seen, max(0, start - 60), start):
        return _value(seen, found.end(), strength, is_tight=True)
    if found and found["setter"] and re.search(r"(?i)(?:set|with|update|change|reset|new)_?\w{0,20}$", seen[max(0, start - 30) : start]):
        return _value(seen, found.end(), strength, is_tight=True)
    if found and found["option"] and re.search(r"(?:^|\s)--?[\w-]{0,24}$", seen[max(0, start - 26) : start]):
        return _value(seen, found.end(), strength, is_tight=True)
    is_prose = strength != "weak" and _CONNECTED.search(seen, end, end + _PROSE_CHARS)
    found = _PROSE.match(seen, end) if is_prose else None
    return _value(seen, found.end(), strength, is_tight=False) if found else None


def _value(seen: str, start: int, strength: Strength, *, is_tight: bool, ends: str = "") -> Span | None:
    """`is_tight`: assigned without a space or in a form that only machines read, so that a plain word may be a password."""
    quoted = _QUOTED.match(seen, start)
    if quoted:
        first, last = quoted.span(quoted.lastgroup or 0)
        return (first, last) if _is_secret(seen[first:last], strength, literal=True, quoted=True) else None
    bare = _BARE.match(seen, start)
    if not bare:
        return None
    value = bare[0].rstrip(".,:?)")
    last, follows = start + len(value), seen[bare.end() : bare.end() + 1]
    if ends and follows != ends or is_code(value, follows):
        return None
    literal = is_tight and follows not in (")", ",")
    return (start, last) if value and _is_secret(value, strength, literal=literal, quoted=False) else None


def _is_secret(value: str, strength: Strength, *, literal: bool, quoted: bool) -> bool:
    if strength == "weak":
        return is_high_entropy(value)
    if strength == "token":
        return is_secret_token(value, literal=literal)
    is_phrase = quoted and re.fullmatch(r"[a-z]+(?: [a-z]+){3,}", value) is not None and not is_placeholder(value)
    return is_phrase or is_secret_password(value, literal=literal)
