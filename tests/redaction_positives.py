"""Personal data in chat messages, marked by ⟦⟧, by kind: one message a row, as `texts.py` reads it.

People, hosts and accounts are made up. Numbers have valid check digits; phones lie in ranges kept for
fiction where a country has some that count as valid. The kind `secret` has a module of its own.
"""

ROWS: dict[str, str] = {
    "email": r"""
Hi, please send the invoice to ⟦lena.hartwig@brunnenhof-gaertnerei.de⟧ instead of the old address.
my email is ⟦marcus.oyelaran87@gmail.com⟧ can u write a polite follow up to the recruiter
Write a resignation letter. Name: Dana Whitlock, contact ⟦d.whitlock+jobs@fernbrook-logistics.co.uk⟧.
Reach me at ⟦QUENTIN.ABARA@NORTHQUAYLEGAL.COM⟧
Fix this header: From: Ines Castellano <⟦ines@mail.estudio-castellano.es⟧> To: support
click [here](mailto:⟦hello@pippas-pottery.shop⟧?subject=Order%20question) is that markdown valid?
⟦t.vandersteen@polderwerk.nl⟧ staat op de lijst maar krijgt geen mails, hoe los ik dat op?
Meine Adresse lautet ⟦kontakt@müller-söhne-bau.de⟧, bitte in die Signatur einbauen.
Bitte antworte an ⟦j_krueger.privat@wiesental-post.at⟧!
mon adresse c'est ⟦amelie.deschamps@laboiteaplantes.fr⟧, tu peux l'ajouter au CV ?
Écrivez-moi (⟦yann-le-goff@kerarmor.bzh⟧) avant vendredi.
Corrige mi carta, mi correo es ⟦rocio.berenguer.2001@hotmail.es⟧
la mia mail: ⟦giulia.tarantini@officinacolori.it⟧. Grazie!
Pode reescrever? Contato: ⟦thiago_nogueira@padariadoze.com.br⟧
mój adres to ⟦kasia.wrobel@zielonydom.com.pl⟧ napisz odpowiedź do urzędu
我的邮箱是⟦wei.zhang1992@163.com⟧，帮我写一封求职信
请发到⟦service@青山茶业.中国⟧谢谢
メールは⟦sakura.mori@hanaya-kyoto.co.jp⟧までお願いします
मेरा ईमेल ⟦rohan.deshpande@chaiwala.in⟧ है, इस पर भेज दो
بريدي الإلكتروني ⟦layla.haddad@dar-alward.ae⟧ أرجو تعديل الرسالة
моя почта ⟦sergey-volkov@lesnoy-dom.ru⟧, составь письмо арендодателю
пишите на ⟦анна@ромашка-цветы.рф⟧, если что
e-postam: ⟦emre.aksoy@zeytinbag.com.tr⟧
git config --global user.email "⟦noor@basalt-systems.dev⟧" why does it still show the old one
Author: Tove Lindqvist <⟦tove.lindqvist@fjallbyte.se⟧>⏎Date: Tue Mar 4 09:12:44 2025 +0100⏎⏎    fix flaky test
INSERT INTO users (id, mail) VALUES (7, '⟦peggy.sundaram@tidepool-clinic.org⟧'); -- duplicate key error, why?
{"name": "Oskar", "email": "⟦oskar.b@lighthouse-kiel.de⟧", "age": 41} turn this into yaml
convert to json: 17;Mbeki;⟦thandi.mbeki@karoowool.co.za⟧;Cape Town
BEGIN:VCARD⏎FN:Rui Farinha⏎EMAIL;TYPE=work:⟦rui.farinha@salinas-aveiro.pt⟧⏎END:VCARD
On Mon, 3 Feb 2025 at 10:04, ⟦accounts@heron-and-daughters.com⟧ wrote:⏎> we still miss your payment
cc ⟦b.o'malley@kilbridge-farm.ie⟧ on that as well
the link in the newsletter ends with ?email=⟦jonas.reiter%40wiesental-post.at⟧&utm=may, how do I strip it
Is ⟦x@quillon.io⟧ too short for an address on a business card?
Contact:⟦first.last@dept.cs.uni-hollerbach.edu⟧;office 3.114
Why does my regex not match ⟦ab_c-d.e+f@sub-1.k9-rescue.photography⟧ ?
Kontakt=⟦info@xn--mller-kva-bau.de⟧ was bedeutet dieses xn?
Draft: "Dear Mr Abbott, as told to you and to ⟦claims@harbourmutual.com.au⟧, the roof leaks."
Zoé;Marchetti;⟦zoe.marchetti@postbox.ch⟧ pourquoi Excel coupe l'adresse en deux ?
can you tell if "PayPal Security <⟦alerts7731@secure-pay-verify.xyz⟧>" is phishing
Hej, min mail är ⟦elsa.nyqvist@tallbacken.nu⟧/Elsa
slack export: @dev ⟦mateus.r@forno-lab.pt⟧ joined the channel at 9
""",
    "phone": r"""
hey can you text me at ⟦(212) 555-0147⟧ when it is done lol
My cell's ⟦415-555-0132⟧, voicemail is full so just keep trying. Make that sound nicer
Call Dana on ⟦+1 646 555 0198⟧ before noon pls
rewrite: fax the form to ⟦1-312-555-0171⟧ ext 204
phone ⟦3105550164⟧ email none
reach her at ⟦303.555.0119⟧ x12 after 5
<a href="tel:⟦+12125550186⟧">Call us</a> doesn't open the dialer on my phone
"contact": {"name": "Earl", "mobile": "⟦+1 (720) 555-0155⟧"}
Notre bureau à Montréal : ⟦514 555-0123⟧, poste 31
ring me on ⟦07400 158 246⟧ ta
tel. ⟦020 7946 0018⟧ (ask for Priya)
the surgery is on ⟦+44 (0)20 7946 0857⟧, write a complaint about how long they make you hold
landline: ⟦0161 496 0733⟧
Mum's new number is ⟦+44 7400 271828⟧, save it
Ruf mich bitte unter ⟦030 23125 042⟧ zurück
meine handynummer ⟦0171 3920055⟧ falls du dich verspätest
Tel.: ⟦+49 (0)221 4710-123⟧, Fax auf Anfrage
Erreichbar bin ich unter ⟦0049 69 90009 321⟧ (werktags)
schreib ihm auf whatsapp ⟦+49 171 39200 17⟧
Praxis Dr. Eckstein, Telefon ⟦030/23125-777⟧, bitte Absage formulieren
mobil: ⟦0664 55 50 142⟧ lg Resi
Mein Natel: ⟦079 555 01 23⟧
Rückfragen an Frau Zürcher, ⟦+41 44 555 01 37⟧
mon numéro c'est le ⟦06 41 55 01 42⟧, appelle quand tu veux
Tél. : ⟦01 99 00 45 67⟧
tu peux m'envoyer un sms au ⟦+33 6 41 55 01 77⟧
portable ⟦07.53.55.20.11⟧ merci d'avance
bel me gerust op mijn gsm ⟦0470 55 01 23⟧
mi móvil es el ⟦655 01 42 87⟧
Llámame al ⟦+34 915 550 142⟧ por la tarde
mi cel es ⟦55 5550 1234⟧, ¿cómo lo pongo en el CV?
mi celu ⟦+54 9 11 5555-0132⟧ che
escríbame por whatsapp al ⟦+57 310 555 0147⟧
il mio cellulare è ⟦347 555 0182⟧
chiamate l'ufficio allo ⟦+39 06 5555 0143⟧
liga para o ⟦912 555 014⟧ depois das 18h
me chama no zap ⟦(11) 95555-0132⟧
telefone fixo: ⟦+55 21 3555-0178⟧
zadzwoń do mnie: ⟦601 555 012⟧
kontakt: tel. ⟦+48 22 555 01 37⟧
mijn nummer is ⟦06-25550142⟧
bel ons: ⟦+31 20 555 0134⟧
我的手机号是⟦13955501234⟧，请帮我写一条请假短信
座机⟦010-6555 0123⟧没人接
携帯は⟦090-5555-0142⟧です
ＴＥＬ：⟦０９０－５５５５－０１７６⟧（担当：森）
제 번호는 ⟦010-5550-1234⟧ 입니다
मेरा मोबाइल नंबर ⟦+91 98765 50142⟧ है
call me on ⟦9876550143⟧ bhai, draft a message to landlord
رقم جوالي ⟦٠٥٠٥٥٥٠١٤٢⟧ اكتب لي رسالة
اتصل بي على ⟦+20 100 555 0142⟧
мой номер ⟦8 (916) 555-01-42⟧, звони
тел. ⟦+7 495 555-01-73⟧ доб. 12
мій номер ⟦+380 67 555 01 42⟧
numaram ⟦0532 555 01 42⟧, mesaj at
mob ⟦0491 570 156⟧, ask for Shaz
after hours: ⟦(02) 5550 0187⟧
mitt nummer är ⟦070-174 06 35⟧
my number na ⟦0803 555 0142⟧
הטלפון שלי ⟦054-555-0142⟧
my whatsapp link is https://wa.me/⟦4917139200177⟧ put it in the bio
""",
    "card": r"""
my card number is ⟦4485 1421 0245 9043⟧ exp 09/28, why was it declined
Visa ⟦4929851185877483⟧ was charged twice, write a complaint to the bank
I paid with ⟦5273-1980-0363-6694⟧
cc: ⟦3791 620376 38617⟧ cvv on file
charge it to the amex ⟦379106264922194⟧ please
{"pan": "⟦5273472828630533⟧", "exp": "0327"} is this valid json
Meine Kreditkartennummer ⟦4485 9507 0408 5044⟧ wurde gesperrt, was tun?
Karte ⟦5273815735774762⟧ gültig bis 11/27
Die Abbuchung lief über ⟦2697-6266-5502-3758⟧, bitte Widerspruch formulieren.
ma carte bleue ⟦4716 7842 0152 4762⟧ ne passe plus
numéro de carte : ⟦5312799821104824⟧
J'ai payé avec la carte ⟦4716-6208-0749-3467⟧, aidez-moi à contester
mi tarjeta ⟦4485 4794 5485 4755⟧ caduca en mayo
Tarjeta de crédito: ⟦5273626618633748⟧, titular Rocío
la mia carta ⟦2404 9634 7735 6668⟧ è stata clonata
carta di credito ⟦4716275211758359⟧ scadenza 04/29
meu cartão é ⟦5312 6990 4507 9770⟧ e o cvv eu mando depois
cartão nº ⟦4485-7396-2093-0825⟧
moja karta ⟦4716 4707 3562 5677⟧ została zablokowana
numer karty ⟦5421657436696733⟧ do reklamacji
mijn creditcard ⟦5273 6494 9004 9247⟧ is gestolen
我的信用卡号是⟦6225888104417427⟧，被盗刷了怎么办
银联卡⟦6225 3150 5170 4625 003⟧
カード番号は⟦3536-6002-8268-5811⟧です
JCB ⟦3536393347376747⟧ は海外で使えますか
मेरा कार्ड नंबर ⟦6074 9618 8792 2301⟧ है
رقم بطاقتي ⟦4485 6690 0920 1011⟧
номер карты ⟦2200 5855 2994 5408⟧, перевод не дошёл
карта ⟦2202771897819072⟧ на имя IVAN
Discover ⟦6011 4155 6917 0164⟧ got rejected at the pump
diners club ⟦3612 437351 9475⟧ from 1998, still good?
extract the fields: Smith;⟦4485284724117425⟧;08/26;Leeds
2025-03-04 12:00:01 DEBUG payment card=⟦5421613767750888⟧ amount=19.99 what should I mask here
the receptionist read out ⟦4929.6579.7848.5131⟧, is that a scam
Bill to: A. Novak, ⟦6759 2160 9838 1215⟧, Maestro
""",
    "iban": r"""
Bitte überweise die Miete auf ⟦DE62 3705 0198 3827 9544 34⟧
IBAN: ⟦DE02500105172436278931⟧, BIC hab ich gerade nicht
meine iban ist ⟦de87 3705 0198 3074 4172 44⟧ danke
Kontonummer fürs Lastschriftmandat: ⟦DE60370501985100728718⟧.
Mein Konto ⟦AT84 1264 5114 7136 5980⟧ bei der Sparkasse
⟦CH54 0076 2375 7049 6005 5⟧ ist mein Postkonto, schreib die Rechnung fertig
mon RIB : ⟦FR92 2004 1126 3316 3420 6782 524⟧
virement sur ⟦FR5320041633232669085525326⟧ svp
l'IBAN de l'association est ⟦BE05 7004 5002 4975⟧
compte luxembourgeois ⟦LU15 0012 5341 4860 9749⟧
mi cuenta es ⟦ES12 0182 3035 9476 7139 4161⟧
ingrésame el dinero en ⟦ES0321002178036173560848⟧, gracias
il mio iban è ⟦IT55T0542815473028057169402⟧
bonifico a ⟦IT07 L054 2879 2958 3562 3577 250⟧ intestato a Giulia
o meu NIB/IBAN: ⟦PT37 5544 3149 6511 7351 5605 3⟧
conta ⟦BR5900360305202500497402655P1⟧ para o reembolso
mijn rekening is ⟦NL28 ABNA 4403 8288 65⟧
maak het over naar ⟦NL23RABO8479851870⟧ o.v.v. huur
numer konta ⟦PL78 3427 0408 3752 8578 7248 4638⟧
przelew na ⟦PL97996712536842452192190434⟧ do piątku
please wire it to ⟦GB10 BUKB 7837 3628 4495 11⟧, ref 'deposit'
my account: ⟦GB11LOYD32253657457315⟧
Sort code not needed, IBAN is ⟦IE43 AIBK 8354 2993 1690 89⟧
mitt konto ⟦SE63 5724 6313 3639 6893 8620⟧
kontonummer ⟦NO93 6670 2510 474⟧ takk
konto: ⟦DK59 2141 4630 7078 18⟧
tilinumeroni on ⟦FI44 3890 5242 4247 42⟧
můj účet ⟦CZ82 0800 5260 0860 0680 2864⟧
számlaszám: ⟦HU04 6635 3888 5817 4711 5185 0138⟧
contul meu ⟦RO13BTRLVBDC908335674862⟧
ο λογαριασμός μου ⟦GR13 0172 0326 3666 6077 0264 258⟧
hesabım ⟦TR72 0006 2032 7098 4005 7778 63⟧
رقم الآيبان ⟦SA14 8078 5092 2323 3855 9870⟧
my salary goes to ⟦AE880336674742828724348⟧
החשבון שלי ⟦IL85 1379 2249 0218 8180 028⟧
{"creditor": "Verein Lindenhof", "iban": "⟦DE91500105170426780030⟧"}
Why does my validator accept ⟦MT91VALL2201367062045280793P2G2⟧ but the bank doesn't
рахунок ⟦UA383052992565429859473949399⟧ для допомоги
pay to ⟦PK74 HABB 9779 0727 0176 8284⟧ he said
<Dbtr><IBAN>⟦NL82ABNA3865556366⟧</IBAN></Dbtr> is this pain.001 correct
""",
    "ip": r"""
my ip is ⟦84.17.46.203⟧ can you tell where i live
Why can't I reach ⟦91.198.47.16⟧ from my laptop?
ssh deploy@⟦185.243.112.61⟧ hangs at banner exchange
Failed password for invalid user admin from ⟦45.148.10.87⟧ port 52214 ssh2
⟦78.46.91.134⟧ - - [04/Mar/2025:09:12:44 +0100] "GET /login HTTP/1.1" 200 512
curl http://⟦159.69.33.208⟧:8080/health returns 502
{"remote_addr": "⟦212.51.144.9⟧", "status": 403}
Meine IP-Adresse ist ⟦93.219.77.145⟧, warum werde ich geblockt?
Der Server mit der ⟦46.4.105.172⟧ antwortet nicht mehr.
notre serveur ⟦51.77.203.118⟧ est down, rédige un mail aux clients
bloque l'adresse ⟦37.59.41.226⟧ dans nginx
mi ip pública es ⟦88.27.114.63⟧
alguien entra desde ⟦190.210.8.77⟧, ¿cómo lo bloqueo?
il mio ip è ⟦79.24.133.58⟧
meu ip: ⟦177.92.14.201⟧ caiu a conexão
mój adres ip to ⟦83.12.190.44⟧
mijn ip adres ⟦77.162.38.5⟧ is veranderd
我的IP是⟦116.228.89.14⟧，为什么打不开网站
サーバー⟦153.127.64.39⟧に繋がりません
мой айпи ⟦95.165.8.211⟧ забанили
عنوان الآي بي ⟦94.200.71.33⟧
मेरा आईपी ⟦103.21.58.197⟧ ब्लॉक हो गया
-A INPUT -s ⟦62.210.83.19⟧ -j DROP explain this rule
Received: from mail.fernbrook.net ([⟦66.175.222.12⟧]) by mx1; is this header forged?
ping statistics for ⟦23.94.18.240⟧: 4 packets transmitted, 0 received
allow_hosts = ["⟦5.189.137.82⟧"]
X-Forwarded-For: ⟦70.95.14.229⟧, what is this header for
my ipv6 is ⟦2a02:8109:9a3f:e214:1c5d:77ff:fe0a:b3c2⟧
is ⟦2001:16b8:2d41:7700:acde:48ff:fe00:1122⟧ the one my ISP gave me?
curl -g "http://[⟦2a01:4f8:c17:b0f::2⟧]:3000/" connection refused
AAAA record points to ⟦2607:f8b0:4005:80a::71e3⟧
Die IPv6 ⟦2003:e9:cf1a:5b00::42⟧ gehört meinem Router
connexion depuis ⟦2a01:cb08:8a2:1f00:d4a1:9:77c:e0⟧ refusée
dual stack listener logged ::ffff:⟦84.115.209.36⟧ as the client
我的IPv6地址⟦240e:3a1:4c52:9f10::1b7⟧正常吗
ListenAddress ⟦2400:CB00:2048:1::C629:D7A2⟧
""",
    "ssn": r"""
my ssn is ⟦748-45-7503⟧ what do i fill in on line 3
SSN: ⟦609-94-3824⟧
Social Security number ⟦591-51-4486⟧, DOB on file
her social is ⟦858-27-7705⟧, write the landlord letter
W-2 box a, employee's social security number: ⟦586373628⟧
Taxpayer: Earl Kowalczyk, ⟦238-96-3775⟧, filing single
NI number ⟦KX 41 72 96 C⟧ for payroll
my national insurance number is ⟦JG203944A⟧
NINO: ⟦AE 58 31 07 D⟧, HMRC want it on the form
mon numéro de sécurité sociale est le ⟦2 90 08 75 117 114 57⟧
n° sécu : ⟦265063119926521⟧
NIR ⟦2 02 03 75 058 337 16⟧, c'est pour la mutuelle
Meine Steuer-ID ist ⟦98 817 463 587⟧
Steuerliche Identifikationsnummer: ⟦23862479051⟧
steueridentifikationsnummer ⟦77987641234⟧ steht auf dem Bescheid
IdNr. ⟦70 541 838 861⟧, bitte Einspruch formulieren
mi DNI es ⟦56394395M⟧
DNI: ⟦28901346-Y⟧
con documento nacional ⟦54468734L⟧, domiciliada en Vigo
mi NIE es ⟦Y2688929J⟧
NIE ⟦Y-1785250-G⟧, residente en Málaga
il mio codice fiscale è ⟦PBTDRF76S12L219J⟧
C.F. ⟦MRPGRP89D51F205A⟧ intestatario del contratto
cod. fiscale: ⟦nmgdgf98b54l219v⟧
meu CPF é ⟦870.148.501-64⟧
CPF: ⟦23693038830⟧
inscrito no CPF sob o nº ⟦785.597.786-40⟧, residente em Recife
my aadhaar is ⟦3901 9907 9070⟧
मेरा आधार नंबर ⟦4494 8186 3525⟧ है
Aadhaar No. ⟦953264269500⟧ for the KYC form
我的身份证号是⟦330106198504137470⟧
身份证：⟦310104198606183754⟧，帮我填表
居民身份证号码 ⟦51010720020819768X⟧
mijn BSN is ⟦348947549⟧
burgerservicenummer ⟦108821535⟧ staat op de loonstrook
BSN: ⟦397621577⟧, geboren in Delft
mój PESEL to ⟦57052634965⟧
PESEL ⟦74110421932⟧, zam. Łódź
nr PESEL: ⟦79112431426⟧
mitt personnummer är ⟦500909-6891⟧
personnr ⟦20020910-2730⟧
Personnummer: ⟦010122-5993⟧, skriv en fullmakt
""",
}
