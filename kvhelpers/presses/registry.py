"""The presses by name, and what each of them needs.

One entry for each press class of kvpress 0.5.5, and one for this project's own. A class that a newer kvpress
adds is unknown until it has an entry. kvpress is not imported here, so that a misspelt name or a value out of
range is noticed before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kvhelpers.presses.fields import OneOf, Real, Whole

NONE = "none"
DECODING = "DecodingPress"
PREFILL_DECODING = "PrefillDecodingPress"


@dataclass(frozen=True)
class PressEntry:
    """A press class, its short name if it has one, and what it needs.

    ``eager``: it reads attention weights, which only eager attention gives. ``without_weights``: it cannot
    wrap a press that does. ``posthoc``: it acts after the prompt's forward pass, on hidden states, keys and
    values. ``fields`` are the values that its own fields may
    have; truth values and other presses are told by their type. ``unsupported`` says why it cannot be used.
    ``module`` has the class; a class of this project's own goes by its short name only.
    """

    class_name: str
    short: str | None = None
    eager: bool = False
    without_weights: bool = False
    posthoc: bool = False
    unsupported: str | None = None
    module: str = "kvpress"
    fields: Mapping[str, Whole | Real | OneOf] = field(default_factory=dict)

    @property
    def is_own(self) -> bool:
        """Whether the class is this project's."""
        return self.module != "kvpress"


# a window of 0 tokens observes nothing; pooling with an even kernel gives one score too many
WINDOW = {"window_size": Whole(1), "kernel_size": Whole(1, odd=True)}
EXPECTED = {"n_future_positions": Whole(1), "n_sink": Whole(), "epsilon": Real()}
CRITICAL = {"epsilon": Real(), "first_stage_ratio": Real(1)}

ENTRIES = (
    PressEntry("StreamingLLMPress", "streaming_llm", posthoc=True, fields={"n_sink": Whole()}),
    PressEntry("SnapKVPress", "snapkv", posthoc=True, fields=WINDOW),
    PressEntry("ObservedAttentionPress", "observed_attention", eager=True),
    PressEntry("ExpectedAttentionPress", "expected_attention", posthoc=True, fields=EXPECTED),
    PressEntry("KnormPress", "knorm", posthoc=True),
    PressEntry("TOVAPress", "tova", posthoc=True),
    PressEntry("RandomPress", "random", posthoc=True, fields={"seed": Whole(optional=True)}),
    PressEntry("SinkPress", "with_sink", module="kvhelpers.presses.sink", fields={"n_sink": Whole()}),
    PressEntry("AdaKVPress", without_weights=True, fields={"alpha_safeguard": Real(1)}),
    PressEntry("BlockPress", without_weights=True, fields={"block_size": Whole(1)}),
    PressEntry("CAMPress", unsupported="it merges tokens at every step"),
    PressEntry("CapPress", fields=EXPECTED | {"tau": Real()}),
    PressEntry("ChunkPress", without_weights=True, fields={"chunk_length": Whole(1)}),
    PressEntry("ChunkKVPress", without_weights=True, fields={"chunk_length": Whole(1)}),
    PressEntry(
        "CompactorPress",
        fields={
            "sink_size_start": Whole(),
            "sink_size_end": Whole(),
            "chunk_size": Whole(1),
            "sketch_dimension": Whole(1),
            "blending": Real(optional=True),
        },
    ),
    PressEntry("ComposedPress", unsupported="it takes a list of presses"),
    PressEntry(
        "CompressionRatioDecodingPress",
        unsupported="it removes a share of a growing cache; name a target_size with 'DecodingPress'",
    ),
    PressEntry("CriticalAdaKVPress", without_weights=True, fields=CRITICAL | {"alpha_safeguard": Real(1)}),
    PressEntry("CriticalKVPress", fields=CRITICAL),
    PressEntry(
        "CURPress",
        fields={
            "num_sinks": Whole(),
            "local_window_size": Whole(1),
            "leverage_type": OneOf(("key", "value", "kv_avg", "kv_product")),
        },
    ),
    PressEntry(
        DECODING,
        fields={
            "compression_interval": Whole(1),
            "target_size": Whole(1),
            "hidden_states_buffer_size": Whole(),
        },
    ),
    PressEntry(
        "DMSPress", unsupported="it evicts tokens at every step, by thresholds made for trained models"
    ),
    PressEntry("DuoAttentionPress", unsupported="it needs attention patterns from the network"),
    PressEntry(
        "EntropyGatedChunkKVPress",
        without_weights=True,
        fields={"chunk_length": Whole(2), "low_entropy_chunk_length": Whole(1)},
    ),
    PressEntry("ExpectedAttentionStatsPress", unsupported="it needs statistics from a model hub"),
    PressEntry("FastKVzipPress", unsupported="it needs gates from a model hub"),
    PressEntry("FinchPress", unsupported="it needs a delimiter token between context and question"),
    PressEntry("KeyRerotationPress"),
    PressEntry("KeyDiffPress"),
    PressEntry("KVComposePress", unsupported="it needs attention of its own when decoding"),
    PressEntry("KVgradPress", unsupported="it needs a file from a model hub"),
    PressEntry("KVzapPress", unsupported="it needs a scorer from a model hub"),
    PressEntry("KVzipPress", unsupported="it replays the context in several passes of its own"),
    PressEntry("LagKVPress", fields={"n_sink": Whole(), "lag_size": Whole(1)}),
    PressEntry("LeverageScorePress", fields={"sketch_dimension": Whole(1)}),
    PressEntry("LUKVPress", unsupported="it needs parameters that fit one model"),
    PressEntry("MergingPress", fields={"similarity_threshold": Real(1), "merge_fraction": Real(1)}),
    PressEntry("NonCausalAttnPress", fields={"chunk_size": Whole(1)}),
    PressEntry("PerLayerCompressionPress"),
    PressEntry(PREFILL_DECODING),
    PressEntry("PyramidKVPress", fields=WINDOW | {"beta": Whole(1)}),
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
