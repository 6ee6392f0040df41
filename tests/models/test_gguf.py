import copy
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from tiny_gguf import write_tiny_gguf
from tokenizers import pre_tokenizers

from kvhelpers.errors import InputError
from kvhelpers.models import gguf as module
from kvhelpers.models.gguf import converted
from kvhelpers.models.load import load_model, stop_ids
from kvhelpers.models.source import EMBEDDED, find_wheel_file, sha256_of


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


@pytest.fixture
def tiny_gguf(tmp_path, cache):
    return write_tiny_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
def unconvertible(monkeypatch):
    """The long part of a conversion must not begin."""
    monkeypatch.setattr(module, "_convert", lambda gguf, folder: pytest.fail("it was converted"))


def entries(cache):
    """What lies in the cache folder beside remembered hashes."""
    return (
        sorted(path.name for path in cache.iterdir() if path.name != "sha256.json") if cache.exists() else []
    )


def weights(path):
    """Copies of a model's weights, since loaded ones may follow what becomes of their file."""
    return {
        name: weight.clone()
        for name, weight in load_model(str(path), device="cpu").model.state_dict().items()
    }


def same(some, others):
    return all(torch.equal(value, others[name]) for name, value in some.items())


def test_a_conversion_is_made_once(tiny_gguf, cache, monkeypatch):
    before = weights(tiny_gguf)
    monkeypatch.setattr(module, "_convert", lambda gguf, folder: pytest.fail("it was converted"))
    assert same(before, weights(tiny_gguf)) and len(entries(cache)) == 1


@pytest.mark.parametrize(
    "damage", ["zeros", "other weights", "lost file", "other template", "more files", "no hashes", "rules"]
)
def test_a_damaged_conversion_is_not_loaded_as_the_wheel_s_weights(tiny_gguf, cache, damage):
    before = weights(tiny_gguf)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    file = folder / "model.safetensors"
    stat, content = file.stat(), file.read_bytes()
    if damage == "zeros":
        file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif damage == "other weights":
        other = write_tiny_gguf(tiny_gguf.with_name("other.gguf"), seed=1)
        file.write_bytes((converted(other, sha256_of(other)) / file.name).read_bytes())
    elif damage == "lost file":
        (folder / "generation_config.json").unlink()
    elif damage == "other template":
        (folder / "chat_template.jinja").write_text("{{ messages[0].content | e }}")
    elif damage == "more files":
        (folder / "adapter_config.json").write_text("{}")
    elif damage == "rules":  # converted when fewer files were refused
        noted = json.loads((folder / "sha256.json").read_text())
        (folder / "sha256.json").write_text(json.dumps(noted | {"rules": 1}))
    else:
        (folder / "sha256.json").unlink()
    assert same(before, weights(tiny_gguf))
    assert file.read_bytes() == content and not list(cache.glob(".*"))


def test_an_empty_folder_in_its_place_is_not_taken_for_a_conversion(tiny_gguf, cache):
    (cache / f"tiny-{sha256_of(tiny_gguf)[:12]}").mkdir(parents=True)
    assert weights(tiny_gguf) and len(entries(cache)) == 1


def test_a_file_in_its_place_is_not_found_after_the_conversion(tiny_gguf, cache, unconvertible):
    cache.mkdir()
    place = cache / f"tiny-{sha256_of(tiny_gguf)[:12]}"
    place.touch()
    with pytest.raises(
        InputError, match=f"^{place} is a file, where the conversion of .* would lie; delete it$"
    ):
        load_model(str(tiny_gguf), device="cpu")


def test_a_cache_folder_that_cannot_be_written_to_is_not_found_after_the_conversion(
    tiny_gguf, tmp_path, unconvertible, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KVHELPERS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(
        InputError, match="cannot take the conversion of tiny.gguf .*; let KVHELPERS_CACHE name"
    ):
        load_model(str(tiny_gguf), device="cpu")


def test_a_full_disk_is_no_traceback(tiny_gguf, cache, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "flush", full)
    with pytest.raises(
        InputError, match=r"cannot take the conversion of tiny.gguf \(.*No space left on device"
    ):
        load_model(str(tiny_gguf), device="cpu")
    assert entries(cache) == []


KILLED = """
import os, pathlib, signal, sys
from kvhelpers.models import gguf, source
gguf.flush = lambda path: os.kill(os.getpid(), signal.SIGKILL)
path = pathlib.Path(sys.argv[1])
gguf.converted(path, source.sha256_of(path))
"""


def test_a_conversion_killed_half_way_is_not_taken_for_a_whole_one(tiny_gguf, cache):
    command = [sys.executable, "-c", KILLED, str(tiny_gguf)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert [name[0] for name in entries(cache)] == ["."]
    folder = converted(tiny_gguf, sha256_of(tiny_gguf))
    assert entries(cache) == [folder.name] and (folder / "model.safetensors").is_file()


def test_a_file_that_changes_while_it_is_converted_is_not_kept(tiny_gguf, cache, monkeypatch):
    convert, before = module._convert, sha256_of(tiny_gguf)

    def changing(gguf, folder):
        convert(gguf, folder)
        write_tiny_gguf(gguf, seed=1)

    monkeypatch.setattr(module, "_convert", changing)
    with pytest.raises(InputError, match=f"expected {before}"):
        load_model(str(tiny_gguf), device="cpu")
    assert entries(cache) == []


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"left_out": "blk.1.ffn_up.weight"}, "describe a model of .* weights, but it holds"),
        ({"block_count": 3}, "block_count is 3, but its tensors are of 2 blocks"),
        ({"block_count": 1}, "block_count is 1, but its tensors are of 2 blocks"),
        ({"block_count": 2**31 - 1}, "block_count is 2147483647, but"),
        ({"embedding_length": 2**20}, "describe a model of .* weights, but it holds"),
        ({"embedding_length": 32}, "it lacks|another shape|size"),
    ],
)
def test_metadata_that_do_not_fit_the_tensors_are_not_filled_up_at_random(tmp_path, cache, changes, match):
    path = write_tiny_gguf(tmp_path / "tiny.gguf", **changes)
    with pytest.raises(InputError, match=f"tiny.gguf cannot be read as GGUF: .*({match})"):
        load_model(str(path), device="cpu")
    assert entries(cache) == []


def test_a_gguf_file_that_is_none_is_named(tmp_path, cache):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a gguf file")
    with pytest.raises(InputError, match="cannot be read as GGUF"):
        load_model(str(path))
    assert entries(cache) == []


def test_a_name_that_is_long_or_strange_is_no_fault(tiny_gguf, cache):
    assert weights(tiny_gguf.rename(tiny_gguf.with_name("ü" * 100 + "#" * 40 + ".gguf")))
