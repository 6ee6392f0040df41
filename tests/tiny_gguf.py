"""A tiny Llama with random weights as a GGUF file, as llama.cpp would write it."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from tokenizers import pre_tokenizers

HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, HEAD_DIM = 64, 96, 4, 2, 16
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TOKENS = [*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt", "Ġs"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_gguf(path: Path, blocks: int = 2, left_out: str = "", seed: int = 0, **metadata) -> Path:
    """Write the file; the tensor ``left_out`` is not in it, and ``metadata`` replace some values."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(metadata.get("embedding_length", HIDDEN))
    writer.add_block_count(metadata.get("block_count", blocks))
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(TOKENS))
    write_tokenizer(writer, "smollm", chat_template=metadata.get("chat_template", TEMPLATE))
    random = np.random.default_rng(seed)
    for name, shape in _shapes(blocks, len(TOKENS)).items():
        if name != left_out:
            writer.add_tensor(name, (random.standard_normal(shape) * 0.1).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_tokenizer(
    writer: GGUFWriter, pre: str | None, model="gpt2", added=(), ids=(), more=(), chat_template=TEMPLATE
) -> None:
    """Byte-level BPE of few tokens; ``added`` ones have their types; ``ids`` are those of
    roles, and ``more`` are further keys.
    """
    added = dict(added)
    kinds = [3] * len(CONTROL) + [1] * (len(TOKENS) - len(CONTROL))
    writer.add_tokenizer_model(model)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    # what is added takes the places of control characters' bytes
    places = slice(len(TOKENS) - 2 - len(added), len(TOKENS) - 2)
    tokens = list(TOKENS)
    tokens[places], kinds[places] = added, added.values()
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["Ġ t", "Ġ s"])
    for role, index in ({"bos": 1, "eos": 2} | dict(ids)).items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", index)
    for key, value in dict(more).items():
        writer.add_bool(f"tokenizer.ggml.{key}", value)
    writer.add_chat_template(chat_template)


def _shapes(blocks: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    block = {
        "attn_norm": (HIDDEN,),
        "attn_q": (HEADS * HEAD_DIM, HIDDEN),
        "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
        "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
        "attn_output": (HIDDEN, HEADS * HEAD_DIM),
        "ffn_norm": (HIDDEN,),
        "ffn_gate": (FEED_FORWARD, HIDDEN),
        "ffn_up": (FEED_FORWARD, HIDDEN),
        "ffn_down": (HIDDEN, FEED_FORWARD),
    }
    blocked = {f"blk.{i}.{name}.weight": shape for i in range(blocks) for name, shape in block.items()}
    return {"token_embd.weight": (vocabulary, HIDDEN), **blocked, "output_norm.weight": (HIDDEN,)}
