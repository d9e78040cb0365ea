"""The small words around a request: politeness, questions, pointing at a text, labels; and one spelling for all.

Owns what a prompt looks like before it is judged: its ends only, in lower case, without accents and typographic
marks, with Chinese wordings replaced by English ones. Knows no category but those that a label names.

Invariant: `normalised` returns at most so many characters that reading them takes a bounded time.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Final

HEAD_CHARS: Final = 500
TAIL_CHARS: Final = 300

# What stands before a colon in forms and examples, and what it asks for, if anything.
_FORMS: Final[Mapping[str, str]] = {
    "classification": "stars sentiment category label class intent emotion genre department rating type verdict tag",
    "summarization": "summary tldr dr takeaway zusammenfassung resumen resumo recap",
    "extraction": "keywords keyword entities names dates skills",
    "rewrite": "corrected correct rewritten translation original english german french spanish italian paraphrase",
    "closed_qa": "answer a antwort reponse respuesta",
    "": """product title topic tone audience name subject text context question input output sentence passage story
        theme article tweet review q length style format""",
}
LABELS: Final[Mapping[str, str]] = {word: category for category, words in _FORMS.items() for word in words.split()}

_QUESTION_WORDS: Final = """
who what when where why how which whose whom is are does do did can should would could was were has have will am may
whats whos hows wheres wat waht hwo wer wie wann wo warum wieso weshalb welche welcher welches wieviel
qui que quoi quand ou pourquoi comment combien quel quelle quels quelles est quest quien cuando donde por cual
cuanto cuantos cuantas como quem onde qual quais quantos quanto"""
QUESTION_WORDS: Final = frozenset(_QUESTION_WORDS.split())

POLITE: Final = re.compile(
    r"(?:(?:please|pls|plz|hey|hi|hello|hallo|hola|bonjour|ok|so|and|now|then|also|just|bitte|por favor|quickly|kindly"
    r"|(?:can|could|would|will|kannst|konntest|konnen) (?:you|u|du|sie)(?: please| pls)?"
    r"(?! ever| call| feel| be| rather| think)"
    r"|(?:can|could|may) (?:i|we) (?:get|have)|(?:can|could) (?:someone|somebody|anyone|anybody)|id appreciate"
    r"|need(?= (?:an?|some|to) )|(?:i|we)(?:d| would)? (?:really )?(?:need|want|like)(?: you)?(?: to)?"
    r"|i have to|help me(?: to| with)?|let me know"
    r"|you (?:are|will be) (?:given|provided with|required to|asked to)|you (?:should|must|(?:need|have) to)"
    r"|(?:your|the) task is to|if you could|it would be (?:nice|great|helpful) if you (?:could|would)|try to"
    r"|go ahead and|do you know|necesito|quiero|preciso de|mir|peux tu|pouvez vous|puedes|podrias|pode|voce pode"
    r"|sil (?:te|vous) plait|first|tell me(?! a| about| if| how| why| what| who| when| where)) )+"
)
_TEXT: Final = (
    "(?:text|texts|texte|texto|satz|satze|sentence|sentences|passage|paragraph|article|story|email|mail|message|letter"
    "|review|tweet|comment|post|code|snippet|function|document|report|essay|abstract|notes|transcript|conversation"
    "|chat|poem|table|list|excerpt|quote|headline|statement|paper|contract|recipe|resume|bio|word|words|phrase|frase"
    "|invoice|data|facts|information|context|content|one|ad|abschnitt|mensaje|correo|mensagem|lines|json|call"
    "|schedule|instructions|thread|ticket|scene|piece|label|signature|announcement|policy|menu|agreement|lyric"
    "|pdf|file|attachment|image|picture|link|video|website|transcripts|result|answer|messages|log|chapter|note)"
)
GIVEN: Final = re.compile(
    r"(?: (?:the|this|that|these|those|my|our|folgende|folgenden|folgender|diesen|diesem|dieser|diese|den|dem|der|ce"
    r"|cette|le|la|este|esta|esse|el|siguiente|o|following|above|below|attached|provided|given)){1,3}"
    rf"(?: (?!of)[a-z]+)? {_TEXT}(?: (?:above|below|suivant|abaixo|abajo))?(?= )"
    r"| (?:the )?(?:following|below|above|attached|underneath|abajo|abaixo|suivant|given)(?= )"
    r"| (?:this|these|folgendes)(?= (?:\.|for|to|in|into|as|so|please|pls|from|more|less|sound|about|say|mean|written"
    r"|down|up|but|with|by|and|only|again) )"
    r"| it(?= (?:to|into|in|as|shorter|longer|more|less|better|sound|simpler) )"
)
_PERSONAL_WORDS: Final = "i|my|im|i'm|ive|i've|we|our|ich|mein|meine|je|mon|ma|mi|eu|meu"
PERSONAL: Final = re.compile(rf" (?:{_PERSONAL_WORDS}) ")
_CHINESE_WORDS: Final[Mapping[str, str]] = {
    "": "请 帮我 给我 一下",
    "translate into": "翻译成",
    "translate": "翻译",
    "rewrite": "改写 改得 改成 改为",
    "polish": "润色",
    "summarize": "总结 概括 概述 归纳",
    "summary": "摘要",
    "main points": "主要内容 大意 要点",
    "extract": "提取 抽取",
    "list all names": "找出 列出",
    "mentioned": "提到",
    "which category": "分类 归类",
    "decide": "判断",
    "sentiment": "情感 正面 负面",
    "or opinion": "主观 客观",
    "write a": "写",
    "suggestions": "建议 推荐 想法 点子",
    "what are some": "有哪些",
    "how are you": "你好 在吗",
    "your name": "你叫",
    "you are a": "你是",
    "i feel sad": "心情",
    "answer the question": "回答",
    "based on": "根据",
    "following": "以下 下面 这段 下列",
    "why is": "为什么",
    "what": "什么 哪",
    "how many": "几 多少",
    "?": "吗",
}
_CHINESE: Final = {word: f" {english} " for english, words in _CHINESE_WORDS.items() for word in words.split()}
_NUMBERS: Final = "two three four five six seven eight nine ten zwei drei funf zehn trois cinq dix tres cinco"
_SAME: Final = dict.fromkeys(_NUMBERS.split(), "#") | {"oder": "or"}

_TYPED: Final = (("’", "'"), ("‘", "'"), ("“", '"'), ("”", '"'), ("„", '"'), ("«", '"'), ("»", '"'))
_SPACED: Final = (("：", ": "), ("？", "? "), ("。", ". "))

_ARROW: Final = re.compile(r" (?:[-=]>|--?|—|–) | ?->$")
_ARROWS: Final = (" -", "->", "=>", "—", "–")
_HAN: Final = re.compile("[\u4e00-\u9fff]")
_ACCENTS: Final = re.compile("[\u0300-\u036f]")


def normalised(prompt: str) -> str:
    """The two ends of a prompt, spelt as the cues are."""
    if len(prompt) > HEAD_CHARS + TAIL_CHARS:
        prompt = f"{prompt[:HEAD_CHARS]}\n{prompt[-TAIL_CHARS:]}"
    if not prompt.isascii():
        for mark, plain in (*_TYPED, *_SPACED):
            prompt = prompt.replace(mark, plain)
        if _HAN.search(prompt):
            for word, english in _CHINESE.items():
                prompt = prompt.replace(word, english)
        prompt = _ACCENTS.sub("", unicodedata.normalize("NFKD", prompt))
    prompt = prompt.casefold().strip()
    return _ARROW.sub("\n", prompt) if any(map(prompt.__contains__, _ARROWS)) else prompt


def numbered(words: str) -> str:
    """`words` with `#` for each number."""
    return " ".join(["#" if word.isdecimal() else _SAME.get(word, word) for word in words.split()])


def is_chinese(text: str) -> bool:
    return not text.isascii() and _HAN.search(text) is not None
