import re

import pytest
import yaml

from kvhelpers.__main__ import main
from kvhelpers.errors import InputError
from kvhelpers.guard.definition import SourceRuns, load_definition
from kvhelpers.guard.source import Source
from kvhelpers.paths import REPOSITORY

ACTIONS = {
    "kind": "actions",
    "name": "made",
    "objective": "See.",
    "sources": [{"experiment": "002-compression-sweep", "conditions": ["tova 0.875"]}],
}
LIVE = ACTIONS | {"kind": "live", "policies": ["none", "press"]}


@pytest.fixture
def load(tmp_path):
    def load(data, **overrides):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(data))
        return load_definition(path, None, overrides)

    return load


@pytest.mark.parametrize("name", ("011-what-an-action-can-do", "012-live-guard"))
def test_the_repository_s_studies_are_read_and_their_sources_are_there(name):
    definition = load_definition(REPOSITORY / "experiments" / f"{name}.yaml")
    assert definition.name == name
    for part in definition.sources:
        assert list(Source(part).conditions) == list(part.conditions)


def test_values_can_be_overridden(load):
    assert load(ACTIONS, runs=3).runs == 3


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (ACTIONS | {"kind": "action"}, "kind 'action' is unknown; did you mean 'actions'?"),
        (ACTIONS | {"run": 3}, "key 'run' is unknown; did you mean 'runs'?"),
        (ACTIONS | {"runs": 0}, "runs 0 is not allowed"),
        (ACTIONS | {"relax": 1.5}, "relax 1.5 is not allowed"),
        (
            LIVE | {"policies": ["none", "press", "canary_comit"]},
            "policy 'canary_comit' is unknown; did you mean",
        ),
        (
            ACTIONS | {"rows": {"count": 3, "at": ["onsets"]}},
            "rows.at 'onsets' is none of the places onset − 16, onset − 10, onset − 5, onset",
        ),
        (LIVE | {"policies": ["press"]}, "it needs none, beside which the others stand"),
        (LIVE | {"false_alarms": 2}, "false_alarms 2 is not allowed"),
    ],
)
def test_bad_definitions_are_told_in_a_sentence(load, data, sentence):
    with pytest.raises(InputError, match=".") as caught:
        load(data)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (("002-compression-sweep", "tova 0.9"), "condition 'tova 0.9' is unknown; did you mean 'tova 0"),
        (
            ("007-question-position", "snapkv 0.875", "snapkv 0.875 (question first)"),
            "make their prompts otherwise; name them in different studies",
        ),
        (("no-such-experiment", "none"), "experiment 'no-such-experiment' has no finished condition"),
        (
            (
                "004-budgets-and-decoding",
                "DecodingPress 0 (knorm, compression_interval=8, target_size=128)",
            ),
            "compresses while decoding; no action can be taken on its runs",
        ),
    ],
)
def test_sources_that_cannot_be_acted_on_are_refused(part, sentence):
    experiment, *conditions = part
    with pytest.raises(InputError) as caught:
        Source(SourceRuns(experiment=experiment, conditions=tuple(conditions)))
    assert sentence in str(caught.value)


def test_the_command_ends_with_one_sentence(tmp_path, capsys):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(LIVE | {"policies": ["none", "press", "guess"]}))
    assert main(["guard", str(path)]) == 2
    assert capsys.readouterr().err.startswith("kvhelpers: error: policy 'guess' is unknown")


def test_the_documentation_s_guard_acts(capsys):
    code = re.search(r"```python\n(.*?)```", (REPOSITORY / "docs" / "guard.md").read_text(), re.DOTALL)
    exec(code[1], {})
    assert "Acted(name='restore'" in capsys.readouterr().out
