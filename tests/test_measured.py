"""How good the redaction and the classifier are, on corpora written apart from them; the documents say the same."""

from collections import Counter
from pathlib import Path

from categories_sample import SAMPLE
from redaction_corpus import NEGATIVES, POSITIVES

from honed.server.store.categories import CATEGORIES, classify
from honed.server.store.redaction import KINDS, redact

DOCS = Path(__file__).parent.parent / "docs"


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def redaction_table() -> list[str]:
    """Recall by kind; precision over all: of the texts in which something was found, those in which something was."""
    found = Counter(each.kind for each in POSITIVES if each.span not in redact(each.text).text)
    rows = ["| kind | found | recall |", "|---|---|---|"]
    for kind in KINDS:
        whole = sum(each.kind == kind for each in POSITIVES)
        rows.append(f"| {kind} | {found[kind]} of {whole} | {percent(found[kind], whole)} |")
    rows.append(f"| all | {found.total()} of {len(POSITIVES)} | {percent(found.total(), len(POSITIVES))} |")
    mistaken = sum(redact(each.text).text != each.text for each in NEGATIVES)
    precision = percent(found.total(), found.total() + mistaken)
    return [*rows, "", f"{mistaken} of the {len(NEGATIVES)} look-alikes were changed: precision {precision}."]


def categories_table() -> list[str]:
    right = Counter(category for prompt, category in SAMPLE if classify(prompt) == category)
    said = Counter(classify(prompt) for prompt, _ in SAMPLE)
    rows = ["| category | recall | precision |", "|---|---|---|"]
    for category in CATEGORIES:
        whole = sum(each == category for _, each in SAMPLE)
        rows.append(f"| {category} | {percent(right[category], whole)} | {percent(right[category], said[category])} |")
    return [*rows, "", f"{right.total()} of {len(SAMPLE)} are right: {percent(right.total(), len(SAMPLE))}."]


def test_the_redaction_is_as_good_as_the_documents_say() -> None:
    table = "\n".join(redaction_table())
    assert table in (DOCS / "privacy.md").read_text(), table
    found = sum(each.span not in redact(each.text).text for each in POSITIVES)
    mistaken = sum(redact(each.text).text != each.text for each in NEGATIVES)
    assert found >= 0.97 * len(POSITIVES)
    assert found >= 0.97 * (found + mistaken)


def test_the_classifier_is_as_good_as_the_documents_say() -> None:
    table = "\n".join(categories_table())
    assert table in (DOCS / "data.md").read_text(), table
    assert sum(classify(prompt) == category for prompt, category in SAMPLE) >= 0.75 * len(SAMPLE)
