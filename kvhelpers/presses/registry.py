"""The presses by name, and what each of them needs.

One entry for each press class of kvpress 0.5.5, and one for this project's own. A class that a newer kvpress
adds is unknown until it has an entry. Nothing is imported here, so that a misspelt name is noticed before
torch is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

NONE = "none"
DECODING = "DecodingPress"
PREFILL_DECODING = "PrefillDecodingPress"


@dataclass(frozen=True)
class PressEntry:
    """A press class, its short name if it has one, and what it needs.

    ``eager``: it reads attention weights, which only eager attention gives. ``posthoc``: it acts after the
    prompt's forward pass, on hidden states, keys and values. ``unsupported`` says why it cannot be used.
    ``module`` has the class; a class of this project's own goes by its short name only.
    """

    class_name: str
    short: str | None = None
    eager: bool = False
    posthoc: bool = False
    unsupported: str | None = None
    module: str = "kvpress"

    @property
    def is_own(self) -> bool:
        """Whether the class is this project's."""
        return self.module != "kvpress"


ENTRIES = (
    PressEntry("StreamingLLMPress", "streaming_llm", posthoc=True),
    PressEntry("SnapKVPress", "snapkv", posthoc=True),
    PressEntry("ObservedAttentionPress", "observed_attention", eager=True),
    PressEntry("ExpectedAttentionPress", "expected_attention", posthoc=True),
    PressEntry("KnormPress", "knorm", posthoc=True),
    PressEntry("TOVAPress", "tova", posthoc=True),
    PressEntry("RandomPress", "random", posthoc=True),
    PressEntry("SinkPress", "with_sink", module="kvhelpers.presses.sink"),
    PressEntry("AdaKVPress"),
    PressEntry("BlockPress"),
    PressEntry("CAMPress", unsupported="it merges tokens at every step"),
    PressEntry("CapPress"),
    PressEntry("ChunkPress"),
    PressEntry("ChunkKVPress"),
    PressEntry("CompactorPress"),
    PressEntry("ComposedPress", unsupported="it takes a list of presses"),
    PressEntry(
        "CompressionRatioDecodingPress",
        unsupported="it removes a share of a growing cache; name a target_size with 'DecodingPress'",
    ),
    PressEntry("CriticalAdaKVPress"),
    PressEntry("CriticalKVPress"),
    PressEntry("CURPress"),
    PressEntry(DECODING),
    PressEntry(
        "DMSPress", unsupported="it evicts tokens at every step, by thresholds made for trained models"
    ),
    PressEntry("DuoAttentionPress", unsupported="it needs attention patterns from the network"),
    PressEntry("EntropyGatedChunkKVPress"),
    PressEntry("ExpectedAttentionStatsPress", unsupported="it needs statistics from a model hub"),
    PressEntry("FastKVzipPress", unsupported="it needs gates from a model hub"),
    PressEntry("FinchPress", unsupported="it needs a delimiter token between context and question"),
    PressEntry("KeyRerotationPress"),
    PressEntry("KeyDiffPress"),
    PressEntry("KVComposePress", unsupported="it needs attention of its own when decoding"),
    PressEntry("KVgradPress", unsupported="it needs a file from a model hub"),
    PressEntry("KVzapPress", unsupported="it needs a scorer from a model hub"),
    PressEntry("KVzipPress", unsupported="it replays the context in several passes of its own"),
    PressEntry("LagKVPress"),
    PressEntry("LeverageScorePress"),
    PressEntry("LUKVPress", unsupported="it needs parameters that fit one model"),
    PressEntry("MergingPress"),
    PressEntry("NonCausalAttnPress"),
    PressEntry("PerLayerCompressionPress"),
    PressEntry(PREFILL_DECODING),
    PressEntry("PyramidKVPress"),
    PressEntry("QFilterPress", unsupported="it needs filters from a model hub"),
    PressEntry("RestoreKVPress", unsupported="it needs positions of its own when decoding"),
    PressEntry("SimLayerKVPress"),
    PressEntry("ThinKPress"),
)
PRESSES = {entry.short: entry.class_name for entry in ENTRIES if entry.short and not entry.is_own}
BY_NAME = {entry.short: entry for entry in ENTRIES if entry.short} | {
    entry.class_name: entry
    for entry in sorted(ENTRIES, key=lambda entry: entry.class_name.lower())
    if not entry.is_own
}
EAGER = frozenset(entry.class_name for entry in ENTRIES if entry.eager)
POSTHOC = frozenset(entry.class_name for entry in ENTRIES if entry.posthoc)
