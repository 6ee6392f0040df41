"""Which runs of the committed samples are right by which rule: the harness's two, its strict-match or else
its flexible-extract, the one of `kvhelpers.tasks.answers`, and math-verify on what stands behind ``####``
or in ``\\boxed{}``. Each run that this project and another rule judge differently is printed.

pip install "math-verify[antlr4_11_0]" && python benchmarks/answer_rules.py
"""

from __future__ import annotations

import logging
import re

import pandas as pd
from math_verify import parse, verify

from kvhelpers.experiment.results import read_experiment
from kvhelpers.format import markdown_table
from kvhelpers.paths import samples_dir
from kvhelpers.tasks.answers import BOXED, extract_answer, is_right
from kvhelpers.tasks.prompts import STOP_STRINGS

SHOWN = 120  # characters of a text's end


def by_math_verify(text: str, reference: str) -> bool | None:
    """None where the text has neither ``####`` nor a box, which math-verify would read as it likes."""
    line, boxes = re.search(r"####+[ \t]*(\S[^\n]*)", text), [*BOXED.finditer(text)]
    if line is None and not boxes:
        return None
    piece = (line.group(1) if line else f"${boxes[-1].group()}$").replace("\u2212", "-")
    gold, found = (parse(part, parsing_timeout=None) for part in (reference, piece))
    return bool(found) and verify(gold, found, timeout_seconds=None)


def main() -> None:
    """Print the counts by experiment, and the runs."""
    logging.disable(logging.WARNING)  # math-verify warns whenever it has no time limit
    rows = []
    for experiment in sorted(path.name for path in samples_dir().iterdir() if path.is_dir()):
        for result in read_experiment(experiment, samples_dir()):
            for record in result.records:
                answer, text = extract_answer(record.text, STOP_STRINGS), record.text
                for stop in STOP_STRINGS:
                    text = text.split(stop, 1)[0]
                either = answer.flexible if answer.strict is None else answer.strict
                values = {"strict": answer.strict, "flexible": answer.flexible, "either": either}
                judged = {name: is_right(value, record.reference) for name, value in values.items()}
                ours = is_right(answer.value, record.reference)
                theirs = by_math_verify(text, record.reference)
                judged |= {"ours": ours, "math-verify": ours if theirs is None else theirs}
                rows.append({"experiment": experiment, "runs": 1} | judged)
                if judged["either"] != ours or judged["math-verify"] != ours:
                    print(result.label, record.prompt_id, record.reference, judged, repr(text[-SHOWN:]))
    print(markdown_table(pd.DataFrame(rows).groupby("experiment").sum().reset_index()))


if __name__ == "__main__":
    main()
