"""The benchmark compares like with like: the same tokens, the same signals, and a right account of what was
done.
"""

import gpu
import methods
import noise_floor
import numpy as np
import pytest
import throughput
import torch
from reference import random_prompts
from scipy.stats import entropy

from kvhelpers.errors import InputError
from kvhelpers.generation.token_signals import token_signals
from kvhelpers.presses.spec import PressSpec
from kvhelpers.records import SCALARS

NEW = 12
PLAIN = PressSpec("none", 0.0)


@pytest.fixture(scope="module")
def runs(tiny):
    return {
        name: getattr(methods, name)(tiny, random_prompts(5), PLAIN, NEW, 2) for name in throughput.METHODS
    }


def test_all_methods_generate_the_same_tokens(runs):
    base = runs["one_at_a_time"].tokens
    assert (
        sum(map(len, base.values())) == runs["kvpress_pipeline"].new_tokens
    )  # it gives text, so only a count
    assert all(run.tokens == base for name, run in runs.items() if name != "kvpress_pipeline")


def test_compressed_tokens_are_the_same_too(tiny):
    prompts, spec = random_prompts(3), PressSpec("snapkv", 0.5, kwargs={"window_size": 8})
    alone, ours = (method(tiny, prompts, spec, NEW, 2) for method in (methods.one_at_a_time, methods.ours))
    assert alone.tokens == ours.tokens
    assert throughput.agreement(ours, alone) == "3/3"


def test_published_signals_are_those_of_the_package():
    logits = torch.randn(7, 300, generator=torch.Generator().manual_seed(0)) * 4
    spread, alternatives, top, ids = methods.published_signals(logits)
    scalars, our_top, our_ids = token_signals(logits, logits.argmax(-1))
    names = list(SCALARS)
    torch.testing.assert_close(spread, scalars[:, names.index("entropy")], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alternatives, scalars[:, names.index("alt_entropy")], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(top, our_top, rtol=1e-4, atol=1e-4)
    assert (ids == our_ids).all()
    assert spread.numpy() == pytest.approx(entropy(logits.softmax(-1).numpy(), axis=1), abs=1e-4)


def test_bytes_and_operations_are_counted_from_the_shapes(tiny):
    (prompt,) = random_prompts(1)
    run, config = methods.ours(tiny, [prompt], PLAIN, 4, 1), tiny.model.config
    weights = sum(w.numel() for w in tiny.model.parameters())
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    steps = run.new_tokens - 1
    assert run.flops == 2 * weights * steps
    assert run.moved_bytes == 4 * weights * steps + per_token * sum(len(prompt) + i for i in range(steps))


def test_seconds_add_up(runs):
    for name, run in runs.items():
        assert run.prefill_s > 0 and run.decode_s > run.signals_s
        assert (run.signals_s > 0) == (name not in ("kvpress_pipeline", *throughput.WITHOUT_PRESS))


def test_remarks_name_the_first_difference():
    base = methods.Measured(2, tokens={0: [1, 2, 3], 1: [4, 5, 6]})
    ours = methods.Measured(2, decode_s=4.0, moved_bytes=100, flops=300, tokens={0: [1, 2, 3], 1: [4, 9, 9]})
    ours.margins = {0: [1.0, 1.0, 1.0], 1: [1.0, 0.125, 1.0]}
    limits, parted = throughput.remarks({"one_at_a_time": base, "ours": ours}, (50.0, 100.0))
    assert "2.0 s (50% of the bandwidth limit)" in limits and "3.0 s (75% of the compute limit)" in limits
    assert (
        "parts from (a) in 1 prompts, at new token 1 to 1 (median 1)" in parted and "0.125 to 0.125" in parted
    )
    assert throughput.agreement(ours, base) == "1/2"


def test_first_difference():
    assert throughput.first_difference([1, 2], [1, 2]) is None
    assert throughput.first_difference([1, 2], [1, 3]) == 1
    assert throughput.first_difference([1, 2], [1, 2, 3]) == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    (
        ("knorn:0.5", "press 'knorn' is unknown; did you mean 'knorm'?"),
        ("knorm:half", "press 'knorm:half' has no number after its colon"),
        ("knorm:1.5", "ratio 1.5 is outside"),
    ),
)
def test_bad_presses_get_one_sentence(text, sentence):
    with pytest.raises(InputError, match="^" + sentence.replace("?", r"\?")):
        throughput.parse_press(text)


def test_presses_are_read():
    assert throughput.parse_press("none") == PLAIN
    assert throughput.parse_press("snapkv:0.5") == PressSpec("snapkv", 0.5)


def test_the_gpu_benchmark_runs_on_the_cpu_at_toy_size(capsys):
    size = ["--shape", "toy", "--device", "cpu", "--prompt-tokens", "40", "--new-tokens", "24"]
    assert gpu.main([*size, "--batch-size", "1", "4"]) == 0
    out, _ = capsys.readouterr()
    assert out.count("4/4 prompts have the tokens of generate alone") == len(gpu.WAYS)
    assert out.count("| 4 |") == len(gpu.WAYS) and "| generate |" in out


def test_the_noise_floor_counts_what_moves():
    first = noise_floor.Runs([[1, 2, 3], [4, 5], [6]], np.array([1, 0, 1], bool), np.array([0, 0, 0], bool))
    second = noise_floor.Runs(
        [[1, 9, 3, 7], [4, 5], [6]], np.array([0, 1, 1], bool), np.array([1, 0, 0], bool)
    )
    assert noise_floor.moved(first, second) == {
        "runs that differ": "1 of 3",
        "tokens that differ": "2 of 7",
        "first at token, median": "1",
        "right": "2 and 2; +1 −1",
        "loops": "0 and 1; +1 −0",
    }
    assert noise_floor.moved(first, first)["runs that differ"] == "0 of 3"


@pytest.mark.slow
def test_float32_has_no_noise_floor(capsys, monkeypatch):
    command = "noise_floor.py --press streaming_llm:0.5 --n-prompts 6 --max-new-tokens 40 --batch-size 1 6"
    monkeypatch.setattr("sys.argv", command.split())
    noise_floor.main()
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "float32, batches" in line]
    assert row.split("|")[3].strip() == "0 of 6"  # runs that differ
