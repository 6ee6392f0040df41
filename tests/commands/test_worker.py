"""A worker without memory ends; what else it says is written as before."""

import subprocess
import sys

import dask
import pytest

from kvhelpers.commands.cluster import preloads
from kvhelpers.commands.worker import OUT_OF_MEMORY

SAY = """
import logging, sys
from kvhelpers.commands.worker import dask_setup
logging.getLogger("distributed").addHandler(logging.StreamHandler(sys.stderr))
dask_setup(None)
try:
    {error}
except Exception:
    logging.getLogger("distributed.protocol.core").critical("failed", exc_info=True)
print("it goes on")
"""
WHILE = "try:\n        raise MemoryError\n    except MemoryError:\n        raise ValueError('in its wake')"


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        ("raise MemoryError", True),
        ('raise RuntimeError("can\'t start new thread")', True),
        (WHILE, True),
        ("raise ValueError('of another kind')", False),
    ],
)
def test_a_message_about_lost_memory_ends_the_process_unwritten(error, ends):
    run = subprocess.run([sys.executable, "-c", SAY.format(error=error)], capture_output=True, text=True)
    assert run.returncode == (OUT_OF_MEMORY if ends else 0)
    assert ("Traceback" in run.stderr) != ends and ("it goes on" in run.stdout) != ends


@pytest.mark.parametrize("named", ["one.py", ["one.py"]])  # by an environment variable, or by a file
def test_a_preload_of_dask_s_own_configuration_is_loaded_too(named):
    with dask.config.set({"distributed.worker.preload": named}):
        assert preloads() == ["kvhelpers.commands.worker", "one.py"]
