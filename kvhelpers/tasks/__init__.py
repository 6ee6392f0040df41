"""Tasks: problems with worked solutions, the prompts made of them, and the answers extracted from texts.

It knows the two tasks, their data and lm-evaluation-harness's conventions. It does not know a model (a
tokenizer is handed in), a press, or how an answer came about.
"""

from kvhelpers.tasks.answers import extract_answer, is_right
from kvhelpers.tasks.load import TASKS, data_fingerprint, load_problems
from kvhelpers.tasks.prompts import STOP_STRINGS, Problem, Prompt, build_prompts

__all__ = [
    "STOP_STRINGS",
    "TASKS",
    "Problem",
    "Prompt",
    "build_prompts",
    "data_fingerprint",
    "extract_answer",
    "is_right",
    "load_problems",
]
