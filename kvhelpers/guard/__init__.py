"""Acting on a run while it goes on: what an action does, what makes one act, and what that costs and gains.

It knows generation's protocol (`generation.watch`) and finished conditions; generation does not know it. A
study here is data; its words and figures are `kvhelpers.log`'s and `kvhelpers.plots`'s.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "definition": ["load_definition"],
        "policies": ["POLICIES", "run_policy"],
        "study": ["read_study"],
        "one_run": ["risk_of", "risk_over_time", "run_side_by_side"],
    },
)
