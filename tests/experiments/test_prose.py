"""Each number in what a person wrote into a log stands in that log's tables, its definition or its CSVs."""

import re

import numpy as np
import pandas as pd
import pytest
import yaml

from kvhelpers.paths import REPOSITORY, experiment_file

LOGS = sorted(path.stem for path in (REPOSITORY / "experiments").glob("[0-9]*.md"))
MARKED = re.compile(r"<!-- conclusions:[^>]*-->\n(.*?)<!-- end -->", re.DOTALL)
SECTION = re.compile(r"^## Conclusions\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
TABLE, CODE = (
    re.compile(r"^\|.*$", re.MULTILINE),
    re.compile(r"^```.*?^```|`[^`]*`", re.DOTALL | re.MULTILINE),
)
NUMBER = re.compile(r"(?<![\w.,])[.−+-]?\d[\d,]*(?:\.\d+)?(?![\w]|\.\d)")
OTHER_LOGS = re.compile(r"\b0\d\d\b|^\d+\. |\]\([^)]*\)|\b95 %", re.MULTILINE)  # list items, links, the level
A_ROW_A_RUN = {"runs.csv", "live.csv", "kept.csv"}  # in which each small number would be found


def numbers(text):
    """The numbers in a text, each with its decimals."""
    found = (one.replace(",", "").replace("−", "-") for one in NUMBER.findall(text))
    return [(abs(float(one)), len(one.partition(".")[2])) for one in found]


def known(name):
    """All values that a log's tables, definition and CSVs hold; shares in percent too."""
    log = (REPOSITORY / "experiments" / f"{name}.md").read_text(encoding="utf-8")
    values = [value for line in TABLE.findall(log) for value, _ in numbers(line)]
    if (definition := experiment_file(name)).is_file():
        values += [value for value, _ in numbers(str(yaml.safe_load(definition.read_text(encoding="utf-8"))))]
    for path in (REPOSITORY / "figures" / name).rglob("*.csv"):
        if path.name not in A_ROW_A_RUN:
            of_table = pd.read_csv(path).select_dtypes("number").to_numpy().ravel()
            values += list(np.abs(of_table[np.isfinite(of_table)]))
    return np.array([*values, *(100 * value for value in values if value <= 1)])


def prose(log):
    """What a person wrote: what stands between the marks, else the section with the conclusions."""
    text = "\n".join(MARKED.findall(log) or SECTION.findall(log))
    return OTHER_LOGS.sub(" ", CODE.sub(" ", TABLE.sub(" ", text)))


def not_found(text, values):
    """The numbers of a text that no value is, rounded as they are written."""
    return [n for n, digits in numbers(text) if not (np.abs(values - n) <= 0.5000001 * 10**-digits).any()]


@pytest.mark.parametrize("name", LOGS)
def test_each_number_of_the_prose_is_one_of_the_data(name):
    text = prose((REPOSITORY / "experiments" / f"{name}.md").read_text(encoding="utf-8"))
    assert len(text.split()) > 50, "nobody wrote conclusions"
    assert not_found(text, known(name)) == []


def test_what_counts_as_found():
    values = np.array([0.4467, 44.67, 1234.0, 17.0, 0.05])
    found = "45 % of 1,234 runs [44.7, .45], −17 points, q < .05, as in 012 and `budget 33`; 95 % intervals"
    assert not_found(prose(f"## Conclusions\n\n1. {found}\n\n| 33 |\n\n## Next steps\n\n99\n"), values) == []
    marked = "# 5\n<!-- conclusions: a person's words -->\n46 %, 0.4, .46\n<!-- end -->\n7\n"
    assert not_found(prose(marked), values) == [46, 0.46]
