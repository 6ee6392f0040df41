"""Signals of a run's inside, for each new token t from the first that sees the compressed cache, from a
replay (`replay`); and of what was evicted, one number a run.

COURSE, how the distribution moves
kl_previous            KL(p_t || p_t-1), nats
jaccard10_previous     Jaccard index of the ten most probable tokens and the previous step's

INSIDE, with h the hidden state that gives p_t, of the middle layer (``middle``) and the last (``last``)
*_cos_previous         cosine of h and the previous step's; missing for the first
*_cos_nearest          largest cosine of h and any step's before the previous one; missing for the first two
*_nearest_back         how many steps back that is

ATTENTION of the step, means over heads, at a quarter, a half and the end of the layers (``a``, ``b``, ``c``)
*_sink, *_prompt, *_own    weight on the prompt's first 4 tokens, its others, and the run's own tokens
*_entropy              entropy of the weights, nats

FULL, against the full cache's distribution q_t after the same tokens
full_kl                KL(q_t || p_t), nats
full_entropy_gap       entropy of p_t minus that of q_t, nats
full_logprob_gap       log-probability of the generated token under p_t minus that under q_t, nats

EVICTED, missing without a press; means over heads and layers
evicted_attention      share of the attention of the prompt's last 16 tokens that lies on evicted tokens (the
                       three watched layers)
evicted_value_share    share of the sum of the value norms that is evicted
evicted_value_largest  largest evicted value norm over the mean one
evicted_question       share of the prompt's own part that is evicted: what no other prompt begins with
evicted_examples       the same of the beginning that the prompts share
cutoff_margin          lowest score kept minus highest evicted, in standard deviations of the scores; missing
                       where the press gives none
heads_agree            mean overlap of what two heads of a layer keep
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from kvhelpers.generation.replay import Pass, Prompt, Replayer, attention
from kvhelpers.generation.token_signals import canary_signals, divergence, token_signals
from kvhelpers.records import EVICTED, SCALARS

BEST, SINKS, ROWS = 10, 4, 32


def course(logits: torch.Tensor) -> np.ndarray:
    """`COURSE` of tokens 1 to T-1, float32 ``[T-1, 2]``, from raw logits ``[T, V]`` of all tokens."""
    columns = []
    for before, now in _pairs(logits[:-1], logits[1:]):
        p, q = now.log_softmax(-1), before.log_softmax(-1)
        kl = divergence(p, q)
        common = (now.topk(BEST).indices[:, :, None] == before.topk(BEST).indices[:, None]).sum((1, 2))
        columns.append(torch.stack([kl, common / (2 * BEST - common)], dim=-1))
    return torch.cat(columns).cpu().numpy()


def against_full(full: torch.Tensor, logits: torch.Tensor, token_ids: Sequence[int]) -> np.ndarray:
    """`FULL` of tokens 1 to T-1, float32 ``[T-1, 3]``, from raw logits ``[T-1, V]`` of both caches."""
    columns, chosen = [], torch.tensor(token_ids[1:], device=logits.device)
    for whole, now, token in zip(*(part.split(ROWS) for part in (full, logits, chosen)), strict=True):
        kl, entropy, logprob = canary_signals(whole, now, token).unbind(-1)
        scalars = dict(zip(SCALARS, token_signals(now, token)[0].unbind(-1), strict=True))
        gaps = scalars["entropy"] - entropy, scalars["chosen_logprob"] - logprob
        columns.append(torch.stack([kl, *gaps], dim=-1))
    return torch.cat(columns).cpu().numpy()


def inside(replayed: Pass) -> np.ndarray:
    """`INSIDE` of tokens 1 to T-1, float32 ``[T-1, 6]``."""
    return np.concatenate([_recurrence(states) for _, states in sorted(replayed.hidden.items())], axis=1)


def _recurrence(states: torch.Tensor) -> np.ndarray:
    unit = torch.nn.functional.normalize(states.float(), dim=-1)
    cosines = (unit @ unit.T).cpu().numpy()
    columns = np.full((len(unit), 3), np.nan, dtype=np.float32)
    for step in range(1, len(unit)):
        columns[step, 0] = cosines[step, step - 1]
        if step > 1:
            nearest = int(cosines[step, : step - 1].argmax())
            columns[step, 1:] = cosines[step, nearest], step - nearest
    return columns


def attending(replayed: Pass, prompt: Prompt) -> np.ndarray:
    """`ATTENTION` of tokens 1 to T-1, float32 ``[T-1, 12]``."""
    columns = []
    for layer, weights in sorted(replayed.attention.items()):
        places = prompt.places[layer]
        heads, held = len(weights), places.shape[1]
        sinks = (places < SINKS).repeat_interleave(heads // len(places), dim=0)[:, None]
        on_prompt = weights[:, :, :held]
        sink = (on_prompt * sinks).sum(-1).mean(0)
        entropy = -torch.special.xlogy(weights, weights).sum(-1).mean(0)
        own = weights[:, :, held:].sum(-1).mean(0)
        columns += [sink, on_prompt.sum(-1).mean(0) - sink, own, entropy]
    return torch.stack(columns, dim=-1).cpu().numpy()


def evicted(replayer: Replayer, prompt: Prompt) -> np.ndarray:
    """`EVICTED` of a run, float32 ``[7]``."""
    if not prompt.last:
        return np.full(len(EVICTED), np.nan, dtype=np.float32)
    gone = [_gone(places, keys.shape[1]) for places, keys in zip(prompt.places, prompt.keys, strict=True)]
    on_gone = []
    for layer, queries in prompt.last.items():
        weights = attention(replayer.modules[layer], queries, prompt.keys[layer])
        group = len(weights) // len(gone[layer])
        on_gone.append((weights * gone[layer].repeat_interleave(group, dim=0)[:, None]).sum(-1).mean())
    norms = [values.float().norm(dim=-1) for values in prompt.values]
    pairs = list(zip(norms, gone, strict=True))
    first = replayer.beginning
    values = (
        torch.stack(on_gone).mean(),
        torch.stack([(norm * out).sum() / norm.sum() for norm, out in pairs]).mean(),
        torch.stack([(norm * out).max() / norm.mean() for norm, out in pairs]).mean(),
        torch.stack([out[:, first:].float().mean() for out in gone]).mean(),
        torch.stack([out[:, :first].float().mean() for out in gone]).mean() if first else np.nan,
        _margin(prompt),
        torch.stack([_agreement(~out) for out in gone]).mean(),
    )
    return np.array([float(value) for value in values], dtype=np.float32)


def _gone(places: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """Which tokens each head lost, ``[G, N]``."""
    gone = torch.ones(len(places), n_tokens, dtype=torch.bool, device=places.device)
    return gone.scatter_(1, places, False)


def _margin(prompt: Prompt) -> float:
    if len(prompt.scores) != len(prompt.places):
        return float("nan")
    margins = []
    for scores, places in zip(prompt.scores, prompt.places, strict=True):
        gone, scores = _gone(places, scores.shape[1]), scores.float()
        lowest = scores.masked_fill(gone, torch.inf).amin(-1)
        highest = scores.masked_fill(~gone, -torch.inf).amax(-1)
        margins.append(((lowest - highest) / scores.std(-1).clamp_min(1e-12)).mean())
    return float(torch.stack(margins).mean())


def _agreement(kept: torch.Tensor) -> torch.Tensor:
    """Mean share of a head's kept tokens ``[G, N]`` that another head keeps; 1 with one head."""
    heads, count = len(kept), kept[0].sum()
    if heads == 1:
        return torch.ones(())
    by_token = kept.sum(0).float()
    return (by_token * (by_token - 1)).sum() / (heads * (heads - 1) * count)


def _pairs(first: torch.Tensor, second: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return zip(first.split(ROWS), second.split(ROWS), strict=True)
