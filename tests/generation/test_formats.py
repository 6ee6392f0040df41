"""Formats of fewer bits: bit by bit what gguf makes of the same values, what KIVI's paper writes, and runs
with the tokens of a plain forward pass whose cache is rounded.
"""

import copy
import dataclasses

import gguf.quants
import numpy as np
import pytest
import scipy.linalg
import torch
from architectures import built
from gguf import GGMLQuantizationType
from reference import Knowing, alone, generate_all, kvpress_cache, random_prompts, tiny_llama
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import DynamicCache

from kvhelpers.errors import InputError
from kvhelpers.generation import attention, batch
from kvhelpers.generation.attention import attention_implementation
from kvhelpers.generation.cuda_graphs import CheckedRecorder
from kvhelpers.generation.formats import ROUND, round_groups
from kvhelpers.models.load import LanguageModel
from kvhelpers.presses.cache_formats import BITS, GROUPED, CacheFormats
from kvhelpers.presses.spec import PressSpec
from kvhelpers.tasks.load import load_problems
from kvhelpers.tasks.prompts import build_prompts

BLOCKS = [name for name in BITS if name.startswith("q")]


def by_gguf(name, values):
    """What gguf's own quantize and dequantize leave of float32 values."""
    kind = GGMLQuantizationType[name.upper()]
    return gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)


def edge_values(kind):
    """Values ``[n, 64]`` of some kind."""
    draw = np.random.default_rng(0)
    usual = draw.standard_normal((2000, 64)).astype(np.float32)
    if kind == "ties":  # many equal values, of both signs, and halves between two levels
        return draw.integers(-8, 9, (2000, 64)).astype(np.float32) / 4
    if kind == "half":
        return usual.astype(np.float16).astype(np.float32)
    scale = {"usual": 1, "large": 300, "small": 1e-6, "zero": 0}[kind]
    return usual * np.float32(scale)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("kind", ("usual", "ties", "half", "large", "small", "zero"))
def test_blocks_are_bit_by_bit_those_of_gguf(name, kind):
    values = edge_values(kind)
    ours = ROUND[name](torch.from_numpy(values)).numpy()
    np.testing.assert_array_equal(ours, by_gguf(name, values))


def test_blocks_need_heads_of_whole_blocks():
    with pytest.raises(InputError, match="a head of 48 dimensions cannot be held in blocks of 32"):
        ROUND["q8_0"](torch.zeros(1, 48))


@pytest.mark.parametrize(("name", "most", "step"), [("fp8_e4m3", 448, 2**-3), ("fp8_e5m2", 57344, 2**-2)])
def test_floats_of_eight_bits_have_no_scale_and_end_at_their_largest(name, most, step):
    assert ROUND[name](torch.tensor([1e6, -1e6, most])).tolist() == [most, -most, most]
    assert ROUND[name](torch.tensor([1 + step / 4, 1 + 3 * step / 4])).tolist() == [1, 1 + step]


def kivi(values, bits, axis):
    """Groups along an axis as KIVI rounds them (Liu et al. 2024, section 3): Q(X) = round((X − z) / s) with z
    the smallest value and s = (largest − smallest) / (2^B − 1), in 16 bits both; read as Q(X) · s + z.
    """
    low, high = values.min(axis, keepdims=True), values.max(axis, keepdims=True)
    s = ((high - low) / np.float32(2**bits - 1)).astype(np.float16).astype(np.float32)
    z = low.astype(np.float16).astype(np.float32)
    places = np.round((values - z) / np.where(s == 0, 1, s))
    return np.where(s == 0, 0, np.clip(places, 0, 2**bits - 1)).astype(np.float32) * s + z


@pytest.mark.parametrize("bits", (4, 2))
def test_groups_are_those_of_the_paper(bits):
    values = edge_values("usual")[:64]
    keys = round_groups(torch.from_numpy(values), bits, 32, -2).numpy()
    across = round_groups(torch.from_numpy(values), bits, 16, -1).numpy()
    for start in (0, 32):
        part = slice(start, start + 32)
        np.testing.assert_array_equal(keys[part], kivi(values[part], bits, 0))
    for start in (0, 16, 48):
        part = slice(None), slice(start, start + 16)
        np.testing.assert_array_equal(across[part], kivi(values[part], bits, 1))
    assert len(np.unique(keys[:32, 0])) <= 2**bits and len(np.unique(keys)) > 2**bits


def by_hand(name, values):
    """Float32 ``[G, T, D]`` rounded token by token, by other means than ours."""
    if name.startswith("q"):
        return by_gguf(name, np.ascontiguousarray(values))
    if name == "f16":
        return values.astype(np.float16)
    if name == "bf16":
        whole = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
        return ((whole + 0x7FFF + (whole >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    exponent, fraction, bias = {"fp8_e4m3": (4, 3, 7), "fp8_e5m2": (5, 2, 15)}[name]
    codes = np.arange(2 ** (exponent + fraction) - (1 if exponent == 4 else 4))  # without NaN and infinity
    e, f = codes >> fraction, (codes & (2**fraction - 1)) / 2**fraction
    levels = np.where(e == 0, f * 2.0 ** (1 - bias), (1 + f) * 2.0 ** (e - bias))
    sizes = np.abs(values).astype(np.float64)
    above = np.clip(np.searchsorted(levels, sizes), 1, len(levels) - 1)
    middle = (levels[above - 1] + levels[above]) / 2
    upper = (sizes > middle) | ((sizes == middle) & (above % 2 == 0))  # of two as near the even one
    return np.sign(values) * np.where(upper, levels[above], levels[above - 1])


@pytest.mark.parametrize("name", [name for name in ROUND if name not in BLOCKS])
def test_floats_are_rounded_to_the_nearest_even(name):
    for kind in ("usual", "ties", "large"):
        values = edge_values(kind)
        ours = ROUND[name](torch.from_numpy(values)).float().numpy()
        np.testing.assert_array_equal(ours, by_hand(name, values).astype(np.float32))


class RoundedCache(DynamicCache):
    """A cache of one row that rounds whatever is written, and in groups what waited long enough (`after`)."""

    def __init__(self, k, v, group=32, residual=128, protect_tokens=0, protect_layers=(), rotate=False):
        super().__init__()
        self.names, self.group, self.residual = (k, v), group, residual
        self.first, self.spared, self.rotate = protect_tokens, [i % 3 for i in protect_layers], rotate
        self.ends = {}

    def round(self, part, function):
        """Keys or values ``[1, G, T, D]`` rounded by a function of float32 arrays ``[G, T, D]``."""
        if not part.shape[2]:
            return part
        x, size = part[0].float().numpy(), part.shape[-1]
        turn = (scipy.linalg.hadamard(size) / np.sqrt(size)).astype(np.float32)
        rounded = np.asarray(function(x @ turn if self.rotate else x), dtype=np.float32)
        return torch.from_numpy(rounded @ turn if self.rotate else rounded)[None].to(part.dtype)

    def written(self, *parts):
        return [
            part if name in (*GROUPED, "none") else self.round(part, lambda x, name=name: by_hand(name, x))
            for name, part in zip(self.names, parts, strict=True)
        ]

    def prompt(self, index, *pair):
        """Take what is left of a prompt in a layer, in the order of the text."""
        if index not in self.spared:
            rounded = self.written(*(part[:, :, self.first :] for part in pair))
            pair = [torch.cat([x[:, :, : self.first], y], 2) for x, y in zip(pair, rounded, strict=True)]
        super().update(*pair, index)
        self.ends[index] = [min(self.first, pair[0].shape[2])] * 2

    def update(self, keys, values, index, *args, **kwargs):
        if index not in self.spared:
            keys, values = self.written(keys, values)
        return super().update(keys, values, index, *args, **kwargs)

    def after(self):
        """Algorithm 1 of the paper: whenever R keys wait, they are rounded in groups of tokens; and values
        behind which R others stand, in groups of channels.
        """
        for index, layer in enumerate(self.layers):
            if index in self.spared:
                continue
            held, ends = layer.keys.shape[2], self.ends[index]
            if self.names[0] in GROUPED:
                bits, stop = int(self.names[0][3:]), held - (held - ends[0]) % self.residual
                for start in range(ends[0], stop, self.group):
                    part = layer.keys[:, :, start : start + self.group]
                    part[:] = self.round(part, lambda x, bits=bits: kivi(x, bits, 1))
                ends[0] = stop
            if self.names[1] in GROUPED and held - ends[1] > self.residual:
                part, bits = layer.values[:, :, ends[1] : held - self.residual], int(self.names[1][3:])

                def across(x, bits=bits):
                    groups = x.reshape(*x.shape[:2], -1, self.group)
                    return kivi(groups, bits, 3).reshape(x.shape)

                part[:] = self.round(part, across)
                ends[1] = held - self.residual


def in_order(whole, kept):
    """Keys or values of a layer in the order of the text: where each kept key stands in the full cache."""
    order = torch.stack(
        [
            torch.tensor([int((full == key).all(-1).nonzero()[0]) for key in keys]).argsort()
            for full, keys in zip(whole.keys[0], kept.keys[0], strict=True)
        ]
    )
    return [part.gather(2, order[None, :, :, None].expand_as(part)) for part in (kept.keys, kept.values)]


def rounded_alone(lm, prompt, press, seed, n, k, v, **kwargs):
    """New tokens of plain forward passes over one token each, with a cache that is rounded; the prompt's own
    pass is full, and inside ``with press(model):``.
    """
    kept, logits = kvpress_cache(lm, prompt, press, seed)
    whole, _ = kvpress_cache(lm, prompt, None, seed)
    cache, tokens = RoundedCache(k, v, **kwargs), []
    for index, layers in enumerate(zip(whole.layers, kept.layers, strict=True)):
        cache.prompt(index, *in_order(*layers))
    cache.after()
    while len(tokens) < n:
        tokens.append(int(logits.argmax()))
        if tokens[-1] in lm.stop_ids:
            break
        place = torch.tensor([[len(prompt) + len(tokens) - 1]])
        with torch.no_grad(), attention_implementation(lm.model, lm.attn):
            out = lm.model(torch.tensor([tokens[-1:]]), past_key_values=cache, position_ids=place)
        cache.after()
        logits = out.logits[0, -1]
    return tokens


KIVI = {"group": 8, "residual": 16}
CASES = [
    *((name, name, {}) for name in ROUND),
    ("q8_0", "q4_0", {"rotate": True}),
    ("q4_0", "none", {"protect_tokens": 4, "protect_layers": [0]}),
    ("none", "q4_1", {"protect_layers": [-1, 0]}),
    ("int4", "int4", KIVI),
    ("int2", "int2", KIVI | {"protect_tokens": 3}),
    ("int2", "none", KIVI | {"rotate": True}),
    ("q8_0", "int2", KIVI | {"protect_layers": [1]}),
]
Q4 = CacheFormats("q4_0", "q4_0")
ADA = PressSpec("AdaKVPress", 0.5, kwargs={"press": {"name": "knorm"}})
ROTATES = PressSpec("KeyRerotationPress", 0.5, kwargs={"press": {"name": "knorm"}})
DECODES = PressSpec("DecodingPress", 0.0, kwargs={"base_press": {"name": "knorm"}})
SELDOM = ("f16", "bf16", "fp8_e5m2", "q5_1", "q5_0")
SPECS = (
    PressSpec("none", 0.0),
    PressSpec("streaming_llm", 0.5),
    PressSpec("snapkv", 0.5, kwargs={"window_size": 8}),
)


@pytest.fixture(scope="module")
def wide(embedded):
    """A tiny model whose heads have whole blocks of values, in double precision: what a batch changes of a
    sum moves no value over the edge between two levels.
    """
    model = tiny_llama(head_dim=32).double()
    return LanguageModel(
        "wide", model, embedded.tokenizer, frozenset({2}), "cpu", "float64", "sdpa", "random"
    )


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if case[0] in SELDOM else ()) for case in CASES],
    ids=str,
)
def test_runs_are_those_of_a_plain_forward_with_a_rounded_cache(wide, case, monkeypatch):
    """With and without a press, alone without drafts and in batches of 2 with drafts."""
    k, v, kwargs = case
    formats = CacheFormats.of(k, v, kwargs)
    prompts, n = random_prompts(3), 24
    for spec in SPECS:
        requests = [spec.for_prompt(len(prompt)) for prompt in prompts]
        expected = [
            rounded_alone(wide, prompt, press, seed, n, k, v, **kwargs)
            for seed, (prompt, press) in enumerate(zip(prompts, requests, strict=True))
        ]
        for batch_size, drafts in ((1, False), (2, True)):
            answers = {tuple(prompt): tokens for prompt, tokens in zip(prompts, expected, strict=True)}
            monkeypatch.setattr(batch, "Drafter", lambda prompt, answers=answers: Knowing(prompt, answers))
            runs = generate_all(wide, prompts, spec, n, batch_size, drafts=drafts, formats=formats)
            assert [run.token_ids for run in runs] == expected
            if drafts and v not in GROUPED:
                assert sum(run.drafting.accepted for run in runs)
    if k != "f16":  # which leaves all tokens as they are
        plain = generate_all(wide, prompts, spec, n)
        assert [run.token_ids for run in plain] != expected, "nothing was shown"


@pytest.mark.parametrize("case", [CASES[7], CASES[13], CASES[15]], ids=str)
def test_rows_that_share_a_beginning_are_rounded_as_alone(wide, case, monkeypatch):
    """The beginning is read once for all rows; in groups of tokens only where all of a group is shared."""
    k, v, kwargs = case
    read, merged = [], attention._merged
    monkeypatch.setattr(attention, "_merged", lambda *parts: read.append(1) or merged(*parts))
    beginning = random_prompts(1)[0][:45]
    prompts = [beginning + prompt[: 30 + 9 * i] for i, prompt in enumerate(random_prompts(4))]
    runs = generate_all(wide, prompts, SPECS[0], 20, drafts=False, formats=CacheFormats.of(k, v, kwargs))
    assert read
    for run, prompt in zip(runs, prompts, strict=True):
        assert run.token_ids == rounded_alone(wide, prompt, None, run.index, 20, k, v, **kwargs)


class WrittenRounded(RoundedCache):
    """Rounds in `generate` itself, a prompt's keys and values behind its own pass."""

    def update(self, keys, values, index, *args, **kwargs):
        if index < len(self.layers) and self.layers[index].is_initialized:
            return super().update(keys, values, index, *args, **kwargs)
        DynamicCache.update(self, keys, values, index, *args, **kwargs)
        self.layers[index].keys, self.layers[index].values = self.written(keys, values)
        return keys, values


def test_a_cache_that_is_cut_while_decoding_is_rounded_once(wide):
    kwargs = {"base_press": {"name": "knorm"}, "compression_interval": 7, "target_size": 20}
    spec, prompts = PressSpec("DecodingPress", 0.0, kwargs=kwargs), random_prompts(4)
    for run, prompt in zip(generate_all(wide, prompts, spec, 24, formats=Q4), prompts, strict=True):
        press, cache = spec.for_prompt(len(prompt)), WrittenRounded("q4_0", "q4_0")
        assert run.token_ids == alone(wide, prompt, press, run.index, 24, past_key_values=cache)
        assert len(run.compressions) == (len(run.token_ids) - 1) // 7 > 0
    assert generate_all(wide, prompts, spec, 24)[0].token_ids != run.token_ids


def make_graph(step):
    """A record of a step, as `test_cuda_graphs` makes it."""
    graph = make_fx(step)()
    return lambda: graph()


def test_recorded_steps_round_too(wide, monkeypatch):
    prompts = random_prompts(4)
    plain = generate_all(wide, prompts, SPECS[0], 12, formats=Q4)
    monkeypatch.setattr(batch, "recorder_for", lambda device: CheckedRecorder(make_graph))
    recorded = generate_all(wide, prompts, SPECS[0], 12, formats=Q4)
    assert [run.token_ids for run in recorded] == [run.token_ids for run in plain]


def test_the_canary_compares_with_a_cache_that_is_held_in_full(wide):
    """Without a press it measures the format alone, and the format leaves the full cache as it is."""
    prompts = random_prompts(3)
    for formats in (Q4, CacheFormats.of("int2", "int2", KIVI)):
        runs = generate_all(wide, prompts, SPECS[0], 12, formats=formats, canary_tokens=5)
        for run in runs:
            divergence = run.signals["canary_kl"]
            assert np.isfinite(divergence).sum() == 5 and np.nanmax(divergence) > 1e-6
    exact = generate_all(wide, prompts, SPECS[0], 12, canary_tokens=5)
    assert max(np.nanmax(run.signals["canary_kl"]) for run in exact) < 1e-9


def test_nominal_bytes_are_counted_from_bits_and_scales(wide):
    """3 layers of 2 heads of 32 dimensions: 192 values a token, of keys and of values each."""
    prompts = random_prompts(1, 70)

    def count(k, v, spec=SPECS[0], **kwargs):
        formats = CacheFormats.of(k, v, kwargs)
        return generate_all(wide, prompts, spec, 2, formats=formats)[0].cache.nominal_bytes

    assert count("none", "none") == 70 * 192 * 2 * 2
    assert count("q8_0", "q4_0") == 70 * 192 * (8.5 + 4.5) / 8
    assert count("q8_0", "none", SPECS[1]) == 35 * 192 * (8.5 + 16) / 8
    assert (
        count("q4_0", "q4_0", protect_layers=[0], protect_tokens=4)
        == (128 * (66 * 4.5 + 4 * 16) + 64 * 70 * 16) * 2 / 8
    )
    # of 70 keys 64 are in groups and 6 wait; of values 16 wait; groups of 8 have a scale and a minimum
    keys, values = 64 * (4 + 32 / 8) + 6 * 16, 54 * (2 + 32 / 8) + 16 * 16
    assert count("int4", "int2", **KIVI) == 192 * (keys + values) / 8


REFUSED = [
    (SPECS[0], "int4", {"group": 12, "residual": 12}, None, "group 12 does not divide a head's 32"),
    (
        SPECS[0],
        "q4_0",
        {"protect_layers": [3]},
        None,
        "protect_layers 3 is not allowed: the model has 3 layers",
    ),
    (SPECS[0], "q4_0", {"protect_layers": [0, 1, -1]}, None, "protect_layers names all layers"),
    (ADA, "int4", {}, None, "masks keys of some heads, which would have a part in the groups"),
    (ROTATES, "q4_0", {"protect_tokens": 1}, None, "changes the keys that it keeps, so that their order"),
    (DECODES, "int2", {}, None, "cuts the cache while decoding, which would tear the groups"),
    (SPECS[0], "q4_0", {}, {"head_dim": 24}, "a head of 24 dimensions cannot be held in blocks of 32"),
    (
        SPECS[0],
        "f16",
        {"rotate": True},
        {"head_dim": 24},
        "a head has 24 dimensions, which is no power of two",
    ),
]


@pytest.mark.parametrize(("spec", "name", "kwargs", "changes", "message"), REFUSED)
def test_what_a_model_or_a_press_cannot_have_is_refused(tiny, wide, spec, name, kwargs, changes, message):
    lm = dataclasses.replace(tiny, model=tiny_llama(**changes), packed=None) if changes else wide
    with pytest.raises(InputError, match=message):
        generate_all(lm, random_prompts(1), spec, 4, formats=CacheFormats.of(name, name, kwargs))


def test_a_window_has_no_first_tokens_to_protect(tiny):
    model = built("Mistral")
    lm = dataclasses.replace(tiny, model=model, packed=None)
    with pytest.raises(InputError, match="not supported on a model with a sliding window"):
        generate_all(
            lm, [[5] * 20], SPECS[0], 4, formats=CacheFormats.of("f16", "f16", {"protect_tokens": 1})
        )


def test_a_refused_guess_leaves_no_trace(wide, monkeypatch):
    """Guesses that are all wrong are rounded, read and taken back."""

    class Wrong(Knowing):
        def draft(self, count):
            return [(token + 1) % 300 for token in self.answer[len(self.past) - self.length :][:count]]

    prompts = random_prompts(3)
    for case in (CASES[6], CASES[13], CASES[15]):
        formats = CacheFormats.of(*case)
        plain = generate_all(wide, prompts, SPECS[2], 24, drafts=False, formats=formats)
        answers = {tuple(prompts[run.index]): run.token_ids for run in plain}
        monkeypatch.setattr(batch, "Drafter", lambda prompt, answers=answers: Wrong(prompt, answers))
        drafted = generate_all(wide, prompts, SPECS[2], 24, formats=formats)
        assert [run.token_ids for run in drafted] == [run.token_ids for run in plain]
        if case[1] not in GROUPED:
            assert sum(run.drafting.drafted for run in drafted) > 10


def test_the_embedded_model_has_the_tokens_of_a_plain_forward(embedded):
    """In double precision, as above."""
    exact = dataclasses.replace(
        embedded, model=copy.deepcopy(embedded.model).double(), dtype="float64", packed=None
    )
    problems = load_problems("onestep", 2, 0, seed=42)
    prompts = [prompt.token_ids for prompt in build_prompts(*problems, embedded.tokenizer)]
    press = PressSpec("streaming_llm", 0.25)
    runs = generate_all(exact, prompts, press, 8, formats=CacheFormats.of("q8_0", "q4_0", {}))
    for run, prompt in zip(runs, prompts, strict=True):
        asked = press.for_prompt(len(prompt))
        assert run.token_ids == rounded_alone(exact, prompt, asked, run.index, 8, "q8_0", "q4_0")
