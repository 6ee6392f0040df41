"""The two rules that find an answer are those of lm-evaluation-harness's task ``gsm8k``: its own filters and
metric, as its task file sets them up, say the same of every committed answer.
"""

import re
from importlib.resources import files

import pytest
import yaml
from samples import SAMPLES

from kvhelpers.experiment.results import read_experiment
from kvhelpers.paths import samples_dir
from kvhelpers.tasks.answers import extract_answer, is_number, is_right

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
NO_MATCH = "[invalid]"  # of the harness's filters
ODD = (
    "",
    "no number",
    "#### 18",
    "####18",
    "#### -1,234.50 and #### 7",
    "so $18.00.",
    "it costs $, or ..",
    "1,2,3 – 4.",
    "a\n#### 5\nQuestion: next?\n#### 6",
    "**\\boxed{\\$18}**",
    "3 × 4 = 12 eggs\n\n#### twelve",
    "#### .",
    "½ of 10",
    "8. Hope that helps... :)",
    "#### \u22128",
    "\\boxed{8}$.",
)


@pytest.fixture(scope="module")
def task():
    """The harness's task file, as it is installed."""
    return yaml.safe_load((files("lm_eval") / "tasks/gsm8k/gsm8k.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def harness(task):
    """The strings that the harness extracts from some texts, by rule."""
    from lm_eval.api.instance import Instance
    from lm_eval.filters import build_filter_ensemble

    def extract(texts):
        texts = [_cut(text, task["generation_kwargs"]["until"]) for text in texts]
        instances = [Instance("generate_until", {}, ("", {}), i, resps=[t]) for i, t in enumerate(texts)]
        for config in task["filter_list"]:
            steps = [
                (step["function"], {key: value for key, value in step.items() if key != "function"})
                for step in config["filter"]
            ]
            build_filter_ensemble(config["name"], steps).apply(instances)
        return [instance.filtered_resps for instance in instances]

    return extract


def _cut(text, until):
    for stop in until:
        text = text.split(stop, 1)[0]
    return text


def _exact_match(task, prediction, reference):
    """Whether the harness's metric takes two strings for the same, with the task's settings."""
    from lm_eval.api.metrics import exact_match_hf_evaluate

    (metric,) = task["metric_list"]
    settings = {key: metric[key] for key in ("regexes_to_ignore", "ignore_case", "ignore_punctuation")}
    return bool(exact_match_hf_evaluate([prediction], [reference], **settings)["exact_match"])


def _found(task, string):
    """What the harness's metric compares of an extracted string; None where nothing was extracted."""
    for pattern in task["metric_list"][0]["regexes_to_ignore"]:
        string = re.sub(pattern, "", string)
    return None if string == NO_MATCH else string


def _different(task, harness, texts, answers):
    """Answers that the harness's filters find otherwise."""
    told = [{"strict-match": answer.strict, "flexible-extract": answer.flexible} for answer in answers]
    theirs = [{rule: _found(task, string) for rule, string in found.items()} for found in harness(texts)]
    return [(ours, they) for ours, they in zip(told, theirs, strict=True) if ours != they]


@pytest.mark.parametrize("name", SAMPLES)
def test_the_harness_finds_the_same_in_every_committed_answer(name, task, harness):
    records = [record for result in read_experiment(name, samples_dir()) for record in result.records]
    assert len(records) > 50 and all(is_number(record.reference) for record in records)
    assert _different(task, harness, [r.text for r in records], [r.answer for r in records]) == []


def test_the_harness_finds_the_same_in_odd_answers(task, harness):
    answers = [extract_answer(text, task["generation_kwargs"]["until"]) for text in ODD]
    assert _different(task, harness, ODD, answers) == []
    assert _different(task, harness, ["#### 1 2"], [extract_answer("#### 12")]) != []


@pytest.mark.parametrize("name", SAMPLES)
def test_the_harness_judges_the_same_but_for_numbers_that_are_spelt_otherwise(name, task, harness):
    """``18.00`` is 18 here; the harness compares strings."""
    records = [record for result in read_experiment(name, samples_dir()) for record in result.records]
    for record, filtered in zip(records, harness([r.text for r in records]), strict=True):
        for rule, value in (
            ("strict-match", record.answer.strict),
            ("flexible-extract", record.answer.flexible),
        ):
            theirs = _exact_match(task, filtered[rule], f"worked out\n#### {record.reference}")
            ours = value is not None and is_right(value, record.reference)
            spelt_otherwise = ours and value != record.reference
            assert ours == theirs or spelt_otherwise, (record.prompt_id, rule, value, record.reference)
