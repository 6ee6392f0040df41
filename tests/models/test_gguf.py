import copy

import pytest
from tokenizers import pre_tokenizers

from kvhelpers.errors import InputError
from kvhelpers.models.gguf import converted
from kvhelpers.models.load import load_model, stop_ids
from kvhelpers.models.source import EMBEDDED, find_wheel_file


def test_stop_ids_are_right_where_the_gguf_tokenizer_is_wrong(embedded):
    assert embedded.stop_ids == {embedded.tokenizer.convert_tokens_to_ids("<|im_end|>")} == {2}
    assert embedded.tokenizer.eos_token == "<|im_end|>" and embedded.tokenizer.pad_token is not None


def test_a_wrong_eos_token_does_not_mislead(embedded, monkeypatch):
    tokenizer = copy.deepcopy(embedded.tokenizer)
    tokenizer.eos_token = "<|im_start|>"
    monkeypatch.setattr(embedded.model.generation_config, "eos_token_id", None)
    assert stop_ids(embedded.model, tokenizer) == {2}
    monkeypatch.setattr(embedded.model.generation_config, "eos_token_id", [7, 9])
    assert stop_ids(embedded.model, tokenizer) == {2, 7, 9}


def test_tokenizer_splits_digits_and_round_trips(embedded):
    tokenizer = embedded.tokenizer
    assert tokenizer.tokenize("16") == ["1", "6"]
    for text in ("Eva has 16 coins.\n  x", "naïve “quotes” 東京 🙂", "####  -3.5"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert isinstance(tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.Sequence)
    assert len(tokenizer) == embedded.model.config.vocab_size


def test_tokenizer_agrees_with_the_one_transformers_builds(embedded):
    from transformers import AutoTokenizer

    gguf = find_wheel_file(EMBEDDED["smollm2-135m"])
    other = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    text = "Nora has 7 roses. Nora finds 12 more roses. How many?"
    assert embedded.tokenizer.encode(text, add_special_tokens=False) == other.encode(
        text, add_special_tokens=False
    )


def test_changed_weights_are_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not the weights")
    with pytest.raises(InputError, match="expected b179c9523d0e"):
        converted(path, EMBEDDED["smollm2-135m"].sha256)


def test_a_gguf_file_that_is_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KVHELPERS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a gguf file")
    with pytest.raises(InputError, match="cannot be read as GGUF"):
        load_model(str(path))
    assert not [p for p in (tmp_path / "cache").iterdir()]
