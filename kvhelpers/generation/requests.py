"""What generation is asked for, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import kvpress
import numpy as np

from kvhelpers.errors import InputError
from kvhelpers.generation.watch import Acted, MakeWatcher
from kvhelpers.presses.cache_formats import UNROUNDED, CacheFormats
from kvhelpers.records import CacheReport, Compression, Drafting, StopReason


@dataclass(frozen=True)
class Request:
    """One prompt: its token ids, its own press (None: the full cache), and a seed for presses that draw
    random numbers. ``watch`` makes what watches the run, or is None. ``thinking`` says that its prompt ends
    in a thinking model's thoughts, ``question`` where its question stands: its first place, and that behind
    its last one. ``context`` is how many of its tokens, from the first on, the press compresses; the others
    are fed to the compressed cache at their true positions, as kvpress's `KVPressTextGenerationPipeline` does
    it. None: it compresses all.
    """

    token_ids: Sequence[int]
    press: kvpress.BasePress | None
    seed: int
    watch: MakeWatcher | None = None
    thinking: bool = False
    question: tuple[int, int] | None = None
    context: int | None = None

    @property
    def compressed(self) -> Sequence[int]:
        """The tokens that the press compresses."""
        return self.token_ids[: self.context]


@dataclass(frozen=True)
class Settings:
    """How all prompts of a call are decoded.

    Parameters
    ----------
    max_new_tokens : limit per prompt.
    batch_size : rows decoded together; halved whenever memory runs out.
    stop_strings : texts that end an answer; the run's text includes the one that ended it.
    think_tags : texts that open and close a model's thoughts, in which no stop string counts; None: it does
        not think.
    formats : in which keys and values are held (`formats`). A prompt's own forward pass reads them in full,
        as under a press, after which they are rounded; a new token's are rounded in its own step already.
    repetition_penalty : 1.0 leaves the logits alone. Signals always come from raw logits.
    timeout_s : seconds a prompt may take from its prefill on; None is no limit.
    canary_tokens : after the first new token, compare so many next-token distributions with the full cache's
        (`full_cache`), and the first one's too where a question is fed to a compressed context. Costs the
        full cache's memory while it lasts. Elsewhere the first new token comes from the full cache anyway.
    drafts : whether runs guess their next tokens from their own past, which is faster and gives the same
        tokens (`drafts`) as long as keys and values are finite, which those of a refused guess may not be in
        float16. It is never done under a press that compresses while decoding or with a repetition penalty.

    Raises
    ------
    InputError : no row; a text in place of several, of which each character would end a run.
    """

    max_new_tokens: int
    batch_size: int
    stop_strings: tuple[str, ...] = ()
    repetition_penalty: float = 1.0
    timeout_s: float | None = None
    canary_tokens: int = 0
    drafts: bool = True
    think_tags: tuple[str, str] | None = None
    formats: CacheFormats = UNROUNDED

    def __post_init__(self) -> None:
        if type(self.batch_size) is not int or self.batch_size < 1:
            raise InputError(f"batch_size {self.batch_size!r} is not allowed; it is a whole number from 1 on")
        if isinstance(self.stop_strings, str) or not all(self.stop_strings):
            raise InputError(f"stop_strings {self.stop_strings!r} are not allowed; they are texts, not empty")


@dataclass(frozen=True)
class Generation:
    """One prompt's run; ``index`` is its request's place in the call.

    ``token_ids`` include the end token when there is one; ``signals`` map each name of `token_signals` to an
    array ``[T]`` or ``[T, 20]``; ``cache`` is None when the prefill failed; ``error`` says why a run with
    stop reason ``error`` failed; ``compressions`` are the cuts of a press that compresses while decoding;
    ``batch_size`` is how many rows could decode together when the run ended, this one included; ``drafting``
    counts its passes and drafted tokens; ``acted`` are the actions of what watched it.
    """

    index: int
    token_ids: list[int]
    stop_reason: StopReason
    cache: CacheReport | None
    seconds: float
    batch_size: int
    signals: dict[str, np.ndarray] = field(default_factory=dict)
    error: str | None = None
    compressions: tuple[Compression, ...] = ()
    drafting: Drafting | None = None
    acted: tuple[Acted, ...] = ()
