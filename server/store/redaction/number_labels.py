"""What the words beside a number say that it is.

Owns the words: a bare run of digits is a phone number after "call" and an order number after "order", in whatever
language. The word nearest to the number decides. Does not look at the number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from honed.server.store.redaction.text_spans import MASK

Meaning = Literal["phone", "social", "identity", "version", "host", "other"]

MAX_WORDS_BETWEEN = 5
CLOSE_STEM_CHARS = 14
AFTER_CHARS = 28

# Two words are joined by an underscore; a compound is looked up whole.
_WORDS: Final[dict[Meaning, str]] = {
    "phone": """
        phone phones telephone phonenumber fon tel telnr telno tele mobile cell cellphone cellular fax faxnummer
        whatsapp whats_app wa_me sms call calling dial text_me text_us texting ring landline hotline helpline
        voicemail reach reach_me reachable facetime pager callback contact hit_me me_up my_digits a_text my_number
        your_number his_number her_number telefon telefonnummer telefonnr handy handynummer handynr mobil
        mobilnummer mobiltelefon mobilnr rufnummer durchwahl festnetz festnetznummer anrufen anruf ruf rufen ruft
        angerufen rückruf zurückrufen telefonisch kontakt meine_nummer deine_nummer mon_numéro mi_número mi_numero
        meu_número il_numero mio_numero mijn_nummer mój_numer téléphone telephone tél portable appelez appeler
        appelle appelez_moi joindre joignable fixe teléfono telefono tfno tlf tlfno móvil movil celular cel llama
        llamar llame llamame llámame llámeme llámanos fijo cellulare chiama chiamami chiamare chiamatemi chiamate
        recapito telefone telemóvel telemovel ligue ligar liga_pra fone zap zapzap fixo contacto contato contatto
        telefoon telefoonnummer mobiel gsm bel bellen mobieltje komórka kom komórkowy zadzwoń dzwoń telefonu
        numer_telefonu telefonie telefonnr mobiltelefonnummer ringa ring_mig tlfnr telefonnumero puhelin
        puhelinnumero matkapuhelin cep_telefonu telefonum arayın telepon telp nomor_hp hubungi điện_thoại sđt
        số_điện gọi телефон телефона телефону тел моб мобильный мобильник звоните позвоните позвони звони звонить
        номер_телефона факс телефоном τηλέφωνο κινητό τηλ""",
    "social": "ssn ssns social_security socialsecurity itin taxpayer taxpayer_id",
    "identity": """
        nino national_insurance ni_number ni_no nin national_id national_identity identity_number id_card
        identity_card personal_number personal_id citizen_id tax_id tax_identification tin tax_number fiscal_code
        nir sécurité_sociale securite_sociale secu sécu insee numéro_fiscal steuer_id steuerid
        steuer_identifikationsnummer steueridentifikationsnummer steuer_idnr idnr steuernummer identifikationsnummer
        steuerliche id_nr dni nie nif codice_fiscale cf cpf aadhaar aadhar adhaar uidai bsn burgerservicenummer
        sofinummer sofi pesel pesela peselu numer_pesel personnummer personnr samordningsnummer pnr sin ahv avs
        avs_nummer ahv_nummer rrn curp rijksregisternummer registre_national hetu henkilötunnus""",
    "version": """
        version versions versión versao versão versione versie wersja versionsnummer ver vers release releases
        released build builds firmware driver drivers sdk upgrade upgraded upgrading downgrade downgraded update
        updated patch patched changelog tag rev revision requires section sections sect chapter clause paragraph
        article appendix oid oids object_identifier fix fixed fixes merged introduced deprecated snmp rfc abschnitt
        kapitel figure fig table step assembly fileversion package pip npm bump bumped since kernel ios ipados
        android macos i_os mac_os chrome chromium firefox safari edge java jre jdk версия верс""",
    "host": """
        ip ips ipv ipaddress address addresses addr adresse dirección indirizzo endereço host hosts hostname server
        servers serveur servidor client clients router gateway dns subnet netmask ping nslookup dig whois traceroute
        telnet nmap block blocked ban banned blacklist ssh login connect connected connection connections peer node
        inet listen listening bind proxy vpn firewall remote remote_addr forwarded forwarded_for nameserver адрес
        сервер""",
    "other": """
        order orders orderid order_no orderno bestellung bestellnummer bestellnr auftrag auftragsnummer auftragsnr
        pedido commande ordine ordernummer bestelling zamówienie zamówienia beställning encomenda заказ заказа
        заказу sipariş invoice invoices rechnung rechnungsnummer rechnungsnr facture factura fattura fatura faktura
        faktur factuur счет счёт счёта ticket tickets case issue ref refs reference referenz référence referencia
        riferimento aktenzeichen tracking track shipment parcel package_no sendung sendungsnummer trackingnummer
        paketnummer seguimiento suivi card cards karte kartennummer tarjeta carte cartão carta sku part parts
        part_no item items product products article artikel artikelnummer art artnr teilenummer serial seriennummer
        sn imei imsi iccid meid eid isbn issn ean upc gtin asin barcode lot batch model modell modèle modelo type id
        ids uid uuid guid pid userid customer kundennummer kundennr kunde client_id cliente account konto
        kontonummer kontonr acct compte cuenta conta contract vertrag vertragsnummer policy patent zip plz postal
        postcode cep_postal timestamp epoch unix unixtime time_ms commit hash checksum crc doi pmid arxiv bug pr
        page pages price cost total amount sum betrag summe population score transaction txn trx buchung booking
        confirmation reservation vin flight seed coordinates coordinate lat lon lng latitude longitude gps seat room
        parcelle iphone i_phone matrikelnummer mitgliedsnummer member membership student serie série registration
        registro license licence lizenz key hex port_no size bytes byte width height lottery lotto tel_aviv
        lottozahlen numbers quantity qty count views followers subscribers inventory asset tax_invoice protocol
        protocolo nota boleto číslo_objednávky номер_заказа""",
}
_LABELS: Final[dict[str, Meaning]] = {
    word.replace("_", " "): meaning for meaning, words in _WORDS.items() for word in words.split()
}
# Scripts without spaces, or with endings: found anywhere in the text before the number.
_STEM_WORDS: Final[dict[Meaning, str]] = {
    "phone": """
        电话 電話 手机 手機 座机 热线 熱線 致电 打给 拨打 撥打 联系方式 联系 聯繫 聯絡 来电 短信 传真 微信 加我
        携帯 携带 でんわ ケータイ ファックス 전화 휴대폰 핸드폰 연락처 연락 팩스 문자
        टेलीफोन फोन फ़ोन मोबाइल मोबाईल कॉल व्हाट्सएप ফোন মোবাইল தொலைபேசி ఫోన్
        هاتف جوال تلفون موبايل اتصل واتساب טלפון נייד פלאפון חייג โทร มือถือ เบอร์""",
    "identity": "身份证 身份證 身分證 证件号 公民身份 आधार 주민등록번호 주민번호 マイナンバー",
    "other": """
        订单 訂單 单号 單號 编号 編號 快递 运单 流水号 序列号 发票 账号 帳號 卡号 余额 价格 金额
        注文 伝票 주문 송장 계좌 ऑर्डर طلب فاتورة הזמנה คำสั่งซื้อ ใบสั่ง""",
    "version": "版本 バージョン 버전 संस्करण الإصدار",
    "host": "地址 服务器 伺服器 主机 アドレス サーバー 서버 주소",
}
_STEMS: Final[dict[str, Meaning]] = {stem: meaning for meaning, stems in _STEM_WORDS.items() for stem in stems.split()}
_FILLER_WORDS: Final = """
    number numbers no num nr nos nummer numero número numéro numer номер n nº is are was at me my mine our us your
    his her their on to the a an of for and or via per with by in from as it its under be use using please now new
    old home work office private personal business main direct primary secondary emergency contact info reads ist
    sind lautet war unter meine mein der die das den dem bitte und oder mich uns am auf zu von vom privat es son
    está el la los las mi mis al del de en su o y un una nuestro est sont le les mon ma mes au aux du et ou sur à il
    lo mio sono alla e è é meu minha da do em nosso op het mijn onder van naar jest mój moja pod pra mim мой мне по
    это и на adı i på er mit mitt min till til value field str string text v"""
_FILLERS: Final = frozenset(_FILLER_WORDS.split())
_VAGUE: Final = frozenset({"id", "card"})
_WORD = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SENTENCE_END = re.compile(r"(?<=[^\W\d_]{3})[.!?]\s+(?=[A-ZÀ-Þ])|\n\s*\n")


@dataclass(frozen=True, slots=True)
class Label:
    """`tight`: nothing but small words stands between the word and the number."""

    meaning: Meaning
    tight: bool


def is_small_word(word: str) -> bool:
    """One that may stand between a number and the word that names it."""
    return word.lower() in _FILLERS


def label_before(before: str) -> Label | None:
    """What the text that ends where the number begins calls it."""
    before = _SENTENCE_END.split(before)[-1]
    words = [word.lower() for word in _words(before)[-MAX_WORDS_BETWEEN - 2 :]]
    label = _nearest(words)
    if before.isascii() or (label and label.tight):
        return label
    return _stem(before) or label


def label_after(seen: str, end: int) -> Label | None:
    """What the text right behind the number calls it: "555 0123 (mobile)". Only as far as the next number."""
    after = re.split(rf"[\d\n{MASK}\[]|[.!?;]\s", seen[end : end + AFTER_CHARS], maxsplit=1)[0]
    words = [word.lower() for word in _words(after)][:MAX_WORDS_BETWEEN]
    label = _nearest(words[::-1], reverse=True)
    if label is None and not after.isascii():
        label = _stem(after[:CLOSE_STEM_CHARS])
    return label if label and label.tight and label.meaning != "other" else None


def _words(text: str) -> list[str]:
    return _WORD.findall(_CAMEL.sub(" ", text))


def _nearest(words: list[str], *, reverse: bool = False) -> Label | None:
    """The last word that has a meaning. `reverse`: the words run from right to left."""
    tight = True
    for index in range(len(words) - 1, max(-1, len(words) - 2 - MAX_WORDS_BETWEEN), -1):
        pair = words[index - 1 : index + 1] if index else []
        meaning = _LABELS.get(" ".join(reversed(pair) if reverse else pair)) or _LABELS.get(words[index])
        if words[index] in _VAGUE and index and not reverse:
            meaning = _LABELS.get(words[index - 1], meaning)  # "PESEL ID"
        if meaning:
            return Label(meaning, tight)
        tight = tight and words[index] in _FILLERS
    return None


def _stem(before: str) -> Label | None:
    place, meaning = max((before.rfind(stem), meaning) for stem, meaning in _STEMS.items())
    return None if place < 0 else Label(meaning, tight=len(before) - place <= CLOSE_STEM_CHARS)
