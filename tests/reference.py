"""A tiny model, prompts and runs of it, and independent references: what transformers and kvpress do with one
prompt alone.
"""

import contextlib
import dataclasses

import numpy as np
import torch
from scipy.special import log_softmax
from scipy.stats import entropy
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as DecodeBytes
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    DynamicCache,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from kvhelpers.generation.attention import attention_implementation
from kvhelpers.generation.drafts import Drafter
from kvhelpers.generation.generate import generate
from kvhelpers.generation.requests import Request, Settings

MATRIX = "matrix"  # the property of a test that conftest makes the matrix of
SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.3,
    "max_position_embeddings": 512,
}


class Knowing(Drafter):
    """Knows the answer, and guesses it but for a token here and there; ``answers`` is by prompt."""

    def __init__(self, prompt, answers):
        self.length, self.draw = len(prompt), np.random.default_rng(len(prompt))
        self.answer = answers[tuple(prompt)]
        super().__init__(prompt)

    def append(self, token):
        super().append(token)
        self.streak = int(self.draw.integers(0, 20))

    def draft(self, count):
        done = len(self.past) - self.length
        guesses = self.answer[done : done + count] if done >= 0 else []
        return [5 if self.draw.random() < 0.2 else token for token in guesses]


def alone(lm, prompt, press, seed, max_new_tokens, **kwargs):
    """New tokens of ``model.generate`` for one prompt inside ``with press(model):``."""
    return alone_with_logits(lm, prompt, press, seed, max_new_tokens, **kwargs)[0]


def alone_with_logits(lm, prompt, press, seed, max_new_tokens, **kwargs):
    """The same, and the logits ``[T, V]`` that the tokens were chosen by."""
    torch.manual_seed(seed)
    ids = torch.tensor([prompt])
    with attention_implementation(lm.model, lm.attn), press(lm.model) if press else contextlib.nullcontext():
        out = lm.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(lm.stop_ids),
            pad_token_id=2,
            return_dict_in_generate=True,
            output_logits=True,
            **kwargs,
        )
    return out.sequences[0, len(prompt) :].tolist(), torch.cat(out.logits)


def kvpress_cache(lm, prompt, press, seed):
    """The cache that kvpress itself leaves of one prompt, and the next token's logits ``[V]``."""
    torch.manual_seed(seed)
    cache = DynamicCache(config=lm.model.config)
    with (
        torch.no_grad(),
        attention_implementation(lm.model, lm.attn),
        press(lm.model) if press else contextlib.nullcontext(),
    ):
        out = lm.model(torch.tensor([prompt]), past_key_values=cache)
    return cache, out.logits[0, -1]


def kvpress_kept(lm, prompt, press, seed):
    """Tokens that kvpress itself leaves in the cache of one prompt."""
    return kvpress_cache(lm, prompt, press, seed)[0].get_seq_length()


def with_attention(lm, spec):
    """The same model with the prefill attention that the press needs."""
    return dataclasses.replace(lm, attn=spec.attention())


def tiny_llama(**changes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**(SIZES | changes))).eval()


def random_prompts(n, longest=120):
    """Token ids of ``n`` prompts of 70 to ``longest`` tokens."""
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(3, 300, (70 + (longest - 70) * i // n,), generator=draw).tolist() for i in range(n)]


def requests_for(prompts, spec):
    """A request per prompt, seeded by its place."""
    return [Request(prompt, spec.for_prompt(len(prompt)), seed) for seed, prompt in enumerate(prompts)]


def generate_all(lm, prompts, spec, max_new_tokens, batch_size=4, **settings):
    """The runs of some prompts under a press, in the prompts' order."""
    wanted = Settings(max_new_tokens=max_new_tokens, batch_size=batch_size, **settings)
    return sorted(generate(lm, requests_for(prompts, spec), wanted), key=lambda run: run.index)


def signals_in_float64(logits, chosen):
    """A dictionary of signals for each row of logits ``[T, V]`` and its chosen token: the definitions, one by
    one.
    """
    rows = []
    for z, token in zip(logits.double().numpy(), chosen.tolist(), strict=True):
        logp = log_softmax(z)
        p = np.exp(logp)
        order = np.argsort(-p, kind="stable")
        others = np.delete(p, order[0])
        mean = -(p * logp).sum()
        rows.append(
            {
                "entropy": entropy(p),
                "varentropy": (p * (-logp - mean) ** 2).sum(),
                "top1_prob": p.max(),
                "margin": logp[order[0]] - logp[order[1]],
                "top5_mass": p[order[:5]].sum(),
                "alt_entropy": entropy(others / others.sum()),
                "chosen_logprob": logp[token],
                "top20": logp[order[:20]],
            }
        )
    return rows


CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
END = "<|im_end|>"


def save_answering(folder, pieces, template=CHAT, **generation_config):
    """Save a model that answers every prompt with these pieces of text and then ends; return the folder.

    Each piece, all different, is one token. A byte of other text is one too. Without attention or MLPs the
    next token follows from the last: the first piece from a byte, each other one from the piece before it.
    """
    alphabet = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    letters = Tokenizer(BPE(alphabet, []))
    letters.pre_tokenizer, letters.decoder = ByteLevel(add_prefix_space=False, use_regex=False), DecodeBytes()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token=END, chat_template=template)
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    script = [*tokenizer.convert_tokens_to_ids(list(pieces)), tokenizer.eos_token_id]
    assert len(set(script)) == len(pieces) + 1 < SIZES["hidden_size"]
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": 8192, "num_hidden_layers": 2}
    model = tiny_llama(**size, tie_word_embeddings=False)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding, head = model.model.embed_tokens.weight.zero_(), model.lm_head.weight.zero_()
        embedding[:, 0] = 1
        for place, token in enumerate(script):
            head[token, place] = 1
            embedding[token] = torch.eye(SIZES["hidden_size"])[place + 1]
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, **generation_config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
