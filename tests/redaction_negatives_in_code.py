"""Code, placeholders, hashes and words that look like e-mail addresses or secrets and are none: one message a row.

Read by `texts.py`, as the other rows.
"""

ROWS: dict[str, str] = {
    "email": r"""
how do i use @app.route("/users/<int:id>") with methods
follow @nasa and @EsoAstronomy on twitter for this
ping @channel please and rewrite the announcement
my terminal shows user@build-7:~/src$ and nothing else
user@ is not a complete address, validate that case
What does the @ in a @ b.T mean in numpy?
y = x@w.T + b
loss = ((X@W.mean(0)) ** 2).sum()
h = q@k.transpose(-1, -2) / math.sqrt(d)
npm i lodash@4.17.21 react@18.3.1
"@types/node": "^20.11.5", "@babel/core": "7.24.0"
git clone git@github.com:torvalds/linux.git asks for a key
why is the logo blurry, I use logo@2x.png
background: url(icons/cart@3x.webp)
systemctl status getty@tty1.service shows failed
uses: actions/checkout@v4 with node 20
FROM python@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
brew install openssl@3 postgresql@16
@media (max-width: 600px) { .nav { display: none } }
@Override public String toString() { return "x@" + hashCode(); }
java.lang.Object@1b6d3586 gets printed instead of the list
regex [A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,} explained please
wie tippe ich das @-Zeichen auf einem Mac?
l'arobase (@) s'appelle escargot dans certains pays ?
12 apples @ $0.50 each = ?
Meeting @ 10.30 in room B.2
SELECT @@version, @rownum := @rownum + 1 FROM t
sed -i 's@/usr/local@/opt@g' build.sh
scp notes.txt pi@raspi:/home/pi/
mail -s "hi" name@domain  (fill in both)
Enter your e-mail like <name>@<company>.<tld>
let s = "a@b"; is that a valid address by RFC 5322?
#include <vector> @brief doxygen doesn't show the @param
El símbolo @ viene de la arroba, una medida de peso
jq '.[] | select(.a==1) | @csv' data.json
""",
    "secret": r"""
Where do I find my API key for sk-...?
OPENAI_API_KEY=<YOUR_API_KEY>
api_key = "your_api_key_here"
export HF_TOKEN=hf_...
client = OpenAI(api_key=os.environ["OPENAI_API_KEY"])
password = os.environ["PW"]
password = getpass.getpass("Password: ")
PASSWORD=$(pass show db/prod)
const secret = process.env.JWT_SECRET;
api_key: ${API_KEY}
password: ${{ secrets.DB_PASSWORD }}
"password": "********"
password: <redacted>
GITHUB_TOKEN=¦ghp_¦xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
AKIA... keys are 20 characters long, true?
-H "Authorization: Bearer $TOKEN" is empty in my script
Authorization: Bearer <token>
Bearer authentication vs basic auth
postgres://USER:PASSWORD@HOST:PORT/NAME is the general form
postgres://localhost:5432/shop refuses me
DATABASE_URL=sqlite:///./app.db
def login(user: str, password: str) -> bool:
password: Optional[str] = None
parser.add_argument("--password", required=True)
if password == confirm_password: return True
password = ""
forgot my password again, what now
The password is too short, says the form.
Passwort: mindestens 8 Zeichen und eine Zahl
mot de passe : 12 caractères minimum
¿la contraseña es obligatoria?
hasło: co najmniej jedna cyfra
密码：至少八位
пароль: не короче 8 символов
token = tokenizer.encode(text)
max_tokens=1024, stop_token_id=151643
token: int = 0
secret = Variable<string>("secret")
my secret: I never liked opera
Secret Santa ideas for 12 colleagues
Key: C major, tempo 120
key = lambda row: row["total"]
primary key: customer_id
the token bucket algorithm, rate=100
api_key is None so it raises, how do I mock it
pip install scikit-learn sk-video
sk-SK and cs-CZ locales
commit 9fceb02d0ae598e95dc970b74767f19372d61af8 broke it
git revert 4b825dc642cb6eb9a060e54bf8d69288fbee4904
md5 d41d8cd98f00b204e9800998ecf8427e is of the empty file
sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709
id 550e8400-e29b-41d4-a716-446655440000 is a uuid v4
{6F9619FF-8B86-D011-B42D-00CF4FC964FF} in the registry
SGVsbG8gd29ybGQ= decodes to?
data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7
integrity="sha384-oqVuAfXRKap7fdgcCY5uykM6+R9GqQ8K/¦uxy9rx7HNQlGYl1kPzQho1wx4JwY8wC"
require golang.org/x/exp v0.0.0-20231006140011-7918f672742d
pod web-7d4b9c6f5-x2v8k is in CrashLoopBackOff
ami-0c55b159cbfafe1f0 in us-east-1
https://youtu.be/dQw4w9WgXcQ summarize
https://shop.example.org/p/4711?utm_source=mail&utm_campaign=summer_sale_2024&ref=a1
-----BEGIN CERTIFICATE-----⏎MIIB...⏎-----END CERTIFICATE-----⏎what is in such a file
-----BEGIN PUBLIC KEY----- is the first line, right?
ssh-keygen -t ed25519 -f ~/.ssh/id_ed25519
IdentityFile ~/.ssh/id_rsa
vault kv get secret/data/myapp
kubectl create secret generic db --from-file=./pw
docker login --password-stdin < pw.txt
curl -u "$USER:$PASS" https://localhost
eyJ at the start means a JWT, why?
GATTACAGATTACATTTGCGCGATATCCGGATAGCTAGCTAACGATCGATCG
MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEK fold this
rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1
1. e4 e5 2. Nf3 Nc6 3. Bb5 a6 4. Ba4 Nf6
Donaudampfschifffahrtsgesellschaftskapitän
Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz
pneumonoultramicroscopicsilicovolcanoconiosis
Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch
AbstractSingletonProxyFactoryBean smells
AWS_SECRET_ACCESS_KEY must be set, says terraform
class="MuiButton-root css-1q2w3e4 md:grid-cols-[200px_minmax(900px,_1fr)]"
CC(=O)Oc1ccccc1C(=O)O is aspirin in SMILES
BSYNRYMUTXBXSQ-UHFFFAOYSA-N inchikey of what
ABCDE-FGHIJ-KLMNO-PQRST-UVWXY is how a product key looks
npm_config_registry and npm_lifecycle_event
from huggingface_hub import hf_hub_download
/usr/lib/x86_64-linux-gnu/libstdc++.so.6.0.30
Windows 11 24H2 KB5034441 fails
f(x) = 3x^2 + 2x - 5, find f'(x)
qwertyuiopasdfghjklzxcvbnm is the keyboard order
supercalifragilisticexpialidocious meaning
""",
}
