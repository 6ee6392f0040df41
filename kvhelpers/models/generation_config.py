"""What a model's generation config asks for and greedy decoding from raw logits does not do."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

# no effect on a greedy answer, or ours to say: sampling, beams' own, ids, lengths, caches, outputs
NO_EFFECT = {
    *("do_sample", "temperature", "top_k", "top_p", "top_h", "min_p", "typical_p"),
    *("epsilon_cutoff", "eta_cutoff", "num_return_sequences", "renormalize_logits"),
    *("length_penalty", "early_stopping", "low_memory"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("max_length", "max_new_tokens", "use_cache", "cache_implementation", "cache_config"),
    *("prefill_chunk_size", "compile_config", "disable_compile", "is_assistant"),
    *("output_attentions", "output_hidden_states", "output_logits", "output_scores"),
    *("return_dict_in_generate", "return_legacy_cache", "transformers_version"),
    # decoding by guesses that are checked
    *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule", "prompt_lookup_num_tokens"),
    *("max_matching_ngram_size", "target_lookbehind"),
}
# values with which a setting does nothing
NEUTRAL = {
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "guidance_scale"), 1),
    **dict.fromkeys(("num_beams", "num_beam_groups"), 1),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "diversity_penalty"), 0),
    **dict.fromkeys(("min_length", "min_new_tokens"), 0),
}


def ignored_settings(model: PreTrainedModel) -> dict[str, Any]:
    """Settings of the model's generation config that would alter a greedy answer, such as a repetition
    penalty: `generate` alone would follow them. By name; those that are not known here count too.
    """
    return {
        name: value
        for name, value in sorted(model.generation_config.to_diff_dict().items())
        if name not in NO_EFFECT
        and not name.startswith("_")
        and value not in (None, False, [], {})
        and value != NEUTRAL.get(name)
    }
