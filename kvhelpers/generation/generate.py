"""Greedy generation from compressed caches: many prompts at once, each exactly as if it were alone.

Each prompt is prefilled under its press and then joins a batch that decodes with true positions. A row leaves
when it ends and the next prompt takes its place, long prompts first, so that rows of a like length stand
together. In float32 the tokens are those of ``model.generate`` for that prompt alone inside ``with
press(model):``; in half precision rounding depends on the batch and some runs part ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvhelpers.generation.batch import Batch
from kvhelpers.generation.limits import check_formats, check_limits
from kvhelpers.generation.own_press import check_own_presses
from kvhelpers.generation.passes import Passes
from kvhelpers.generation.requests import Generation, Request, Settings
from kvhelpers.generation.self_check import check_model
from kvhelpers.models.load import LanguageModel


def generate(
    lm: LanguageModel, requests: Sequence[Request], settings: Settings, passes: Passes | None = None
) -> Iterator[Generation]:
    """Generate greedily for each request, yielding runs as they end (not in the requests' order).

    Parameters
    ----------
    lm : the model, from `models.load.load_model`.
    requests : prompts with their presses and seeds.
    settings : limits, batch size and what else all prompts share.
    passes : of earlier calls on this model; those of this call are added.

    Raises
    ------
    InputError : what `limits.check_limits` and `limits.check_formats` refuse; a model whose batched runs
        `self_check` does not find exact; a press that acts while decoding, on a model with a sliding window;
        a press of one's own that fails on a prompt.
    """
    check_limits(lm.model, requests, settings.max_new_tokens)
    check_formats(lm.model, requests, settings.formats)
    check_model(lm, pressed=any(request.press is not None for request in requests))
    check_own_presses(lm, requests)
    batch = Batch(lm, requests, settings, passes)
    while not batch.is_done:
        yield from batch.advance()
