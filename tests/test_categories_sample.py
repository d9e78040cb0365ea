"""The labelled prompts: ten categories of forty, all distinct, and not all in English."""

from collections import Counter

import categories_sample
import categories_sample_more
from categories_sample import SAMPLE

CATEGORIES = {
    "generation", "open_qa", "brainstorming", "chat", "rewrite", "summarization", "classification", "other",
    "closed_qa", "extraction",
}  # fmt: skip
EACH = 40


def test_every_category_has_as_many_prompts() -> None:
    assert Counter(category for _, category in SAMPLE) == dict.fromkeys(CATEGORIES, EACH)


def test_no_category_is_in_both_modules() -> None:
    assert not set(categories_sample.ROWS) & set(categories_sample_more.ROWS)


def test_prompts_are_distinct_texts() -> None:
    folded = Counter(prompt.casefold() for prompt, _ in SAMPLE)
    assert [prompt for prompt, n in folded.items() if n > 1] == []
    for prompt, _ in SAMPLE:
        assert prompt
        assert prompt == prompt.strip()
        assert not set("⏎¦") & set(prompt), prompt


def test_no_wording_gives_a_category_away() -> None:
    """With few first words a category would be told by looking only there."""
    for category in CATEGORIES:
        first = Counter(prompt.split()[0].casefold() for prompt, label in SAMPLE if label == category)
        assert max(first.values()) <= EACH // 6, (category, first.most_common(3))


def test_some_prompts_of_each_category_are_chinese() -> None:
    chinese = {category for prompt, category in SAMPLE if any("\u4e00" <= c <= "\u9fff" for c in prompt)}
    assert chinese == CATEGORIES
