"""The settings of the gate as docs/training.md has them and as they are typed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import typer.main
from test_configs import DOCUMENT, HEAD, shown, tables_of
from typer.core import TyperGroup

from honed.cli import app
from honed.cli.options import option_name
from honed.training.configs import DataConfig
from honed.training.evaluation.config import EvaluationConfig

FIELDS = {name: field for name, field in EvaluationConfig.model_fields.items() if name not in DataConfig.model_fields}


def test_the_documents_table_is_the_settings() -> None:
    rows = [
        f"| `{option_name(name)}` | {'required' if field.is_required() else shown(field.default)} "
        f"| {field.description} |"
        for name, field in FIELDS.items()
    ]
    wanted = [HEAD, "|---|---|---|", *rows]
    assert tables_of(DOCUMENT.read_text(encoding="utf-8")).get("honed evaluate") == wanted, "\n".join(["", *wanted])


@pytest.mark.parametrize("name", FIELDS)
def test_a_setting_says_what_it_is(name: str) -> None:
    description = FIELDS[name].description
    assert description is not None
    assert description.endswith(".")
    assert not set("|[") & set(description)


def test_every_setting_is_an_option_but_the_one_of_reward_models() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    options = {option for each in group.commands["evaluate"].params for option in each.opts}
    fields = set(EvaluationConfig.model_fields) - {"judge"}
    assert options == {option_name(name) for name in fields} | {"--database-url", "--quiet"}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"judge": True}, "is a setting of the judge_model's training"),
        ({"judge_url": "http://h/v1"}, "give both, or neither"),
        ({"judge_name": "large"}, "give both, or neither"),
        ({"judge_key_env": "KEY"}, "is nothing without judge_url"),
        ({"judge_url": "h/v1", "judge_name": "x"}, "a URL, as in"),
        ({"judge_url": "http://u:p@h/v1", "judge_name": "x"}, "without a key in it"),
        ({"judge_url": "http://h/v1?key=1", "judge_name": "x"}, "without a key in it"),
        ({"people": 9}, "0, or at least 10"),
        ({"output": "../x"}, "a name, without slashes"),
        ({"output": ".x"}, "a name, without slashes"),
        ({"max_new_tokens": 1024}, "fewer than max_tokens"),
        ({"max_kl": math.inf}, "finite"),
        ({"min_win_rate": 1.0}, "less than 1"),
        ({"temperature": 0}, "greater than 0"),
        ({"learning_rate": 1}, "not permitted"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        EvaluationConfig.model_validate({"candidate": "a", "incumbent": "b", "judge_model": "c"} | given)
