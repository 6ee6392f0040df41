"""From prompts to tokens and their signals: prefill, compressed caches, one batch that decodes them together.

It knows a model, presses and token ids. It does not know tasks, answers, what is right or wrong in a run, or
where results are kept. The function is `generate.generate`; the package cannot have it under its own name,
which is its module's.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "limits": ["auto_batch_size", "check_limits"],
        "requests": ["Generation", "Request", "Settings"],
        "watch": ["Acted", "Action", "Watcher"],
        "token_signals": ["canary_signals", "entropy_change", "token_signals"],
    },
)
