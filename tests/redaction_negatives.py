"""Numbers that look like personal data and are none, by what they look like: one message a row, as `texts.py` reads it.

Card and account look-alikes fail their check digits. What looks like an e-mail address or a secret is in
`redaction_negatives_in_code.py`.
"""

ROWS: dict[str, str] = {
    "phone": r"""
The war lasted from 1914-1918 and the next from 1939-1945.
Der Dreißigjährige Krieg 1618-1648, kurz erklärt
lifespan of Kant: 1724 - 1804
2024-03-15 14:30:00 in UTC please
Termin am 15.03.2024 um 14:30 Uhr, bitte umformulieren
le 14/07/1789 à 17h30
convert 20240115T103000Z to local time
unix time 1712345678 to a date?
1609459200000 ms since epoch is which day
00:01:12,500 --> 00:01:15,000⏎We have to go.
Mon Jan 2 15:04:05 -0700 2006 is Go's layout
order 4429013877 has not arrived yet
Bestellnummer 302-8841097-5519321 fehlt
commande n° 0641550142-B livrée en retard
Artikelnummer 0171-39-20055 ist nicht lieferbar
SKU 415-0132-77 and SKU 415-0133-77 look the same
part no. 555-0142-001 replaces 555-0141-003
Rechnung Nr. 2024-030-23125 vom Mai
ticket #6415550 was closed without an answer
case number 20-1199, Students for Fair Admissions
ISBN 978-3-16-148410-0
isbn 0-306-40615-2 who wrote it
ISSN 0378-5955 what journal is that
EAN 4006381333931 is a Stabilo pen, right?
GTIN: 5901234123457
DOI 10.1103/PhysRevLett.116.061102 summary?
see arXiv:2203.02155 and PMID 23193287
CAS 7732-18-5 is water, 64-17-5 is ethanol
RFC 2616 was replaced by 7230-7235
DIN EN ISO 9001:2015 Abschnitt 8.5.1
US patent 7,479,949 covers what
1 000 000 007 is prime, used as 10^9+7
2147483647 + 1 overflows in C
4294967296 = 2^32
what is 987654321 * 123456789
3.14159265358979 is pi to 14 places
299792458 m/s exactly?
sum 415 + 555 + 132
population of India 1,417,173,173 in 2022
Weltbevölkerung 8 045 311 447 laut UN
budget de 2 400 000 000 euros
Das kostet 1.234.567,89 €
R$ 1.234.567,00 por extenso
12 345 678,90 zł słownie
₹12,34,56,789 in words
price went from $1,299.00 to $1,199.00
48.8584, 2.2945 which landmark
lat=-33.8568 lon=151.2153
52°31'12.0"N 13°24'18.0"E
zip 90210-1234 is in which county
CEP 01310-100 fica onde?
00-950 Warszawa to kod pocztowy
〒100-0001は東京のどこですか
邮编100080是哪个区
final 6-4 3-6 7-6(5) 6-2, who served first
Endstand 34:28, Halbzeit 17:13
resolution 3840x2160 vs 2560x1440
bench press 100 110 120 kg, 5 5 3 reps, next week?
0 9-17 * * 1-5 cron means?
30 2 1 * * /usr/bin/backup
chapters 12-15, pages 201-245, 310-318
series 2 4 8 16 32 64 128 what comes next
3 7 31 127 8191 131071 are Mersenne primes
call 112 or 911 in an emergency, which one in Italy?
[1200, 1350, 1420, 1515, 1600] plot that
bus 100 200 M29 from Zoo to Alex
HS code 8471.30.01.00 import duty
serial 0049-6990-0093 of the dishwasher, model WMF-2210
RAL 7016, Pantone 19-4052
error 0x80070057 and 0xC000021A on windows
tensor of shape 4096 11008 32 128
dataset rows: 13 955 501, columns: 23
H0 = 67.4 +/- 0.5 km/s/Mpc
ряд 1 1 2 3 5 8 13 21 34 55 89 продолжи
в 1941-1945 годах
人口14亿1178万7240人
令和6年3月15日 14時30分
من عام 1990 إلى 2005
१९४७ में आज़ादी मिली
""",
    "card": r"""
the test number 4539 1488 0343 6468 must fail the Luhn check, why does my code accept it
order id 8273640192837465 is stuck
Auftrag 5500 1200 3400 0090 ist doppelt
n° de commande 4970 1012 3456 7895
numer zamówienia 4111222233334440
pedido 5105 1051 0510 5109 no aparece
2^64 is 18446744073709551616
9007199254740993 is not representable as a double
0.1 + 0.2 = 0.30000000000000004
pi = 3.141592653589793238462643
e is 2.718281828459045235
sqrt(2) ≈ 1.4142135623730951
1234567890123456 hex please
snowflake 1765432109876543218 decode
trace id 4bf92f3577b34da6a3ce929d0e0e4736
0000 0000 0000 0001 is one, zero padded to 16 bits
01001000 01100101 01101100 01101100 01101111 to ascii
1110 0000 1010 0101 xor 0000 1111 1010 0001
6.02214076e23 per mol
121932631112635269 / 987654321
hex dump 4845 4c4c 4f20 574f 524c 4421
barcode 00340123450000000018 scans badly
invoice 2024-0000-1111-2229 please check the sum
XXXX XXXX XXXX 4242 shows on my receipt
**** **** **** 1881 is that enough masking
What does the first digit of a card, 4 or 5, tell?
card ending in 0366, charge on May 2
matrix rows 4 5 1 3 9 1 0 8 7 7 2 1 6 4 0 3
""",
    "iban": r"""
the validator should reject DE81 1005 0000 9930 9124 40 since its check digits are wrong
test case: DE90370501988274863449 -> invalid
Prüfziffer falsch: AT45 1286 4502 3427 4930
FR4620041932511865708707877 doit être refusé par la fonction
ES45 2100 5708 7581 8409 2686 no pasa la validación, el dígito está mal
NL25RABO7535851135 geeft 'ongeldig', klopt dat?
assert not is_valid("GB40BUKB74289122741276")
checksum mismatch for IT41D0542817216344714560170, expected
PL78 4515 5681 4058 7941 4089 3293 - błędna suma kontrolna, dlaczego
DE00 1234 1234 1234 1234 00 as a placeholder
format: DEkk bbbb bbbb cccc cccc cc
What does the GB29 at the front of such a number mean?
BIC COBADEFFXXX gehört zu welcher Bank
DE12 is the exit on my map, AT34 the next
USt-IdNr. DE136695976 auf der Rechnung, ist das Pflicht?
NO1 FI2 SE3 price areas of the power market
ES256 RS512 and PS384 are JWT algorithms
IT10 4242 B model sheet
part DE40-1001-0010-B fits the 2019 frame
room BE12 at 10
""",
    "ip": r"""
upgrade from version 1.2.3.4 to 1.2.4.0
Die Version 10.14.2.1 läuft, 10.14.3.0 nicht
mise à jour v4.18.0.22 du firmware
Chrome/124.0.6367.207 Safari/537.36
section 1.2.3.4.5 of the manual
Section 4.3.2.1 says the opposite of section 4.3.1.2
siehe Kapitel 3.1.2.4
clause 7.1.4.2 du contrat
EC 2.7.11.1 is a kinase
OID 1.3.6.1.4.1.311.21.8
is 999.1.1.1 a valid address? 256.300.1.1?
1.2.3 is semver, 1.2.3.4 is not a semver version
assembly version="4.0.30319.1" publicKeyToken=null
libssl.so.1.1.1.0 not found
Python 3.11.4 and pip 23.1.2
numpy==1.26.4 torch==2.3.1+cu121
§ 5.3.1.2 Absatz 4 der Norm
release notes 22.04.3.1
1.5.2.1. Scope⏎1.5.2.2. Terms⏎make a table of contents
build 6.1.7601.17514 of windows 7
12:34:56 and 23:59:59
timecode 01:02:03:04 at 25 fps
ratio 16:9:4:3
std::vector<int>::iterator it
use crate::face::bad;
Add::Bee->new() in perl
a::before { content: "::" }
#336699 #ff6347 #336699CC
rgb(255, 99, 71) hsl(120, 100%, 50%)
John 3:16, Genesis 1:1-2:3
1:2:3 mixing ratio for mortar
Sure 2:255:3 nachschlagen
Einnahme 1-0-1-0 (morgens, mittags, abends, nachts)
Playlist 1.1.2.3.5.8.13
版本号2.10.4.1和2.10.4.2有什么区别
バージョン3.0.2.15に更新できない
версия 8.3.22.1709 платформы
netmask 8.8.8 looks short, how many octets do I need?
""",
    "ssn": r"""
part number 000-12-3456
area 666-12-3456 is never issued, is it?
987-65-4321 can't be one because of the 9
format is NNN-NN-NNNN
a CPF such as 123.456.789-00 fails the check, explain the algorithm
CPF 111.111.111-11 deve ser rejeitado pelo validador
la letra de 12345678A está mal, ¿cuál sería?
the file has 111222333 rows
85 073 100 123 inhabitants is a typo I guess
serial no. 44051401359 of the washing machine
order 2341 2341 2347 in the queue
lot 811218-9870 expired
batch 20240115-0042
2024-03-1501 as a key
QQ 12 34 56 is only an example prefix in the leaflet
W-2, 1099-MISC and 401(k) forms
Form 1040-SR line 12
BG 12 on the licence of a boat
110105194912310021 像不像身份证号？校验位不对
exam seat 202300456712
Az. 12 O 345/19 vor dem Landgericht
Flurstück 123/45, Gemarkung 051234
dossier 1850578006
protocollo 2023/0045678
wyrok III CZP 11/18
1 85 05 78 sont les sept premiers chiffres, pourquoi ?
""",
}
