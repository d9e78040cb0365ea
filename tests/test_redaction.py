"""What is redacted, what stays although it looks alike, and that no text whatever breaks it."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from honed.server.store import redaction
from honed.server.store.redaction import KINDS, Redaction, redact
from honed.server.store.redaction.text_spans import PLACEHOLDERS

MEGABYTE = 1_000_000


def cases(text: str) -> list[tuple[str, str]]:
    """Lines of `before -> after`; a line without an arrow is replaced whole."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return [(before, after) for before, _, after in (line.partition(" -> ") for line in lines)]


def check(kind: str, before: str, after: str) -> None:
    result = redact(before)
    assert result.text == (after or PLACEHOLDERS[kind])
    assert set(result.counts) == {kind}
    assert redact(result.text) == Redaction(result.text, {})


EMAILS = """
    Write to jane.doe+news@mail.example.co.uk. -> Write to [EMAIL].
    "Jane" <jane_doe@example.org>, bob@example.org;al@example.org -> "Jane" <[EMAIL]>, [EMAIL];[EMAIL]
    mailto:o'brien@example.ie?subject=Hi -> mailto:[EMAIL]?subject=Hi
    an jürgen.müller@bücher.de -> an [EMAIL]
    иван@пример.рф
    राम@उदाहरण.भारत
    我的邮箱是wang@163.com，谢谢 -> 我的邮箱是[EMAIL]，谢谢
    jane＠example.com
    ?to=jane%40example.com&x=1 -> ?to=[EMAIL]&x=1
    jane [at] example [dot] org
    info@xn--mnchen-3ya.de
"""


@pytest.mark.parametrize(("before", "after"), cases(EMAILS))
def test_emails(before: str, after: str) -> None:
    check("email", before, after)


PHONES = """
    Call me at (555) 867-5309 tonight -> Call me at [PHONE] tonight
    +1 (415) 555-2671 ext. 89
    1-800-555-0199
    +44 (0)20 7946 0958
    07700 900123
    Tel. 030/1234567 oder 0151 23456789 -> Tel. [PHONE] oder [PHONE]
    0049 151 23456789
    (+49) 171 1234567
    06 12 34 56 78
    mon portable : 0612345678 -> mon portable : [PHONE]
    Mi móvil es el 612 345 678 -> Mi móvil es el [PHONE]
    chiamami al 3331234567 -> chiamami al [PHONE]
    (11) 91234-5678
    9876543210 पर कॉल करें -> [PHONE] पर कॉल करें
    मेरा मोबाइल नंबर ९८७६५४३२१० है -> मेरा मोबाइल नंबर [PHONE] है
    我的手机号是13812345678 -> 我的手机号是[PHONE]
    电话：０１０－６２３４５６７８ -> 电话：[PHONE]
    電話番号は03-1234-5678です -> 電話番号は[PHONE]です
    zadzwoń pod 601 234 567 -> zadzwoń pod [PHONE]
    тел. 89161234567 -> тел. [PHONE]
    هاتف: 0501234567 -> هاتف: [PHONE]
    {"customerPhone": "5558675309"} -> {"customerPhone": "[PHONE]"}
    https://wa.me/4915112345678 -> https://wa.me/[PHONE]
    555-0199 (mobile) -> [PHONE] (mobile)
    phones: 5551234567, 5559876543,5551112222 -> phones: [PHONE], [PHONE],[PHONE]
    +49 30 1234567+49 30 1234568 -> [PHONE][PHONE]
"""


@pytest.mark.parametrize(("before", "after"), cases(PHONES))
def test_phones(before: str, after: str) -> None:
    check("phone", before, after)


CARDS = """
    4111 1111 1111 1111
    4111-1111-1111-1111, exp. 12/27 -> [CARD], exp. 12/27
    4242424242424242 123 -> [CARD] 123
    3782 822463 10005
    paid with 5555555555554444. -> paid with [CARD].
    卡号：6222021234567890128 -> 卡号：[CARD]
    card=4222222222222&cvc=1 -> card=[CARD]&cvc=1
"""
IBANS = """
    DE89 3704 0044 0532 0130 00
    gb82west12345698765432
    auf de89-3704-0044-0532-0130-00 bitte -> auf [IBAN] bitte
    FR14 2004 1010 0505 0001 3M02 606
    NO9386011117947
"""
IPS = """
    203.0.113.42 - - "GET / HTTP/1.1" -> [IP] - - "GET / HTTP/1.1"
    http://10.1.2.3:8080/ -> http://[IP]:8080/
    172.16.254.1/24 -> [IP]/24
    fe80::1ff:fe23:4567:890a%eth0
    [2001:db8::1]:443 -> [[IP]]:443
    ::ffff:192.0.2.128
    Version 2.1 runs on host 10.0.0.5 -> Version 2.1 runs on host [IP]
"""
NATIONAL_NUMBERS = """
    123-45-6789
    SSN: 536904399 -> SSN: [SSN]
    AB 12 34 56 C
    numéro de sécu 1 85 05 78 006 084 91 -> numéro de sécu [SSN]
    Steuer-ID 86095742719 -> Steuer-ID [SSN]
    12345678Z
    X1234567L
    mrtmtt91d08f205j
    529.982.247-25
    Aadhaar 2341 2341 2346 -> Aadhaar [SSN]
    身份证号11010519491231002X -> 身份证号[SSN]
    BSN 111222333 -> BSN [SSN]
    mój PESEL to 44051401359 -> mój PESEL to [SSN]
    811218-9876
    756.9217.0769.85
"""


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        (kind, *case)
        for kind, text in (("card", CARDS), ("iban", IBANS), ("ip", IPS), ("ssn", NATIONAL_NUMBERS))
        for case in cases(text)
    ],
)
def test_numbers_with_a_check_or_a_shape(kind: str, before: str, after: str) -> None:
    check(kind, before, after)


SECRETS = """
    key sk-proj-abcdEFGH1234ijklMNOP5678 -> key [SECRET]
    sk-ant-api03-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789
    AKIAI44QH8DHBEXAMPLE / je7MtGbClwBF/2Zp9Utk/h3yCo8nvbEXAMPLEKEY -> [SECRET] / [SECRET]
    ghp_16C7e42F292c6912E7710c838347Ae178B4a
    glpat-abcDEF123ghiJKL456mn
    xoxb-123456789012-AbCdEfGhIjKlMnOp
    sk_live_51H8abcDEF123ghiJKL456
    AIzaSyA1234567890abcdefghijklmnopqrstuv
    eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P
    bot 110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw8 -> bot [SECRET]
    Authorization: Bearer abc123def456ghi789 -> Authorization: Bearer [SECRET]
    postgres://admin:S3cr3t@db:5432/app -> postgres://admin:[SECRET]@db:5432/app
    password=hunter2 -> password=[SECRET]
    DB_PASS='zaq12wsx' -> DB_PASS='[SECRET]'
    const apiKey: string = "9f8e7d6c5b4a3928"; -> const apiKey: string = "[SECRET]";
    {\\"token\\": \\"f3a9c1d2e4b5a697\\"} -> {\\"token\\": \\"[SECRET]\\"}
    <password>Pa55word!</password> -> <password>[SECRET]</password>
    Server=db;Password=MyP@ss1; -> Server=db;Password=[SECRET];
    define('DB_PASSWORD', 'wp_P4ssw0rd'); -> define('DB_PASSWORD', '[SECRET]');
    curl -u admin:s3cr3tpw https://x -> curl -u admin:[SECRET] https://x
    mysql -u root -pS3cretPass db -> mysql -u root -p[SECRET] db
    --api-key abc123def456 -> --api-key [SECRET]
    key = "kJ8sD0fQ2mN5xV7bT1yR4wZ6" -> key = "[SECRET]"
    passphrase: "correct horse battery staple" -> passphrase: "[SECRET]"
    my password is Tr0ub4dor&3 -> my password is [SECRET]
    Das Passwort für das WLAN lautet Katze#2019 -> Das Passwort für das WLAN lautet [SECRET]
    mot de passe : Soleil2024 -> mot de passe : [SECRET]
    contraseña: MiPerro2020 -> contraseña: [SECRET]
    a senha é futebol10 -> a senha é [SECRET]
    密码：Abc12345 -> 密码：[SECRET]
"""


@pytest.mark.parametrize(("before", "after"), cases(SECRETS))
def test_secrets(before: str, after: str) -> None:
    check("secret", before, after)


@pytest.mark.parametrize("ending", ["\n-----END RSA PRIVATE KEY-----", ""])
def test_a_private_key_goes_whole_even_if_its_end_is_missing(ending: str) -> None:
    key = f"-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEAx1234567890abcdef{ending}"
    assert redact(f"see:\n{key}").text == "see:\n[SECRET]"


LOOK_ALIKES = """
    @app.route("/x") and @media (max-width: 600px)
    git clone git@github.com:org/repo.git
    scp a.txt deploy@web.example.com:/srv
    lodash@4.17.21, icon@2x.png, A@B.T, x@w.transpose(0)
    @user@mastodon.social
    Message-ID: <20240115.1@mail.example.com>
    https://user@host.example.com/x
    Order #5551234567, order number 5551234567
    订单号：13812345678
    N° de commande 0612345678
    Part no. 415-555-2671
    2024-01-15T10:30:00Z, 15.01.2024 10:30, 01/02/2024 12:00
    ISBN 978-3-16-148410-0, ISBN 0-306-40615-2
    550e8400-e29b-41d4-a716-446655440000 12345678-1234-1234-1234-123456789012
    commit 9fceb02d0ae598e95dc970b74767f19372d61af8
    40.7128, -74.0060 and lat=48.858844&lon=2.294351
    $1,234,567.89 or 1 234 567,89 €
    1+12345678 = 12345679, 2^31 = 2147483648
    1700000000123
    Boston, MA 02110-1301
    4111 1111 1111 1112
    1234 4111 1111 1111 1111 9999
    DE89 3704 0044 0532 0130 01, NL91 ABNA 0417 1643 01
    1.2.3 v1.2.3.4 foo==1.2.3.4 lib-1.2.3.4.jar 1.2.3.4.5 256.1.1.1
    version 10.0.19.1, upgraded from 10.4.2.1 to 10.5.0.2
    ### 2.3.1.4 Results, fig. 3.2.1.1, MySQL 8.0.35.1
    127.0.0.1 0.0.0.0 ::1 255.255.255.0
    12:34:56 00:1A:2B:3C:4D:5E 00-14-22-01-23-45 x[1::2] std::dec::x
    000-12-3456 666-45-6789 order 123-45-6789
    CPF 529.982.247-24, DNI 12345678A, PESEL 44051401358, BSN 111222334
    password=<YOUR_PASSWORD> password=xxxx password=${DB_PASSWORD} password="{{ vault }}"
    password = os.environ["DB_PASSWORD"]; token = get_token(); self.password = password
    api_key: changeme-here, api_key="your_api_key_here", key: "name", max_tokens: 4096
    postgres://user:${PASS}@localhost/db postgres://user:password@localhost/db
    Authorization: Bearer $TOKEN; Authorization: Bearer <token>
    sk-xxxxxxxxxxxxxxxxxxxxxxxx sk-your-key-here sk-learn-based-pipeline-for-text
    -----BEGIN PUBLIC KEY----- MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A -----END PUBLIC KEY-----
    the secret of success is hard work; password must be at least 8 characters
    public_key = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A", cache_key = "user:1234:profile"
    request_id: 550e8400-e29b-41d4-a716-446655440000
"""


@pytest.mark.parametrize("text", [before for before, _ in cases(LOOK_ALIKES)])
def test_what_only_looks_alike_stays(text: str) -> None:
    assert redact(text) == Redaction(text, {})


def test_each_kind_is_counted_and_counts_can_be_stored() -> None:
    result = redact(
        "jane@example.com, bob@example.com, +49 30 1234567, 4111 1111 1111 1111, DE89370400440532013000, "
        "10.1.2.3, 123-45-6789, password=hunter2"
    )
    assert json.loads(json.dumps(result.counts)) == {kind: 2 if kind == "email" else 1 for kind in KINDS}
    assert result.counts["email"] == 2


def test_a_long_list_behind_one_word_is_found_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The word is further from the last number than a context reaches: what was found in between carries it."""
    monkeypatch.setattr(redaction, "MAX_PASSES", 2)
    numbers = [f"55512340{index:02}" for index in range(50)]
    assert redact(f"phones: {', '.join(numbers)}").counts == {"phone": 50}


def test_placeholders_are_no_context() -> None:
    for placeholder in PLACEHOLDERS.values():
        text = f"{placeholder} 5551234567 {placeholder}: hunter2 {placeholder}=hunter2"
        assert redact(text) == Redaction(text, {})


def test_a_text_that_never_comes_to_rest_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_pass", lambda text: (text, redaction.Counter(email=1)))
    result = redact("a")
    assert result.text == "[SECRET]"
    assert result.counts == {"email": redaction.MAX_PASSES, "secret": 1}


FRAGMENTS = [
    before for text in (EMAILS, PHONES, CARDS, IBANS, IPS, NATIONAL_NUMBERS, SECRETS) for before, _ in cases(text)
]
GLUE = [
    "",
    " ",
    ", ",
    "\n",
    "-",
    "/",
    ".",
    ":",
    "=",
    "@",
    "+",
    '"',
    "\0",
    "\ud800",
    "İ",
    "[PHONE]",
    "[SECRET]",
    "call ",
    "order ",
]


@given(
    st.lists(st.tuples(st.sampled_from(GLUE), st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=8))), max_size=8)
)
@example([("", "+49 30 1234567")] * 20)
@settings(deadline=None)
def test_redacting_again_finds_nothing(parts: list[tuple[str, str]]) -> None:
    once = redact("".join(glue + fragment for glue, fragment in parts))
    assert redact(once.text) == Redaction(once.text, {})


@given(st.text(st.characters(), max_size=200))
@settings(deadline=None)
def test_any_text_is_taken(text: str) -> None:
    once = redact(text)
    assert redact(once.text) == Redaction(once.text, {})


# That each ends is the assertion: a pattern that is not linear takes hours for a megabyte.
@pytest.mark.parametrize(
    "unit",
    [
        *("1", "a", ".", "@", "-", " ", ":", "+", "(", "[", "\0", "\n", "\ud800", "İ", "电"),
        *("1 ", "1.", "1-", "a.", "a@", "a:", "(1)", "+1 ", "4111 ", "0612 ", "DE89 ", "a@a.a", "x'", "eyJ", "sk-"),
        *("password", "password=", 'password="', "password is ", "key: ", "bearer ", "curl -u a:", "docker login "),
        *("http://a:", "-----BEGIN PRIVATE KEY-----", "[EMAIL]", "电话1", "mot de passe ", "with password "),
    ],
    ids=repr,
)
def test_a_megabyte_of_anything(unit: str) -> None:
    redact(unit * (MEGABYTE // len(unit)) + "@")


def test_a_megabyte_of_what_is_found() -> None:
    unit = "\n".join(FRAGMENTS)
    times = MEGABYTE // len(unit)
    counts = redact("\n\n".join([unit] * times)).counts
    assert counts == {kind: count * times for kind, count in redact(unit).counts.items()}
