"""The shapes of what is measured and stored: a run's record, a condition's summary, the names of signals.

This module knows nothing of models, of how a run was made or of how it is judged, and imports no other one
of the package. A shape is checked when it is built, so also when a file is read; what a file has
beyond the shape is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, computed_field, model_validator


class StopReason(StrEnum):
    """Why a run stopped: an end token, a stop string, the limit on tokens, the limit on seconds, what watched
    it, an error.
    """

    EOS = "eos"
    STOP_STRING = "stop_string"
    MAX_NEW_TOKENS = "max_new_tokens"
    TIMEOUT = "timeout"
    GUARD = "guard"
    ERROR = "error"

    @property
    def ended(self) -> bool:
        """Whether the run ended by itself."""
        return self in (StopReason.EOS, StopReason.STOP_STRING)


class FailureMode(StrEnum):
    """What became of a run, one mode each; the rules are in `scoring.failure_modes`."""

    CORRECT = "correct"
    CORRUPTION = "reasoning corruption"
    AMNESIA = "instruction amnesia"
    NON_TERMINATION = "non-termination"
    LOOPING = "looping"
    ERRORED = "errored"


# signals of the next-token distribution, with their units; definitions are in `generation.token_signals`
SCALARS: Mapping[str, str] = {
    "entropy": "nats",
    "varentropy": "nats²",
    "top1_prob": "probability",
    "margin": "nats",
    "top5_mass": "probability",
    "alt_entropy": "nats",
    "chosen_logprob": "nats",
}
CANARY: Mapping[str, str] = {"canary_kl": "nats", "canary_entropy": "nats", "canary_chosen": "nats"}
CHANGE = "entropy_change"  # nats
# signals of a replay; definitions and units are in `generation.inner_signals`
COURSE = ("kl_previous", "jaccard10_previous")
INSIDE = tuple(
    f"{layer}_{what}"
    for layer in ("middle", "last")
    for what in ("cos_previous", "cos_nearest", "nearest_back")
)
ATTENTION = tuple(f"{layer}_{what}" for layer in "abc" for what in ("sink", "prompt", "own", "entropy"))
FULL = ("full_kl", "full_entropy_gap", "full_logprob_gap")
EVICTED = (
    "evicted_attention",
    "evicted_value_share",
    "evicted_value_largest",
    "evicted_question",
    "evicted_examples",
    "cutoff_margin",
    "heads_agree",
)
LAST_QUERIES = 16  # of the prompt, whose attention says what was worth keeping
LISTS = ("top20_logprob", "top20_id")
FIRST_COMPRESSED_TOKEN = 1  # token 0 comes from full attention; the next one is the first to see the press


class Shape(BaseModel):
    """A part of a stored result. It does not change once it is built."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Answer(Shape):
    """What both rules of lm-evaluation-harness's GSM8K extract (None: no match), and the ``value`` that is
    judged, found behind ``####`` (``decided_by`` strict-match), in ``\\boxed{}`` (boxed) or at last
    (flexible-extract); ``start`` are the characters of the text before it (`tasks.answers`). Older results
    lack ``start``.
    """

    strict: str | None
    flexible: str | None
    decided_by: Literal["strict-match", "boxed", "flexible-extract"] | None
    value: str | None = None
    start: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_value(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A value that is not given is that of the deciding rule."""
        rule = "strict" if values.get("decided_by") == "strict-match" else "flexible"
        return {"value": values.get(rule)} | values


class WindowLoop(Shape):
    """A window of 20 tokens that occurs at least 3 times.

    ``start`` is where the window first occurs, ``detected`` the last token of its third occurrence.
    """

    start: int
    detected: int


class PeriodicLoop(Shape):
    """A stretch in which each token equals the one ``period`` tokens before.

    ``start`` is the first token of the first cycle; ``length`` counts tokens, ``repeats`` = length / period;
    ``detected`` is the token at which the stretch is long enough to count.
    """

    start: int
    period: int
    length: int
    repeats: float
    detected: int


class Failures(Shape):
    """The failures of one run. Positions count new tokens from 0; None where there is nothing to point at.

    ``loop_onset`` and ``loop_detected`` are the start and the detection of whichever loop a left-to-right
    reader is sure of first, the periodic one in a tie. ``loop_left``: the run looped, went on to the right
    answer, and ended by itself; false in older results, which did not note it.
    """

    non_termination: bool
    looping: bool
    wrong_answer: bool
    loop_onset: int | None
    loop_detected: int | None
    window_loop: WindowLoop | None
    periodic_loop: PeriodicLoop | None
    loop_left: bool = False

    @computed_field
    @property
    def catastrophic(self) -> bool:
        """Any of the three, but for a loop that was left."""
        return self.non_termination or self.wrong_answer or (self.looping and not self.loop_left)


class CacheReport(Shape):
    """What one prompt's cache holds after its prefill; of a context that was compressed, before its question
    was fed to it: the question's tokens, which are whole, are in none of these numbers.

    ``kept_tokens`` is the mean over layers and key-value heads, so head-wise and layer-wise presses are
    measured too; ``cache_bytes`` are bytes really held, which masked keys do not shrink. ``sink_kept`` is the
    share of heads (first layer aside, whose values do not depend on position) that still hold the prompt's
    first token, the attention sink (Xiao et al. 2024, https://arxiv.org/abs/2309.17453). ``window`` is the
    press's observation window in tokens, or None. ``question_kept`` is the share of the question's tokens
    still held, a mean over the same heads; None where nobody said which they are. ``nominal_bytes`` count a
    value at the bits of its cache format, scales included, and at 16 where it is not rounded (None in older
    results).
    """

    prompt_tokens: int
    kept_tokens: float
    cache_bytes: int
    full_bytes: int
    sink_kept: float
    window: int | None
    question_kept: float | None = None
    nominal_bytes: int | None = None


class Compression(Shape):
    """A cut while decoding: after ``step`` new tokens, from so many cached tokens to so many (means over
    layers).
    """

    step: int
    before: float
    after: float


class Drafting(Shape):
    """How a run was decoded: in so many passes after its prefill, with so many drafted tokens tried in them
    and accepted. Each pass gives one token more than it accepts.
    """

    passes: int
    drafted: int
    accepted: int


class Record(Shape):
    """One run: one prompt under one condition.

    ``question`` is None and ``mode`` is set where the prompt's text may not be shared (`commands.sample`).
    ``loop_onset_char`` are the characters of the text before the loop's onset. ``cache`` is None when the
    prefill failed. ``seconds`` is the run's own time from its prefill to its end, which it shares with the
    other rows of its batch. ``wall_seconds`` is the time since the prompt before it was saved: what the
    finished prompts took adds up, on one worker, to the condition's time; what a killed run had not finished
    is in none. ``batch_size`` is how many rows could decode together, this one included. These two and
    ``drafting`` are None in older results, which did not note them. ``marks`` are what lm-evaluation-harness
    gave the answer, by ``metric,filter``, of runs of its tasks. ``prompt_hash`` tells the prompt's tokens
    (`tasks.prompts.prompt_hash`). Of so many tokens and characters are a thinking model's thoughts, up to and
    including the tag that closes them (`tasks.thinking`): all, where none closes them. These three are None
    in older results, and of models whose tags are not known.
    """

    prompt_index: int
    prompt_id: str
    question: str | None = None
    reference: str
    text: str
    prompt_tokens: int
    n_tokens: int
    stop_reason: StopReason
    error: str | None
    answer: Answer
    correct: bool
    failures: Failures
    loop_onset_char: int | None
    cache: CacheReport | None
    compressions: tuple[Compression, ...] = ()
    flags: tuple[str, ...] = ()
    seconds: float
    wall_seconds: float | None = None
    batch_size: int | None = None
    drafting: Drafting | None = None
    marks: dict[str, float] | None = None
    mode: FailureMode | None = None
    prompt_hash: str | None = None
    thinking_tokens: int | None = None
    thinking_chars: int | None = None

    @property
    def never_left_thinking(self) -> bool:
        """Whether the run has tokens, and all of them are thoughts."""
        return self.n_tokens > 0 and self.thinking_tokens == self.n_tokens

    @property
    def onset(self) -> int | None:
        """New token at which the loop starts, of looping runs."""
        return self.failures.loop_onset if self.failures.looping else None

    @property
    def removed(self) -> float:
        """Measured share of the cache of what was compressed, prompt or context, that was removed; NaN if the
        prefill failed.
        """
        return 1 - self.cache.kept_tokens / self.cache.prompt_tokens if self.cache else float("nan")


class Rate(Shape):
    """A rate with its 95 % interval: ``count`` of ``n``."""

    count: int
    n: int
    rate: float
    low: float
    high: float


class Summary(Shape):
    """A condition's rates and averages; how they are computed is in `scoring.summary`.

    Entropies are in nats. ``flags`` counts the runs that have each flag.
    """

    n: int
    accuracy: Rate
    cfr: Rate
    non_termination: Rate
    looping: Rate
    wrong_answer: Rate
    avg_tokens: float
    prompt_tokens: float
    kept_tokens: float | None
    cache_bytes: float | None
    mean_entropy: float | None
    max_entropy: float | None
    min_top1_prob: float | None
    stop_reasons: dict[StopReason, int]
    flags: dict[str, int]


class Example(Shape):
    """A worked example of a condition's prompts."""

    question: str
    solution: str


class Machine(Shape):
    """Where a condition ran.

    ``memory_gib`` is the machine's memory. ``load`` is how many processes wanted a core, on average over the
    last 15 minutes of the run; above the number of cores, other work took time from it. None: not noted.
    """

    system: str
    processor: str
    cores: int | None
    memory_gib: float | None = None
    torch_threads: int | None = None
    load: float | None = None
    device: str
    dtype: str


class SelfCheck(Shape):
    """How far a model's batched logits are from its own, as a share of their range, at most, and how far they
    may be; ``attn`` is the attention of the prefills, ``pressed`` whether runs under a press were compared
    too (`generation.self_check`). ``exact_deviation`` is that of a model in half precision with its
    weights in float32, or None where memory did not suffice for it.
    """

    attn: str
    pressed: bool
    deviation: float
    bound: float
    exact_deviation: float | None = None


class Provenance(Shape):
    """Where a condition's results come from.

    ``commit`` is the git commit of the code that ended the condition, ``clean`` whether the package had no
    changes beside it; both are None without git. ``command`` makes the results again. ``earlier_commits`` are
    others at which prompts of a resumed condition ran. ``ignored_generation_config`` are the model's own
    settings that would alter a greedy answer, and that no run here follows (`models.generation_config`).
    ``self_check`` is None in older results, whose model was not checked.
    """

    commit: str | None
    clean: bool | None
    command: str | None
    versions: dict[str, str]
    machine: Machine
    earlier_commits: tuple[str, ...] = ()
    ignored_generation_config: dict[str, Any] = {}
    self_check: SelfCheck | None = None
