"""How many rows to decode together: as many as pay, and as fit into free memory."""

from __future__ import annotations

import psutil
import torch

from kvhelpers.models import LanguageModel

ENOUGH = {"cpu": 64, "mps": 64, "cuda": 256}  # rows beyond which a step's time grows with its rows
USED = 0.7  # share of free memory that the rows may take; the rest is for the prefill and for other programs
GROWTH = 1.5  # the cache's buffers grow by half when full
LOGITS_COPIES = 6  # logits and what the signals make of them, float32


def free_bytes(device: str) -> int:
    """Memory free on a device; on Apple's GPUs, which share it, the machine's."""
    return torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available


def row_bytes(lm: LanguageModel, n_tokens: int) -> int:
    """Memory of one row whose cache holds up to ``n_tokens``, with its logits."""
    config, weights = lm.model.config.get_text_config(), next(lm.model.parameters())
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * head_dim * weights.element_size() * n_tokens
    return int(GROWTH * cache) + 4 * LOGITS_COPIES * config.vocab_size


def auto_batch_size(lm: LanguageModel, longest_prompt: int, max_new_tokens: int) -> int:
    """Rows to decode together, at least one.

    The estimate takes prompts as uncompressed, as long as the longest one, and answers as long as allowed. When it is
    wrong all the same, `generation.generate` halves the batch.
    """
    fits = USED * free_bytes(lm.device) / row_bytes(lm, longest_prompt + max_new_tokens)
    return max(1, min(ENOUGH[lm.device], int(fits)))
