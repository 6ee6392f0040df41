"""Load a causal language model with its tokenizer and the tokens that end an answer."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from kvhelpers.errors import InputError, is_out_of_memory, unknown_name
from kvhelpers.models.chat_template import check_chat_template
from kvhelpers.models.device import TORCH_DTYPES, resolve_device, resolve_dtype
from kvhelpers.models.gguf import converted
from kvhelpers.models.packed import PackedLinears, pack
from kvhelpers.models.source import (
    ATTENTION,
    EMBEDDED,
    HUB_FILES,
    find_hub_file,
    find_wheel_file,
    model_source,
)
from kvhelpers.models.weights import check_complete, check_downloaded, check_weight_files, quiet
from kvhelpers.paths import user_path
from kvhelpers.tasks.chat import render

AUTO = "auto"
# attributes of attention modules with rules that transformers' sdpa does not know, in words
LEFT_OUT_BY_SDPA = {
    "attn_logit_softcapping": "the cap of its attention's scores",
    "sinks": "the sinks of its attention",
}
DIFFERENCE = {torch.float16: 0.01, torch.bfloat16: 0.1}  # of logits, as a share of their range; else 1e-4
_same: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # model → whether sdpa is its eager attention


@dataclass(frozen=True)
class LanguageModel:
    """A model ready to generate.

    ``stop_ids`` end an answer; ``attn`` is the attention implementation of the prefill; ``source`` says which
    weights these are; ``packed`` are its linear weights as few rows multiply with them fastest, or None.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    device: str
    dtype: str
    attn: str
    source: str
    packed: PackedLinears | None = None

    def attending(self, asked: str) -> LanguageModel:
        """The same model with the prefill attention asked for, as `prefill_attention` says."""
        return replace(self, attn=prefill_attention(self.model, asked))


def prefill_attention(model: PreTrainedModel, asked: str) -> str:
    """The attention implementation that a prefill uses: that asked for; ``auto`` is sdpa, or eager where
    transformers' sdpa would leave out a rule of the model's attention, or gives other logits.

    Raises
    ------
    InputError : sdpa is asked for all the same.
    """
    parts = [part for module in model.modules() for part in LEFT_OUT_BY_SDPA if _has(module, part)]
    left_out = LEFT_OUT_BY_SDPA[parts[0]] if parts else None
    if left_out is None and not model._supports_sdpa:
        left_out = "its own attention"
    if asked == "sdpa" and left_out is not None:
        raise InputError(
            f"attn 'sdpa' is not allowed with {type(model).__name__}: transformers' sdpa leaves out "
            f"{left_out}; use 'eager' or 'auto'"
        )
    if asked != AUTO:
        return asked
    return "sdpa" if left_out is None and _sdpa_is_eager(model) else "eager"


@torch.inference_mode()
def _sdpa_is_eager(model: PreTrainedModel) -> bool:
    """Whether a short text has the same logits under both; what fails under sdpa is not the same."""
    if model not in _same:
        ids = torch.arange(24, device=model.device)[None] % model.get_input_embeddings().weight.shape[0]
        used, logits = model.config._attn_implementation, []
        try:
            for name in ("eager", "sdpa"):
                model.set_attn_implementation(name)
                logits.append(model(input_ids=ids, use_cache=False).logits.double())
            eager, sdpa = (each[logits[0].isfinite()] for each in logits)
            apart = (eager - sdpa).abs().max() / (eager.max() - eager.min())
            _same[model] = bool(apart <= DIFFERENCE.get(model.dtype, 1e-4))
        except Exception as error:  # an architecture may fail in any way on what it was not made for
            if is_out_of_memory(error):
                raise
            _same[model] = False
        finally:
            model.set_attn_implementation(used)
    return _same[model]


def _has(module: nn.Module, part: str) -> bool:
    return getattr(module, part, None) is not None


def load_model(name: str, device: str = "auto", dtype: str = "auto", attn: str = AUTO) -> LanguageModel:
    """Load a model for generation: safetensors only, no remote code; weights and chat template are checked.

    Parameters
    ----------
    name : as in `source.model_source`.
    device : auto, cpu, cuda or mps.
    dtype : auto, float32, float16 or bfloat16.
    attn : attention implementation of the prefill: auto, sdpa or eager, as `prefill_attention` says.

    Raises
    ------
    InputError : unknown name, missing or damaged file, weights that do not fit the configuration, device
        that is not there, no chat template or one that alters messages, no end token, sdpa for a model whose
        rules it leaves out.
    """
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, device)
    if attn not in (AUTO, *ATTENTION):
        raise unknown_name("attn", attn, (AUTO, *ATTENTION))
    source = model_source(name)
    kind, where = source.partition(":")[0], _folder_or_id(name, source)
    try:
        check_weight_files(where)
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        check_chat_template(tokenizer)
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                where,
                dtype=TORCH_DTYPES[dtype],
                attn_implementation=attn if attn == "eager" else None,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
            )
        check_complete(info)
    except Exception as error:  # files of anybody's making may be wrong in any way
        if kind == "hub":
            check_downloaded(name, where)
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(f"model {name!r} ({source}) cannot be loaded: {reason}") from error
    if kind == "hub":
        check_downloaded(name, where)
    model = model.to(device).eval()
    attn = prefill_attention(model, attn)
    model.set_attn_implementation(attn)
    stops, packed = stop_ids(model, tokenizer), pack(model)
    return LanguageModel(name, model, tokenizer, stops, device, dtype, attn, source, packed)


def load_tokenizer(name: str, here: bool = False) -> PreTrainedTokenizerBase:
    """A model's tokenizer, without the model; with ``here`` nothing is downloaded for it.

    Raises
    ------
    InputError : as `load_model`.
    """
    where = _folder_or_id(name, model_source(name), here)
    try:
        return AutoTokenizer.from_pretrained(where, trust_remote_code=False, local_files_only=here)
    except Exception as error:
        raise InputError(f"tokenizer of model {name!r} cannot be loaded: {error}") from error


def _folder_or_id(name: str, source: str, here: bool = False) -> str:
    """What transformers loads for a model of this source: a folder, or an id of the hub; with ``here``
    nothing is downloaded.
    """
    kind, _, where = source.partition(":")
    if kind == "gguf":
        return str(converted(_gguf_file(name, here), where))
    return where.rpartition("#")[0] if kind == "folder" else where


def _gguf_file(name: str, here: bool) -> Path:
    if name in EMBEDDED:
        return find_wheel_file(EMBEDDED[name])
    return find_hub_file(HUB_FILES[name], here) if name in HUB_FILES else user_path("model", name)


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Token ids that end an answer: the generation config's, united with the chat template's end-of-turn
    token.

    ``tokenizer.eos_token`` is not asked: it is wrong in some conversions, and a model that cannot stop looks
    like one that loops.

    Raises
    ------
    InputError : neither source names an end token.
    """
    configured = model.generation_config.eos_token_id
    ids = set(configured if isinstance(configured, list) else [] if configured is None else [configured])
    mark = "the-answer"
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": mark}]
    after = render(tokenizer, turn).rpartition(mark)[2]
    special = set(tokenizer.added_tokens_decoder)
    ends = [token for token in tokenizer.encode(after, add_special_tokens=False) if token in special]
    ids.update(ends[:1])
    if not ids:
        raise InputError(
            "model names no end token, neither in its generation config nor in its chat template"
        )
    return frozenset(ids)
