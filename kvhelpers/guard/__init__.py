"""Acting on a run while it goes on: what an action does, what makes one act, and what that costs and gains.

It knows generation's protocol (`generation.watch`) and finished conditions; generation does not know it. A
study here is data; its words and figures are `kvhelpers.report`'s.
"""
