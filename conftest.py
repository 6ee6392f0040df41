"""For unit tests and notebooks alike: folders of their own, no hub, the CPU, and nothing compared that
differs every time.
"""

import os
import tempfile
from pathlib import Path

# before any test, because notebook kernels inherit the environment
own = tempfile.mkdtemp(prefix="kvhelpers-tests-")
os.environ["KVHELPERS_OUTPUT"] = own
os.environ["HF_HOME"] = f"{own}/hub"
os.environ["HF_HUB_OFFLINE"] = "1"
# what a user's cache holds must not decide what passes; the embedded model's conversion stays from run to run
os.environ["KVHELPERS_CACHE"] = str(Path(__file__).parent / ".pytest_cache" / "kvhelpers")
os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items):
    """Progress bars and warnings go to stderr and differ every time: nbval must not compare them."""
    for item in items:
        if hasattr(item.parent, "skip_compare") and "stderr" not in item.parent.skip_compare:
            item.parent.skip_compare += ("stderr",)
