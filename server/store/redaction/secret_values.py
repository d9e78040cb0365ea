"""Tells a secret from what stands in for one: placeholders, names of variables, words, paths.

Pure functions of the value alone, and of how strongly the name beside it says "secret". They lean towards keeping a
text as it is: an ordinary word that is somebody's password is told from an ordinary word only where it is assigned.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Final

_STANDS_IN: Final = re.compile(
    r"""<.*>? | \$[({].* | \#\{.* | \{.*\} | \[.*\] | %\w+% | %(?:\(\w+\))?[sd] | \$[A-Z_][A-Z0-9_]* | \$[a-z_]+ |
        @\w+@ | __\w+__ | !\w+ | [\w.]+\(.*\) |                        # templates, references and calls
        &\#?\w+;?.* | [*_`]{1,3}\w+[*_`]{1,3} |                       # markup
        \*+\w{0,4} | [xX]+ | \?+ | ([-_.•●*\#xX0])\1+               # a stroke of the pen""",
    re.VERBOSE,
)
_ELIDED: Final = re.compile(r"\{\w*\}|%[sd](?![A-Za-z0-9])|[xX]{5}|\*{3}|\.{3}|…|•{2}|●{2}")
_WORDS_FOR_NOTHING: Final = """
    your my here change changeme changeit insert replace replaceme enter put fill example sample dummy fake
    placeholder todo fixme redacted hidden masked removed omitted secret secrets password passwd passwort kennwort
    contraseña senha pass passphrase pwd pw token tokens key keys apikey api credentials credential test testing
    none null nil undefined true false empty unset default string str text bytes int number bool boolean any object
    required optional missing invalid incorrect wrong valid value values yes no on off unknown disabled enabled
    encrypted plain plaintext raw input output field config env environ environment variable var name user username
    email login auth bearer basic oauth jwt hash hashed type foo bar baz foobar deine dein ihr mein tu su votre mon
    sua seu uw mot passe wachtwoord hasło hier aquí ici aqui same strong weak safe generated random auto reset
    forgot forgotten expired visible session cookie header body param mypassword mysecret yourpassword yoursecret
    yourtoken passwordhere tokenhere"""
_PLACEHOLDER_WORDS: Final = frozenset(_WORDS_FOR_NOTHING.split())
_SECRET_NOUNS: Final = frozenset({"key", "keys", "token", "tokens", "secret", "secrets", "credential", "credentials"})
_STARTS_AS_PLACEHOLDER: Final = re.compile(
    r"(?i)(?:sk[-_]|ghp_|hf_|sk_test_|sk_live_|pk_|xoxb-)?"
    r"(?:(?:your|insert|replace|enter|changeme|change|example|dummy|placeholder|put|todo|some|deine?|tu|votre|sua|seu)"
    r"(?:[-_. ]|$)|your(?:api|secret|token|pass|key|own)|(?:changeme|changeit|replaceme|placeholder)[0-9!]{0,4}$)"
)
_CONSTANT: Final = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*_(?:KEY|TOKEN|SECRET|PASSWORD|PASS|PWD|AUTH|HERE)")
_ALGORITHM: Final = re.compile(
    r"(?i)(?:sha|md|aes|rsa|ecdsa|ed|iso|iec|rfc|utf|base|oauth|tls|ssl|http|nist|fips|bcrypt|argon|pbkdf|scrypt|hmac|"
    r"hs|rs|es|v|gpt|windows|python|java|web|wpa|ws|cl|o|p|x|pkcs|k8s|s3|ec2)[-_ ]?[0-9]{1,5}"
    r"(?:[-_][A-Za-z0-9]{1,8}){0,2}"
)
_IDENTIFIER: Final = re.compile(r"[A-Za-z_]\w{0,40}(?:(?:\.|->|::)[A-Za-z_]\w{0,40})*", re.ASCII)
_WORDS: Final = re.compile(r"[A-Z]?[a-zß-ÿ]+|[A-Z]+(?![a-z])|[^\x00-\x7f]+")
_PATH: Final = re.compile(
    r"(?:~|\.{1,2})?/[\w.@-]+(?:/[\w.@-]*)+|[A-Za-z]:\\.*|(?:https?|file|arn):.*|"
    r"[\w./-]+\.(?:pem|key|txt|json|ya?ml|env|crt)"
)
_LONGEST_PART: Final = 30
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TOKEN_CHARS: Final = re.compile(r"[A-Za-z0-9+/=_.~-]+")
_CHARS_A_WORD = 3  # random letters fall into shorter ones
_CHARS_A_TRUE_WORD = 4
_SHORTEST_HIGH_ENTROPY = 16
_HEX_BITS, _BITS = 2.8, 3.3  # a character; a phrase of words has less, or no digits


def is_placeholder(value: str) -> bool:
    """`<YOUR_KEY>`, `xxxx`, `${VAR}`, `changeme-here`, `your_api_key_here`, and what is masked already."""
    if "\0" in value or _ELIDED.search(value) or _STARTS_AS_PLACEHOLDER.match(value):
        return True
    if _STANDS_IN.fullmatch(value) or _CONSTANT.fullmatch(value):
        return True
    return digits_in(value) <= 3 and not _symbols(value) and _has_placeholder_word(value)


def _has_placeholder_word(value: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(value)]
    if digits_in(value):  # `Password1` and `pg-Secret-77` are somebody's passwords
        return re.search("[-_. ]", value) is not None and all(word in _PLACEHOLDER_WORDS for word in words)
    is_of_words = len(value) >= _CHARS_A_WORD * len(words)
    return is_of_words and any(word in _PLACEHOLDER_WORDS for word in words)


def digits_in(value: str) -> int:
    return sum(char.isdigit() for char in value)


def _symbols(value: str) -> int:
    """Characters that passwords have and identifiers do not."""
    return sum(not char.isalnum() and char not in " -_./:" for char in value)


def kinds_of_characters(value: str) -> int:
    """How many of: letters of one case, letters of both cases mixed, digits, symbols."""
    has_letter = any(char.isalpha() for char in value)
    is_mixed = re.search(r"[a-z][A-Z]|[A-Z]{2}[a-z]", value) is not None
    return has_letter + is_mixed + bool(digits_in(value)) + bool(_symbols(value))


def is_varied(payload: str) -> bool:
    """The part of a token behind its prefix: not a word and not a repeated letter."""
    return len(set(payload)) >= min(8, len(payload) // 2) and kinds_of_characters(payload) > 1


def is_secret_passphrase(value: str) -> bool:
    """Four words or more, in quotes: not what a form or an error says, which begins with a capital letter."""
    return re.fullmatch(r"[a-z]+(?: [a-z]+){3,}", value) is not None and not is_placeholder(value)


def is_secret_password(value: str, *, literal: bool) -> bool:
    """The value of a password's name. `literal`: it stands in quotes, or as it does in an environment file."""
    if _is_no_secret(value):
        return False
    if value.isdigit():
        return len(value) >= 4
    if literal:
        return len(value) >= 5 or (len(value) == 4 and kinds_of_characters(value) >= 2)
    value = value.rstrip("!")  # the sentence's rather than the password's
    has_both = bool(digits_in(value)) and any(char.isalpha() for char in value)
    is_secret = has_both or bool(_symbols(value)) or kinds_of_characters(value) >= 3
    return len(value) >= 5 and ":" not in value and is_secret


def is_secret_token(value: str, *, literal: bool) -> bool:
    """The value of a token's or a key's name: never a bare word, and no number."""
    if _is_no_secret(value):
        return False
    if not any(char.isalpha() for char in value):
        return value.isdigit() and len(value) >= _SHORTEST_HIGH_ENTROPY
    digits, kinds = digits_in(value), kinds_of_characters(value)
    if not literal and _IDENTIFIER.fullmatch(value):
        is_name = bool(_SECRET_NOUNS & {word.lower() for word in _WORDS.findall(value)})
        if is_name or (digits <= 1 and len(value) < 20):
            return False
    if digits or (kinds >= 3 and _symbols(value)):
        return len(value) >= 8 or (len(value) >= 6 and (literal or kinds >= 3))
    return len(value) >= 20 and kinds >= 2 and entropy(value) >= _BITS and "_" not in value


def _is_no_secret(value: str) -> bool:
    is_other = _PATH.fullmatch(value) or _ALGORITHM.fullmatch(value) or " " in value
    return bool(is_other) or is_placeholder(value)


def is_high_entropy(value: str) -> bool:
    """For names that say little (`key`, `auth`): long, of letters and digits, and without words."""
    if len(value) < _SHORTEST_HIGH_ENTROPY or not _TOKEN_CHARS.fullmatch(value) or _UUID.search(value):
        return False
    if is_placeholder(value) or _PATH.fullmatch(value) or not digits_in(value) or value.replace(".", "").isdigit():
        return False
    if re.fullmatch("[0-9a-fA-F]+", value):
        return len(value) >= 32 and entropy(value) >= _HEX_BITS
    words = _WORDS.findall(value)
    is_of_words = sum(map(len, words)) >= _CHARS_A_TRUE_WORD * len(words)
    is_mixed = digits_in(value) >= 3 or kinds_of_characters(value) >= 3
    return is_mixed and not is_of_words and entropy(value) >= _BITS


def is_code(value: str, follows: str, *, literal: bool) -> bool:
    """An unquoted value that names or computes something: `os.environ[`, `get_token(`, `config.password`."""
    if follows[:1] in ("(", "[", "{") or value.endswith(("->", "::", "=>")):
        return True
    if not _IDENTIFIER.fullmatch(value):
        return False
    parts = re.split(r"\.|->|::", value)
    is_dotted = len(parts) > 1 and max(map(len, parts)) <= _LONGEST_PART
    is_snake = "_" in value.strip("_") and (value.islower() or value.isupper())
    return (is_dotted and not literal) or (digits_in(value) <= 2 and (is_dotted or is_snake))


def entropy(value: str) -> float:
    """Bits a character, by how often each occurs in the value."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
