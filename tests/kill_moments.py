"""Run kvhelpers until a named moment, then ``kill -9`` it with its workers. `test_kill` runs this file.

``python kill_moments.py MOMENT run FILE …``. The runner's Dask workers read this file too, as a preload, so
that a moment may lie in them: whichever process comes to it first kills the whole process group.
"""

import importlib
import itertools
import os
import signal
import sys
import threading
from dataclasses import dataclass

VARIABLE = "KILLING_MOMENT"


@dataclass(frozen=True)
class Moment:
    """Before, during or after the ``nth`` call, in one process, of a function, named where it is looked up.

    During is two seconds after it began. With ``keyword`` only calls that have it count.
    """

    phase: str
    function: str
    when: str = "before"
    nth: int = 1
    keyword: str | None = None


# the keyword that sets writing a condition's signals apart from writing a prompt's; its JSON has allow_nan
OF_CONDITION = "compression"
MOMENTS = (
    Moment("load", "kvhelpers.experiment.run:load_problems"),
    Moment("load", "kvhelpers.models.load:AutoModelForCausalLM.from_pretrained"),
    Moment("load", "kvhelpers.commands.run:_tools", "after"),
    Moment("prefill", "kvhelpers.generation.prefill:Prefiller.__call__"),
    Moment("prefill", "kvhelpers.generation.prefill:Prefiller._run", "after"),
    Moment("prefill", "kvhelpers.generation.prefill:Prefiller._compress", "after", 2),
    Moment("decode", "kvhelpers.generation.batched_cache:BatchedCache.step"),
    Moment("decode", "kvhelpers.generation.batched_cache:BatchedCache.step", "after", 9),
    Moment("decode", "kvhelpers.generation.choose:Chooser.__call__", "after", 30),
    Moment("checkpoint", "kvhelpers.experiment.checkpoint:Checkpoint.save"),
    Moment("checkpoint", "pyarrow.parquet:write_table", "after"),
    Moment("checkpoint", "kvhelpers.experiment.checkpoint:Checkpoint.save", "after", 2),
    Moment("rename", "os:replace"),
    Moment("rename", "os:replace", "after", 2),
    Moment("rename", "pyarrow.parquet:write_table", "after", keyword=OF_CONDITION),
    Moment("rename", "kvhelpers.experiment.checkpoint:json.dumps", keyword="allow_nan"),
    Moment("rename", "kvhelpers.experiment.run:write_result", "after"),
    Moment("render", "kvhelpers.commands.run:papermill.execute_notebook"),
    Moment("render", "kvhelpers.commands.run:papermill.execute_notebook", "during"),
    Moment("render", "kvhelpers.commands.run:papermill.execute_notebook", "after"),
    Moment("render", "kvhelpers.plots:save", "after"),
    Moment("render", "kvhelpers.log:write_atomic"),
)


def find(moment: Moment) -> tuple[object, str]:
    """The module or class that holds the moment's function, and the function's name there.

    Raises
    ------
    ImportError, AttributeError : it is not there; it may have been renamed.
    """
    module, _, path = moment.function.partition(":")
    *parents, name = path.split(".")
    owner = importlib.import_module(module)
    for parent in parents:
        owner = getattr(owner, parent)
    getattr(owner, name)
    return owner, name


def arm(moment: Moment) -> None:
    """Replace the moment's function by one that counts its calls and kills at the right one."""
    owner, name = find(moment)
    function, calls = getattr(owner, name), itertools.count(1)

    def watched(*args, **kwargs):
        counts = moment.keyword is None or moment.keyword in kwargs
        now = moment.when if counts and next(calls) == moment.nth else None
        if now == "before":
            die()
        if now == "during":
            threading.Timer(2, die).start()
        result = function(*args, **kwargs)
        if now == "after":
            die()
        return result

    setattr(owner, name, watched)


def die() -> None:
    """No process of the group gets to do anything more."""
    os.killpg(0, signal.SIGKILL)


if VARIABLE in os.environ:
    arm(MOMENTS[int(os.environ[VARIABLE])])
if __name__ == "__main__":
    os.environ |= {VARIABLE: sys.argv[1], "DASK_DISTRIBUTED__WORKER__PRELOAD": __file__}
    arm(MOMENTS[int(sys.argv[1])])
    from kvhelpers.__main__ import main

    sys.exit(main(sys.argv[2:]))
