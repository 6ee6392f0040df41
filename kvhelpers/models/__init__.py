"""A causal language model with its tokenizer and the tokens that really end an answer.

It knows where weights come from (known models by short name, GGUF files, folders, the hub), devices and
number formats. It does not know prompts, presses or generation. Which weights a name means is told without
loading torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "device": ["DEVICES", "DTYPES", "resolve_device", "resolve_dtype"],
        "gguf": ["converted"],
        "load": ["LanguageModel", "load_model", "stop_ids"],
        "source": ["EMBEDDED", "EmbeddedModel", "find_wheel_file", "model_source"],
    },
)
