"""The settings of training: what they refuse, and that docs/training.md has every one of them as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from honed.cli.options import option_name
from honed.training.configs import CONFIGS, STAGES, DataConfig, PPOConfig, RunConfig, SFTConfig, Stage

DOCUMENT = Path(__file__).parent.parent / "docs" / "training.md"
HEAD = "| option | default | what it sets |"


def shown(default: Any) -> str:
    """A default as it is typed; nothing where it is unset, and what a flag stands for where it is left out."""
    if default is None:
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, tuple):
        return f"`{','.join(f'{each:g}' for each in default)}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def documented_fields(stage: Stage | None) -> list[str]:
    """A stage's own settings and those that it sets otherwise; of None, those that all stages have."""
    if stage is None:
        return list(RunConfig.model_fields)
    common = RunConfig.model_fields

    def is_own(name: str) -> bool:
        field = CONFIGS[stage].model_fields[name]
        return name not in common or (field.default, field.description) != (
            common[name].default,
            common[name].description,
        )

    return [name for name in CONFIGS[stage].model_fields if is_own(name)]


def docs_tables() -> dict[str, list[str]]:
    """Heading -> the lines of the table below it in docs/training.md."""
    tables: dict[str, list[str]] = {}
    for stage in (None, *STAGES):
        model = RunConfig if stage is None else CONFIGS[stage]
        fields = [(option_name(name), model.model_fields[name]) for name in documented_fields(stage)]
        rows = [f"| `{option}` | {shown(field.default)} | {field.description} |" for option, field in fields]
        tables[f"honed train{f' {stage}' if stage else ''}"] = [HEAD, "|---|---|---|", *rows]
    return tables


def tables_of(text: str) -> dict[str, list[str]]:
    """Heading of the third level -> the lines of the tables of options below it."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        body = re.split(r"^##? ", body, flags=re.MULTILINE)[0]
        table = re.search(rf"^{re.escape(HEAD)}\n(?:\|.*\n?)+", body, re.MULTILINE)
        if table:
            found[heading.replace("`", "").strip()] = table[0].splitlines()
    return found


@pytest.mark.parametrize("heading", docs_tables())
def test_the_documents_tables_are_the_settings(heading: str) -> None:
    wanted = docs_tables()[heading]
    assert tables_of(DOCUMENT.read_text(encoding="utf-8")).get(heading) == wanted, "\n".join(["", *wanted])


def test_tables_are_found_where_they_stand() -> None:
    text = (
        f"# T\n\n{HEAD}\n|---|---|---|\n| not this |\n\n"
        f"### `honed train sft`\n\nWords.\n\n{HEAD}\n|---|---|---|\n| a |\n\n"
        f"More.\n\n### honed train ppo\n\nNone.\n\n## Another\n\n{HEAD}\n| nor this |\n"
    )
    assert tables_of(text) == {"honed train sft": [HEAD, "|---|---|---|", "| a |"]}


def test_every_stage_has_its_settings() -> None:
    assert tuple(CONFIGS) == STAGES
    for model in CONFIGS.values():
        assert issubclass(model, RunConfig)
        assert model().model_copy(update={"seed": 1}) != model()  # the defaults hold together
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name} says nothing of itself"
            assert field.description.endswith("."), f"{model.__name__}.{name}: a sentence ends with a full stop"
            assert "|" not in field.description, "it would end a cell of the table"
            assert "[" not in field.description, "help would take it for markup"


def test_a_stages_own_settings_are_told_from_those_of_all() -> None:
    own = documented_fields("reward")
    assert own[0] == "learning_rate"  # set otherwise
    assert "answer_tokens" in own
    assert "seed" not in own
    assert set(DataConfig.model_fields) < set(documented_fields(None))


@pytest.mark.parametrize(
    ("stage", "given"),
    [
        ("sft", {"epochs": 0}),
        ("sft", {"dropout": 1.0}),
        ("sft", {"learning_rate": 0}),
        ("sft", {"validation": -0.1}),
        ("sft", {"max_per_user": 0}),
        ("sft", {"dtype": "float16"}),
        ("sft", {"tokens_per_pass": -1}),
        ("sft", {"final_learning_rate": 1.5}),
        ("sft", {"beta": 0.1}),  # another stage's
        ("ppo", {"kl_target": 0}),
        ("ppo", {"gamma": 0}),
        ("ppo", {"gae_lambda": 1.1}),
        ("ppo", {"ema": 1}),
        ("kto", {"batch_size": 1}),
    ],
    ids=str,
)
def test_what_is_out_of_range_is_refused(stage: Stage, given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        CONFIGS[stage](**given)
    assert [error["loc"] for error in caught.value.errors()] == [(next(iter(given)),)]


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (1.2, -0.2, 0.0), (0.2, 0.3, 0.4)], ids=str)
def test_shares_of_stages_add_up(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValidationError, match="stage_shares: three shares that add up to 1"):
        SFTConfig(stage_shares=shares)
    assert SFTConfig(stage_shares=(1.0, 0.0, 0.0)).stage_shares == (1.0, 0.0, 0.0)
    assert sum((0.7, 0.2, 0.1)) != 1  # rounding is no fault
    assert SFTConfig(stage_shares=(0.7, 0.2, 0.1))


def test_a_target_that_no_coefficient_can_be_adapted_to_is_refused() -> None:
    with pytest.raises(ValidationError, match="kl_coefficient: above 0"):
        PPOConfig(kl_target=6.0, kl_coefficient=0.0)
    with pytest.raises(ValidationError, match="kl_horizon: more than a fifth of batch_size, 102"):
        PPOConfig(kl_target=6.0, batch_size=512, kl_horizon=102)  # it would become negative
    assert PPOConfig(kl_target=6.0, batch_size=512, kl_horizon=103)
    assert PPOConfig(kl_coefficient=0.0)


@pytest.mark.parametrize("name", ["samples_per_prompt", "minibatches"])
def test_a_round_of_ppo_is_shared_out_without_rest(name: str) -> None:
    sizes = {"batch_size": 64, "samples_per_prompt": 4, "minibatches": 4}
    with pytest.raises(ValidationError, match="batch_size: a multiple of samples_per_prompt times minibatches, 20"):
        PPOConfig.model_validate(sizes | {name: 5})
    assert PPOConfig.model_validate(sizes | {name: 16})


def test_settings_stay_as_they_are() -> None:
    config = SFTConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 2  # what is refused
    assert SFTConfig.model_validate_json(config.model_dump_json()) == config  # as a lineage keeps them
