"""Per-token signals of the next-token distribution, from raw logits, without keeping the logits.

All logarithms are natural, so entropies are in nats. For logits z over the vocabulary, p = softmax(z):

==================  =====================================================================================
entropy             H = -sum p log p, nats
varentropy          Var(-log p) under p, nats squared
top1_prob           largest probability
margin              log-probability of the first minus that of the second token, nats
top5_mass           summed probability of the five most probable tokens
alt_entropy         entropy of p without its most probable token, renormalized, nats
chosen_logprob      log-probability of the token that was generated, nats
entropy_change      entropy minus the previous token's, nats; missing for the first token
top20_logprob       log-probabilities of the 20 most probable tokens, in order (list)
top20_id            their token ids (list)
canary_kl           KL(full || compressed) of the next-token distributions of the full and the compressed
                    cache, nats
canary_entropy      entropy of the full cache's distribution, nats
canary_chosen       log-probability that the full cache gives the generated token, nats
==================  =====================================================================================

The canary's signals are there for a run's first tokens only, and only if asked for (`full_cache`); elsewhere
they are missing.

A logit of -inf, such as those of a padded vocabulary's masked rows, is a token of probability 0: p log p is 0
there, and its log-probability, also in the list of 20, is -inf. Where one token alone is possible, the margin
is inf and alt_entropy, a sum over nothing, 0.
"""

from __future__ import annotations

import numpy as np
import torch

from kvhelpers.records import SCALARS

TOP = 20
CERTAIN = 1e4  # nats between the first and the second token, beyond which e to their minus is 0


def token_signals(
    logits: torch.Tensor, chosen: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Signals of one step for a whole batch, on the logits' device.

    Parameters
    ----------
    logits : float32 ``[B, V]``, raw.
    chosen : int64 ``[B]``, the generated tokens.

    Returns
    -------
    scalars : float32 ``[B, S]`` in the order of `records.SCALARS`
    top_logprob : float32 ``[B, min(20, V)]``
    top_id : int64 ``[B, min(20, V)]``

    Notes
    -----
    The sums run over all tokens but the first, relative to the second's logit, and the first is added
    analytically. This stays exact where the first token's probability rounds to one. Distances are held
    finite, which changes only those of tokens of probability 0, so that 0 times them is 0.
    """
    top, ids = logits.topk(min(TOP, logits.shape[-1]), dim=-1)
    margin, least = top[:, 0] - top[:, 1], torch.finfo(logits.dtype).min
    near = margin.clamp_max(CERTAIN)
    below = (logits - top[:, 1:2].clamp_min(least)).clamp_min_(least)
    weight = below.exp().scatter_(1, ids[:, :1], 0.0)
    # sums over the alternatives of e^d, d e^d and d^2 e^d, where d is the distance to the second logit
    weighted = weight * below
    s0, s1, s2 = weight.sum(-1).clamp_min_(1), weighted.sum(-1), (weighted * below).sum(-1)
    # the same relative to the first logit, with the first token included
    scale = torch.exp(-near)
    total = 1 + scale * s0
    first = scale * (s1 - near * s0) / total
    second = scale * (s2 - 2 * near * s1 + near.square() * s0) / total
    log_total = torch.log1p(scale * s0)
    top_logprob = top - top[:, :1] - log_total[:, None]
    signals = {
        "entropy": log_total - first,
        "varentropy": (second - first.square()).clamp_min(0),
        "top1_prob": 1 / total,
        "margin": margin,
        "top5_mass": top_logprob[:, :5].exp().sum(-1),
        "alt_entropy": s0.log() - s1 / s0,
        "chosen_logprob": logits.gather(1, chosen[:, None])[:, 0] - top[:, 0] - log_total,
    }
    return torch.stack([signals[name] for name in SCALARS], dim=-1), top_logprob, ids


def canary_signals(full: torch.Tensor, logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The canary's signals of one step: float32 ``[B, 3]`` in the order of `records.CANARY`.

    ``full`` and ``logits`` are raw float32 logits ``[B, V]`` of the full and the compressed cache, ``chosen``
    int64 ``[B]`` the generated tokens. KL divergence after Kullback and Leibler (1951).
    """
    whole, compressed = full.log_softmax(-1), logits.log_softmax(-1)
    entropy = -expectation(whole, whole)
    return torch.stack(
        [divergence(whole, compressed), entropy, whole.gather(1, chosen[:, None])[:, 0]], dim=-1
    )


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) in nats ``[B]`` from log-probabilities ``[B, V]``; inf where q excludes what p does not."""
    return expectation(p, p - q).clamp_min(0)


def expectation(p: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """Mean ``[B]`` of values ``[B, V]`` under log-probabilities ``[B, V]``; what has none does not count."""
    weight = p.exp()
    return (weight * of).masked_fill_(weight == 0, 0).sum(-1)


def entropy_change(entropy: np.ndarray) -> np.ndarray:
    """Change in entropy from token to token, ``[T]``; the first has no predecessor and is NaN."""
    return np.diff(entropy, prepend=np.float32(np.nan)).astype(np.float32)
