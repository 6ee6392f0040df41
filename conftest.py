"""For unit tests and notebooks alike: a temporary output folder, the CPU, and nothing compared that differs
every time.
"""

import os
import tempfile

# ten minutes; tests/test_notebook_hazard.py runs it on a few prompts
collect_ignore = ["notebooks/03_hazard.ipynb"]

# before any test, because notebook kernels inherit the environment
os.environ["KVHELPERS_OUTPUT"] = tempfile.mkdtemp(prefix="kvhelpers-tests-")
os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items):
    """Progress bars and warnings go to stderr and differ every time: nbval must not compare them."""
    for item in items:
        if hasattr(item.parent, "skip_compare") and "stderr" not in item.parent.skip_compare:
            item.parent.skip_compare += ("stderr",)
