"""Keys, tokens and passwords in chat messages, marked by ⟦⟧: one message a row, as `texts.py` reads it.

All are random and none was ever issued. Of a PEM block the last line of the key is marked: who cuts only the header
has not redacted it.
"""

# Scanners of code hosts raise alarm over whole tokens, so each is cut into pieces by ¦ and joined when it is read.
ROWS: dict[str, str] = {
    "secret": r"""
OPENAI_API_KEY=⟦sk-proj-¦UYs5OHn1JpuVEv5K1yB6wQrC¦6vNXSLpb0og0v2n0MKdxQ2tx¦D4IQOJtwmFxYgHNFIAPZI2KC¦pST3¦
    BlbkFJQcf1m0cwD7Pen¦8Q4xQzKA51MqlJ8yVO94b7g7¦tnoU0s4YojYVipUn01SoNjrD¦HtqSsXrd5V6NV⟧
client = OpenAI(api_key="⟦sk-¦a02LX1qaPHXHrIxTWExpT3¦B¦lbkFJ9CacBsRUzvsnVlWviHc¦O⟧") # 401 why
here is my openai key ⟦sk-proj-¦8lqhV91w7Ep9dqtP7TCnqTA2¦s2P6KQnEJEkeoW2SE3U5wZkV¦3nFCBJeCu5DDHXe0YRtfSaeO¦arT3¦
    BlbkFJ9i5N5t2YA90Ev¦JhRtxtFfotPexrnH5NSTpVnJ¦RrGOnlsXTssZ7SqF5naN3zzy¦xIPY4xsxq8mru⟧ can you check my usage
export ANTHROPIC_API_KEY=⟦sk-ant-¦api03-KODxY5KLfxX9gaa7I9¦a1T9fITMLA9uhYyGp1csGFVK¦iff-PCc8QTFk6PJrR56MZH3v¦
    htga63p1jt_1uOMVnRvr8WGB¦LTrAA⟧
anthropic = Anthropic(api_key='⟦sk-ant-¦api03-DYpu1a6dUxSuFXwrnD¦7dhRuI9P2GZRhNfkaWAKysin¦5Qq-eYFwN2qJtnZc2Ss8UdqO¦
    FWoR4hpOpB_wUh0huhO7TyTK¦s4JAA⟧')
aws_access_key_id = ⟦AK¦IA¦RUPQBNCY2DEX3RLW⟧
Credentials: ⟦AS¦IA¦CKPOL4NW2GWR54RF⟧ (session) expired, how do I refresh
aws_secret_access_key = ⟦jyhmA+RRuYqcrVGJAZaoVCWC¦9slw+T8mXE0sPO+K⟧
AWS_SECRET_ACCESS_KEY="⟦IlpwdV1NNA+HEaZhTQH2ACYe¦tl80TmboHDb32Tuy⟧" in my .bashrc, is that ok?
git clone https://⟦ghp_¦z8QXMotlEqorxYxPLnpaQAyG¦LlDqec2g8BVB⟧@github.com/basalt/tools.git fails
GITHUB_TOKEN: ⟦ghs_¦FCvWrIbCuhT3J1hClrPS7nsE¦mM7DGN1fIim2⟧
gh auth login with ⟦gho_¦Eg8BfA5iKIWG1Dg6tRUP1qFl¦aUUxCK3YbY36⟧ says bad credentials
PAT ⟦github_pat_¦11SzdnMTcxlk1DrvXkhNiJ_9¦r43g3qLaVYS9HMI6aqyvSyJE¦VwxO7tgzMochxfyYg6ioAMau¦c9ETusKXhl⟧ needs which
    scope?
GITLAB_TOKEN=⟦glpat-¦W6Il6YZorFdvHwP6lbWd⟧
curl --header "PRIVATE-TOKEN: ⟦glpat-¦W0NfxU9D5GmAIr1r2N5X⟧" https://gitlab.example.com/api/v4/projects
slack_sdk.WebClient(token="⟦xoxb-¦635724139197-17883091540¦20-x31MTGm3XVqW7rQ31dYzR¦xPS⟧")
ich habe ⟦xoxp-¦094406186815-91930320019¦60-6216683705460-135e3d3¦fa2da0d10e5048d4bbd5511e¦c⟧ aus Versehen gepostet,
    was nun?
https://hooks.slack.com/¦services/T0X5OTFRNAE/B0V6S5P5MVL/⟦¦hYMghtODeb9C¦yNeU8JimYOZh⟧ posts but no text shows up
stripe.api_key = "⟦sk_¦live_¦YoeO6ecQoiqavvpE3mCb0Qpv⟧"
STRIPE_RESTRICTED=⟦rk_¦live_¦muuu0tE1yix7iTTULwWgEKUU⟧
endpoint_secret = '⟦whsec_¦qsmUNvLAzzw61H8eyPCKfc8s¦xlwuDvOv⟧'
const maps = "https://maps.googleapis.com/maps/api/js?key=⟦AI¦za¦Sy2O5Nmd4UzM7LKoF6HwnvNz¦0OQbzmHRssW⟧"
GOOGLE_CLIENT_SECRET=⟦GOC¦SPX-¦v4k1unFGL5z6oI7HNice0is5¦E2tv⟧
firebase: { apiKey: "⟦AI¦za¦SyDqEApNGQtTyC4r0oL43PAx¦fg4QAQjsfP9⟧", projectId: "teapot" }
HF_TOKEN=⟦hf_¦nRzYoCeExuFfzqjcPItyBkOx¦RRVawhOYvI⟧ python train.py
login(token="⟦hf_¦QZCAvWKvTFieLcBQkXvJXBwW¦fWzpKVKBBh⟧")
Authorization: Bearer ⟦ey¦JhbGciOiJIUzI1NiIsInR5cC¦I6IkpXVCJ9.¦ey¦JzdWIiOiIzOTMzNDQiLCJpYX¦QiOjE3NDEyNDQzMDd9¦
    .R_uqo1lTkQ3c7svL8eAJ9BCx¦ytOIXbnB23UBPRNpz3k⟧
decode this for me: ⟦ey¦JhbGciOiJIUzI1NiIsInR5cC¦I6IkpXVCJ9.¦ey¦JzdWIiOiIzNDM2MjQiLCJpYX¦QiOjE3NDEyMTA4Mjl9¦
    .qBrsBEOtekvjWAGvukt9KN_D¦1VT1qiIp43sqPWxLqgY⟧
curl -H "Authorization: Bearer ⟦u9Y0Z75Tfs27JzyjwXKZ¦9Is23FNjcOue1RdWGxDF⟧" https://api.fernbrook.net/v2/me
-----BEGIN ¦RSA ¦PRIVATE KEY-----⏎MIIDbw9fAPrSDPdeET6+/cYh0jb¦hA0B+OJH/6YREU7xPkaurCMo¦
    lQ8jQAzxTYCed⏎⟦aZ/Cdt2qBp4uwP6hxtlpkdIi¦XhMtQGrIEXr8v1RkAh9=⟧⏎-----END ¦RSA ¦PRIVATE KEY-----⏎why does openssl say
    unable to load key
-----BEGIN ¦OPENSSH ¦PRIVATE KEY-----⏎b3BlbnNzaC1rZXktdjEAe3bFfHN1JLKJ3BXAsM4XYqSD¦sL0sfEPT+40xRexrNLOjboyC¦
    tcIXWWH8o9fpvWFJapV⏎⟦jaSY9JylB1ZPVJ5bWdACyL9F¦g1YbMzL/dAadOmcB3+u2eInb¦obk=⟧⏎-----END ¦OPENSSH ¦PRIVATE KEY-----
key: |⏎  -----BEGIN ¦EC ¦PRIVATE KEY-----⏎  MIINsxEl7tcMnVzyn5/QGc9H8cS¦KzmEtb6lrNaJ9X5Qd49DS0md¦
    yYE8BJvAUJ3FM⏎  ⟦TpOuK1pZ668XBOthAVGonOO6¦nJ/=⟧⏎  -----END ¦EC ¦PRIVATE KEY-----
DATABASE_URL=postgres:¦//shop:⟦tG7¦vq9Lm2x⟧@db.fernbrook.net:5432/shop
postgresql+psycopg:¦//svc_report:⟦Kestrel¦-4471-moor⟧@10-db.internal/reports cannot connect
mysql:¦//root:⟦R0tkehl¦chen!⟧@mysql.lan/wordpress
mongodb+srv:¦//api:⟦pZ4u¦Wc81NqYe⟧@cluster0.fern.mongodb.net/?retryWrites=true
redis:¦//:⟦c9fd¦17ae60b2⟧@cache.fernbrook.net:6379/0
amqp:¦//worker:⟦sluice¦_gate_19⟧@mq.fernbrook.net//
pip install --index-url https://ci:⟦vN3b¦Xk7t2Q⟧@packages.fernbrook.net/simple teapot
DB_PASSWORD=⟦Vk8#p¦Q2!zr⟧
spring.datasource.password=⟦h4rbor¦Lights77⟧
MYSQL_ROOT_PASSWORD: ⟦tiger¦1987⟧
"password": "⟦m8$Lw¦0rtle_Q⟧", what's wrong with this config
conn = psycopg.connect(host="db", user="app", password="⟦qU!et¦otter42⟧")
$cfg['blowfish_secret'] = '⟦4fK9x¦Lq2Tz7Bv1Nw6Ys3Hd8Jm5Rc0Pg⟧';
SECRET_KEY = "django-insecure-⟦k3@v7!w¦9z^0r$2p&x5n8q(b1t)m4c6f_h_d-j+l=s⟧"
api_key: ⟦9b1c4e7a¦2f8d4c0b9a6e3f5d7c1b8a40⟧
x-api-key: ⟦Qe7Rt2¦Yu9Io4Pa6Sd1Fg8Hj3⟧ gives 403
GET /v1/forecast?city=Ulm&appid=⟦5f2c8e0b¦7d914a36bb0e92d1c7f4a865⟧ works in the browser only
https://api.tidepool.org/export?access_token=⟦u7Yh3K¦w9Zp2Lx5Vb8Nq1⟧&format=csv
//npm.fernbrook.net/:_authToken=⟦npm_¦ueaxRCsYRIeDYt9Yz3D1O4Pu¦k5Xonn0lgY3C⟧
TWINE_PASSWORD=⟦pypi-¦AgEIcHlwaS5vcmcCrIJyAuQ6¦w86i7nTMGFyO1zFpPuOjZp6r¦xAcorwWGPzpKsGo0q1TO87Ro¦
    wGufP5GKnCv7UujHV0zKV35i¦4FIlNPHSbgIhK8MgPgrvtp9P¦iNhC5AelEFH4J51eacNNfoqm¦fk⟧
sgMail.setApiKey('⟦SG.¦LHtFZ91cMrjfwtinOciiYH.I¦Ao2WpZYXFLfPW5BjMM3V719m¦YBwtGYILwGFCnuoDkS⟧')
twilio api key ⟦SK¦ed39c8fd46298e4f115fcabd¦64415230⟧ and the secret is set elsewhere
TWILIO_AUTH_TOKEN=⟦f1915dbab3e42dc8¦350f5e4ff9c61dd4⟧
bot = telebot.TeleBot("⟦6417324544:¦AAaLh2VHDiwk5KGSdJ47U4vCHo¦BDEct7vYB⟧")
AccountName=fernstore;AccountKey=⟦ydTpJlIL7p0jdgixCDwk6ZU/¦GG/Wu1H2UXMgAQMrwHbCLO4h¦WWXki+xOVGeEBi/vZyqQD4bR¦
    S+IM9zvf/ntffw==⟧;EndpointSuffix=core.windows.net
DIGITALOCEAN_TOKEN=⟦dop_v1_¦530357e228c70f404ee979a1¦55b6ed620bd3ad067d585f8d¦f1ea0e6f6fc11930⟧
DISCORD_TOKEN = '⟦MTuYwm4kfzICgZ¦0Dn4S74jLiUK¦.G8xpn3.¦e7KdWa82l1RsKU8GUNuWfwKC¦gdjrvDYxD4mogl⟧'
SHOPIFY_TOKEN=⟦shpat_¦ef4e2a3f4f0c2acd54d90d5f¦002c9283⟧
groq key is ⟦gsk_¦EaUX4QvrdolGFkiDL69RN6Kj¦cYyWXUw2nJFOOkJzVRW2bz00¦jV2r⟧, how do I list models
machine api.fernbrook.net login ci password ⟦Wren-¦88-Copse⟧
curl -u admin:⟦Sp4rrow¦hawk!⟧ https://grafana.fernbrook.net/api/org
sshpass -p '⟦0ld¦Oak-Lane⟧' ssh pi@raspi.local
docker login -u fern -p ⟦dckr_pat_¦7hQ2mX9vB4kT1nW6zR3y⟧
The wifi password is ⟦Sommer¦wiese2019⟧, make a nice sign for the guests
Mein Passwort lautet ⟦Blau¦beere!73⟧, ist das sicher?
mon mot de passe : ⟦Tourne¦sol_1994⟧
mi contraseña es ⟦gato¦Negro#55⟧
minha senha: ⟦Cajueiro¦@2020⟧
hasło: ⟦Zielona¦Zaba9!⟧ nie działa
我的密码是⟦tian¦Kong#8826⟧，安全吗
пароль: ⟦Bereza¦_2011!⟧
apiVersion: v1⏎kind: Secret⏎stringData:⏎  client_secret: ⟦e8Xq¦ZB2_mT5nKw7-yR4j⟧
""",
}
