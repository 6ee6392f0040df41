"""Run one condition: task → generation → scores → results, resumable at every prompt."""

from __future__ import annotations

import hashlib
import time
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from kvhelpers.errors import InputError
from kvhelpers.experiment.checkpoint import Checkpoint, check_of, commit_of, ignored_of, write_result
from kvhelpers.experiment.condition import Condition
from kvhelpers.experiment.identity import check_here, identity, identity_hash
from kvhelpers.experiment.provenance import code_version, provenance, worst_check
from kvhelpers.experiment.results import ConditionResult, find_finished, result_path
from kvhelpers.generation.generate import Generation, Request, Settings, generate
from kvhelpers.generation.limits import auto_batch_size
from kvhelpers.generation.passes import Passes
from kvhelpers.generation.self_check import check_model
from kvhelpers.generation.texts import answer_text, char_ends
from kvhelpers.models.generation_config import ignored_settings
from kvhelpers.models.load import LanguageModel, load_model
from kvhelpers.paths import relative
from kvhelpers.presses.kinds import falls_back, observation_window, phases
from kvhelpers.presses.registry import NONE
from kvhelpers.records import SCALARS, Example, Record, StopReason
from kvhelpers.scoring.flags import cache_flags, format_flags
from kvhelpers.scoring.score import Ended, Score, score
from kvhelpers.scoring.summary import summarize
from kvhelpers.tasks.harness import PREFIX as HARNESS
from kvhelpers.tasks.load import load_problems, verifier
from kvhelpers.tasks.prompts import Problem, Prompt, build_prompts, prompt_hash
from kvhelpers.tasks.thinking import Tags, opens_thoughts, think_tags, thought_part


def check_before_loading(condition: Condition) -> Condition:
    """The condition, if it can be run as far as that is known without its model.

    Raises
    ------
    InputError : as `identity.check_here`; data that cannot be read, or have too few rows.
    """
    check_here(condition)
    if not condition.task.startswith(HARNESS):  # whose prompts lm-evaluation-harness makes
        problems_of(condition)
    return condition


def load_for(condition: Condition) -> LanguageModel:
    """The condition's model, with the attention its press needs in the prefill.

    Raises
    ------
    InputError : it cannot be loaded, or its batched runs are not found exact.
    """
    check_before_loading(condition)
    lm = load_model(condition.model, condition.device, condition.dtype, condition.asked_attention)
    check_model(lm, pressed=condition.press != NONE)
    return lm


def prompts_of(condition: Condition, lm: LanguageModel) -> list[Prompt]:
    """The condition's prompts."""
    return prompts_with(condition, lm.tokenizer)


def prompts_with(condition: Condition, tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """The condition's prompts, where there is a tokenizer and no model."""
    problems, examples = problems_of(condition)
    return build_prompts(
        problems,
        examples,
        tokenizer,
        condition.multiturn,
        condition.question_position,
        condition.template_date,
        condition.chat_template_kwargs,
        condition.prompt_template,
        condition.compress,
    )


def problems_of(condition: Condition) -> tuple[list[Problem], list[Problem]]:
    """The condition's problems and worked examples."""
    return load_problems(
        condition.task,
        condition.n_prompts,
        condition.n_fewshot,
        condition.seed,
        condition.data_file,
        condition.examples_seed,
        condition.task_kwargs,
        condition.examples_file,
        condition.shuffle,
    )


def run_condition(condition: Condition, lm: LanguageModel | None = None) -> ConditionResult:
    """Run a condition, or return it if it is finished. A killed one goes on with the prompts it had not
    finished.

    Parameters
    ----------
    condition : from `condition.make_condition`.
    lm : the model, if it is already loaded for this condition.

    Raises
    ------
    InputError : bad input, or the place is taken by another configuration; nothing is written then. So it is
        where a finished condition, or finished prompts of a killed one, had other tokens than they have now
        with ``lm``.
    """
    if (finished := find_finished(condition)) is not None:
        if lm is not None:
            _refuse_other_tokens(finished, lm)
        return finished
    lm = lm or load_for(condition)
    checkpoint = Checkpoint(condition)
    checkpoint.forget_errored()
    ready = len(checkpoint.finished())
    with tqdm(total=condition.n_prompts, initial=ready, desc=condition.label(), unit="prompt") as bar:
        for _ in run_prompts(condition, lm):
            bar.update()
    return finish_condition(condition)


def _refuse_other_tokens(finished: ConditionResult, lm: LanguageModel) -> None:
    """Raise InputError if a result is of other prompts than this model gets, where its task can be loaded."""
    if any(record.prompt_hash for record in finished.records):
        try:
            prompts = prompts_of(finished.condition, lm)
        except InputError:  # data that are not here
            return
        refuse_other_prompts(finished.records, prompts, relative(finished.path))


def refuse_other_prompts(records: Iterable[Record], prompts: Sequence[Prompt], where: str) -> None:
    """Raise InputError unless records, whose place ``where`` says, are of these prompts' tokens, as far as
    they note them.
    """
    for record in records:
        made = prompt_hash(prompts[record.prompt_index].token_ids)
        if record.prompt_hash not in (None, made):
            raise InputError(
                f"prompt {record.prompt_id} has other tokens (hash {made}) than when it was run, in {where} "
                f"(hash {record.prompt_hash}): the model's tokenizer or chat template has changed; restore "
                "it, or move these results away and run the condition again"
            )


def run_prompts(
    condition: Condition,
    lm: LanguageModel,
    indices: Sequence[int] | None = None,
    passes: Passes | None = None,
    prompts: list[Prompt] | None = None,
) -> Iterator[int]:
    """Run those of a condition's prompts (or of these, by index) that are not finished; yield each one's
    index when it is saved. ``passes`` are those of other conditions with this model, to be used again;
    ``prompts`` are all of the condition's, where somebody else makes them.

    Raises
    ------
    InputError : a model that is not the condition's, a finished prompt that had other tokens, or a budget
        above the shortest prompt, or its context, before anything runs.
    """
    _refuse_other_model(condition, lm)
    check = check_model(lm, pressed=condition.press != NONE)
    prompts = prompts_of(condition, lm) if prompts is None else prompts
    condition.press_spec.for_prompt(min(len(prompt.compressed) for prompt in prompts))
    code_version()  # noted now: the code may change while this process runs
    checkpoint, recorder = Checkpoint(condition), _Recorder(condition, lm)
    finished = checkpoint.forget_damaged([prompt.id for prompt in prompts])
    refuse_other_prompts(finished.values(), prompts, relative(checkpoint.folder))
    ignored = ignored_settings(lm.model)
    wanted = range(len(prompts)) if indices is None else indices
    missing = [index for index in wanted if index not in finished]
    asked = [prompts[index] for index in missing]
    runs = generate_prompts(condition, lm, asked, rows_together(condition, lm, prompts, passes), passes)
    since = time.monotonic()
    for run in runs:
        index = missing[run.index]
        record, columns = recorder.record(index, prompts[index], run)
        now = time.monotonic()
        timed = record.model_copy(update={"wall_seconds": round(now - since, 3)})
        checkpoint.save(timed, columns, ignored, check)
        since = now
        yield index


def _refuse_other_model(condition: Condition, lm: LanguageModel) -> None:
    """Its results would be filed under a name that is not theirs."""
    wanted = identity(condition)
    for name, there, asked in (
        ("model", lm.source, wanted["model_source"]),
        ("dtype", lm.dtype, wanted["dtype"]),
        ("attn", lm.attn, lm.attending(condition.asked_attention).attn),
    ):
        if there != asked:
            raise InputError(f"the model given was loaded with {name} {there!r}, the condition has {asked!r}")


def finish_condition(
    condition: Condition,
    command: str | None = None,
    examples: Sequence[Example] | None = None,
    marks: Sequence[Mapping[str, float]] | None = None,
) -> ConditionResult:
    """Make a condition's results of its prompts' checkpoints; no model is needed.

    Parameters
    ----------
    command : what ran it; None for notebook 01.
    examples : the worked examples of its prompts; None: the task's.
    marks : what lm-evaluation-harness gave each prompt's answer, for `records.Record.marks`.

    Raises
    ------
    InputError : a prompt is missing.
    """
    checkpoint = Checkpoint(condition)
    try:
        records, tables = _all_prompts(checkpoint)
    except (InputError, FileNotFoundError):
        if (finished := find_finished(condition)) is None:
            raise
        checkpoint.remove()  # another process has closed it meanwhile
        return finished
    if marks is not None:
        triples = zip(records, tables, marks, strict=True)
        records = [_marked(condition, record, table, given) for record, table, given in triples]
    if examples is None:
        examples = [
            Example(question=one.question, solution=one.solution) for one in problems_of(condition)[1]
        ]
    result = write_result(_result(condition, records, tables, command, examples), tables)
    checkpoint.remove()
    return result


def _all_prompts(checkpoint: Checkpoint) -> tuple[list[Record], list[pa.Table]]:
    condition, ready = checkpoint.condition, len(checkpoint.finished())
    if ready != condition.n_prompts:
        raise InputError(
            f"condition {condition.label()!r} has {ready} of {condition.n_prompts} prompts; run it again"
        )
    records, tables = map(list, zip(*checkpoint.load(), strict=True))
    return records, tables


def _marked(condition: Condition, record: Record, signals: pa.Table, marks: Mapping[str, float]) -> Record:
    """A record with what lm-evaluation-harness gave its answer, judged by it."""
    tokens, ends = (signals[name].to_pylist() for name in ("token_id", "char_end"))
    ended = Ended(record.text, tokens, ends, record.stop_reason, record.thinking_chars or 0)
    scored = judged(condition, record.prompt_id, record.reference, ended, marks)
    return record.model_copy(update=vars(scored) | {"marks": dict(marks) or None})


def _result(
    condition: Condition,
    records: list[Record],
    tables: list[pa.Table],
    command: str | None,
    examples: Sequence[Example],
) -> ConditionResult:
    signals = pa.concat_tables(tables).select(["prompt_index", "entropy", "top1_prob"]).to_pandas()
    return ConditionResult(
        label=condition.label(),
        condition=condition,
        condition_hash=identity_hash(condition),
        identity=identity(condition),
        provenance=provenance(
            condition,
            command,
            map(commit_of, tables),
            dict(ChainMap(*map(ignored_of, tables))),
            worst_check(map(check_of, tables)),
        ),
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        seconds=round(sum(record.wall_seconds for record in records), 1),
        examples=examples,
        summary=summarize(records, signals),
        records=records,
        path=result_path(condition),
    )


def rows_together(
    condition: Condition, lm: LanguageModel, prompts: list[Prompt], passes: Passes | None = None
) -> int:
    """The condition's batch size, or what fits into memory beside the passes that may be kept."""
    if condition.batch_size != "auto":
        return condition.batch_size
    longest = max(len(prompt.token_ids) for prompt in prompts)
    held = 2 * longest if condition.canary_tokens else longest  # the full cache stays for a while
    return auto_batch_size(lm, held, condition.max_new_tokens, passes.unused if passes else 0)


def generate_prompts(
    condition: Condition,
    lm: LanguageModel,
    prompts: list[Prompt],
    batch_size: int,
    passes: Passes | None = None,
) -> Iterator[Generation]:
    """Generate the answers of some prompts as the condition says, in the order in which they end."""
    tags = tags_of(condition, lm)
    sizes = {len(prompt.compressed) for prompt in prompts}
    presses = {size: condition.press_spec.for_prompt(size) for size in sizes}  # one for all of a context
    requests = [
        Request(
            token_ids=prompt.token_ids,
            press=presses[len(prompt.compressed)],
            seed=seed_of(condition, prompt),
            thinking=opens_thoughts(prompt.opening, tags),
            question=prompt.question_tokens,
            context=prompt.context,
        )
        for prompt in prompts
    ]
    settings = Settings(
        max_new_tokens=condition.max_new_tokens,
        batch_size=batch_size,
        stop_strings=condition.ends,
        repetition_penalty=condition.repetition_penalty,
        timeout_s=condition.timeout_s,
        canary_tokens=condition.canary_tokens,
        think_tags=tags,
        formats=condition.cache_formats,
    )
    return generate(lm, requests, settings, passes)


def uncompressed_run(condition: Condition, prompt_index: int) -> tuple[Record, pd.DataFrame]:
    """The condition's run of a prompt, had its cache not been compressed: a finished ``none`` condition's, or
    a new one. With its signals, a row per new token.
    """
    bare = condition.uncompressed()
    if (finished := find_finished(bare)) is not None:
        signals = finished.signals()
        return finished.records[prompt_index], signals[signals["prompt_index"] == prompt_index]
    lm = load_for(bare)
    prompt = prompts_of(bare, lm)[prompt_index]
    (run,) = generate_prompts(bare, lm, [prompt], batch_size=1)
    return recorded(bare, lm, prompt_index, prompt, run)


def recorded(
    condition: Condition, lm: LanguageModel, prompt_index: int, prompt: Prompt, run: Generation
) -> tuple[Record, pd.DataFrame]:
    """A run's record, and a row per new token with ``step``, ``token_id``, ``char_end`` and the signals."""
    record, columns = _Recorder(condition, lm).record(prompt_index, prompt, run)
    tokens = pd.DataFrame({name: list(columns.get(name, [])) for name in ("token_id", "char_end", *SCALARS)})
    return record, tokens.rename_axis("step").reset_index()


def judged(
    condition: Condition,
    prompt_id: str,
    reference: str,
    run: Ended,
    marks: Mapping[str, float] | None = None,
) -> Score:
    """A run of a condition, judged as its task says; ``marks`` are `records.Record.marks`."""
    task, kwargs = condition.task, condition.task_kwargs
    verify = verifier(task, kwargs, prompt_id, reference, marks)
    return score(run, reference, verify, condition.ends)


def tags_of(condition: Condition, lm: LanguageModel) -> Tags | None:
    """The tags of the thoughts of the condition's model, or None."""
    return think_tags(lm.tokenizer, condition.think_tags)


def ended(
    condition: Condition, lm: LanguageModel, prompt: Prompt, run: Generation
) -> tuple[Ended, int | None]:
    """What a run left, and how many of its tokens are thoughts (None: the model does not think)."""
    text, ends = answer_text(run.token_ids, lm), char_ends(run.token_ids, lm)
    tags = tags_of(condition, lm)
    tokens, chars = thought_part(text, ends, tags, opens_thoughts(prompt.opening, tags))
    return Ended(text, run.token_ids, ends, run.stop_reason, chars or 0), tokens


def seed_of(condition: Condition, prompt: Prompt) -> int:
    """Seed of random numbers that the condition's press may draw: one for each prompt, or one for each
    context, so that all questions on it find the same cache.
    """
    return press_seed(condition.seed, prompt.id if prompt.context is None else prompt_hash(prompt.compressed))


def press_seed(seed: int, prompt_id: str) -> int:
    """Seed of random numbers a press may draw for a prompt, the same in every batch, process and order."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{prompt_id}".encode()).digest()[:4])


@dataclass(frozen=True)
class _Recorder:
    """Makes records of a condition's runs."""

    condition: Condition
    lm: LanguageModel

    def record(self, index: int, prompt: Prompt, run: Generation) -> tuple[Record, dict[str, Sequence]]:
        """A run's record and its per-token columns."""
        left, thinking_tokens = ended(self.condition, self.lm, prompt, run)
        scored = judged(self.condition, prompt.id, prompt.reference, left)
        record = Record(
            prompt_index=index,
            prompt_id=prompt.id,
            question=prompt.question,
            reference=prompt.reference,
            text=left.text,
            prompt_tokens=len(prompt.token_ids),
            n_tokens=len(run.token_ids),
            stop_reason=run.stop_reason,
            error=run.error,
            answer=scored.answer,
            correct=scored.correct,
            failures=scored.failures,
            loop_onset_char=scored.loop_onset_char,
            cache=run.cache,
            compressions=run.compressions,
            flags=self._flags(run, len(prompt.compressed)),
            seconds=round(run.seconds, 3),
            batch_size=run.batch_size,
            drafting=run.drafting,
            prompt_hash=prompt_hash(prompt.token_ids),
            thinking_tokens=thinking_tokens,
            thinking_chars=None if thinking_tokens is None else left.thinking_chars,
        )
        return record, {"token_id": run.token_ids, "char_end": left.char_ends, **run.signals}

    def _flags(self, run: Generation, n_tokens: int) -> list[str]:
        """The flags of a run of whose prompt so many tokens were compressed."""
        prefilling, decoding = phases(self.condition.press_spec.for_prompt(n_tokens))
        if run.error is not None:
            window = observation_window(prefilling)
            too_short = window is not None and n_tokens <= window
            return ["run_failed", *(["prompt_within_window"] if too_short else [])]
        timed_out = ["timed_out"] if run.stop_reason == StopReason.TIMEOUT else []
        never_cut = ["never_compressed_decoding"] if decoding and not run.compressions else []
        compresses = prefilling is not None and self.condition.ratio != 0
        fell_back = ["press_fell_back"] if compresses and falls_back(prefilling, n_tokens) else []
        rounded = format_flags(
            self.condition.cache_formats, self.lm.dtype, run.cache.kept_tokens + len(run.token_ids) - 1
        )
        return timed_out + cache_flags(run.cache, compresses) + fell_back + never_cut + rounded
