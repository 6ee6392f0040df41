"""A condition, a grid of conditions, their results on disk, and running one condition.

This is where a run becomes a file and a file becomes a checked `ConditionResult`. It knows one condition at a
time, and the files of an experiment; it does not compare conditions (`kvhelpers.signals`) and starts no
workers (`kvhelpers.commands`). Reading results loads no torch: names are loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "condition": ["Condition", "make_condition"],
        "grid": ["Contrast", "Experiment", "find_experiment", "finished_results", "load_experiment"],
        "identity": ["check_here", "identity"],
        "results": [
            "ConditionResult",
            "find_baseline",
            "find_finished",
            "flags_of",
            "is_invalid",
            "read_result",
        ],
        "run": ["run_condition", "uncompressed_run"],
    },
)
