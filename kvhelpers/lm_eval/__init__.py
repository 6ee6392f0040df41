"""Any generative task of lm-evaluation-harness under any press (https://github.com/EleutherAI/lm-evaluation-harness).

`CompressedLM` is a model of the harness, ``kvhelpers`` among its names once this package is imported;
`evaluate` runs tasks with it and leaves this project's results files of the same runs. The harness makes the
prompts and marks the answers. It is an optional extra, and loaded with this package.
"""

from kvhelpers.tasks.harness import needs_harness

try:
    from kvhelpers.lm_eval.evaluation import Evaluation, Prompting, evaluate
    from kvhelpers.lm_eval.model import CompressedLM
    from kvhelpers.lm_eval.recorded import RecordedLM
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "lm_eval":
        raise
    raise needs_harness() from error

__all__ = ["CompressedLM", "Evaluation", "Prompting", "RecordedLM", "evaluate"]
