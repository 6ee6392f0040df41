"""How far a run's text reaches with each token, against decoding every prefix anew."""

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kvhelpers.generation.texts import answer_text, char_ends

TEXT = "Nora hat 7 Rosen – naïve “Größe” 東京🙂👩‍👩‍👧, x ≥ 2 .\n\n  #### -3.5 do n't , ok ? 🙂🙂 नमस्ते " * 3
PIECES = ["▁", "▁a", "a", "b", "▁▁", "ab", "▁ab", ".", "▁.", "n", "'", "t", "▁n't", "é", "\ufffd", "▁the"]


def every_prefix(ids, lm):
    """By its definition, in a time that grows with the square of the tokens."""
    texts = (lm.tokenizer.decode(ids[: count + 1]) for count in range(len(ids)))
    longest = len(answer_text(ids, lm))
    ends = itertools.accumulate((len(text.rstrip("\ufffd")) for text in texts), max)
    return [min(end, longest) for end in ends]


def sentencepiece_like(scheme, cleans, strip=False):
    """A tokenizer with pieces, bytes and an added token, as converted from sentencepiece models."""
    names = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    vocabulary = {name: place for place, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    whole = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strip else [])])
    tokenizer.decoder = whole if strip else decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_tokens([AddedToken("<turn>", normalized=False)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=cleans)
    return SimpleNamespace(tokenizer=fast, stop_ids=frozenset({1}))


def draws(lm, seed):
    """Token sequences: any tokens; bytes of characters cut and mixed; few tokens again and again."""
    rng, size = np.random.default_rng(seed), len(lm.tokenizer)
    real = lm.tokenizer.encode(TEXT, add_special_tokens=False)
    odd = [token for token in range(size) if not lm.tokenizer.decode([token]).strip("\ufffd ")]
    yield rng.integers(0, size, 200).tolist()
    yield rng.choice(real, 150).tolist()
    yield real + rng.choice(odd, 80).tolist() + real
    yield np.where(rng.random(200) < 0.5, rng.choice(odd, 200), rng.choice(real, 200)).tolist()
    yield rng.choice(rng.integers(0, size, 3), 120).tolist()
    yield [*rng.integers(0, size, 40).tolist(), *sorted(lm.stop_ids)[:1]]


@pytest.mark.parametrize("seed", range(6))
def test_each_token_s_end_is_that_of_its_prefix(embedded, seed):
    for ids in draws(embedded, seed):
        assert char_ends(ids, embedded) == every_prefix(ids, embedded)


@pytest.mark.parametrize("cleans", [False, True])
@pytest.mark.parametrize("scheme", ["always", "first", "never"])
@pytest.mark.parametrize("strip", [False, True])
def test_so_it_is_with_sentencepiece_s_spaces_and_bytes(scheme, cleans, strip):
    lm = sentencepiece_like(scheme, cleans, strip)
    for seed in range(3):
        for ids in draws(lm, seed):
            assert char_ends(ids, lm) == every_prefix(ids, lm)
        rng = np.random.default_rng(seed)  # bytes that now make characters and now do not
        parts = [*"aé東🙂".encode(), 0xFF, 0x80]
        ids = [2 + int(byte) for byte in rng.choice(parts, 60)] + [258 + int(p) for p in rng.choice(16, 60)]
        ids = rng.permutation(ids).tolist()
        assert char_ends(ids, lm) == every_prefix(ids, lm)


def test_ids_that_the_tokenizer_does_not_know_have_no_text(embedded):
    ids = [*embedded.tokenizer.encode("one two three " * 12), 10**6, 10**6, 42]
    assert char_ends(ids, embedded) == every_prefix(ids, embedded)


@pytest.mark.parametrize("loop", ["incomplete", "text"])
def test_its_time_grows_with_the_tokens(embedded, loop):
    cut = embedded.tokenizer.encode("🙂", add_special_tokens=False)[0]
    assert embedded.tokenizer.decode([cut]) == "\ufffd"
    ids = [cut] * 8000 if loop == "incomplete" else embedded.tokenizer.encode(TEXT) * 30
    began = time.process_time()
    char_ends(ids[:2000], embedded)
    short = time.process_time() - began
    char_ends(ids[:8000], embedded)
    assert time.process_time() - began - short < 12 * short  # of squares it is 16 times
