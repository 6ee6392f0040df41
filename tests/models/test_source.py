import os
import time

import pytest

from kvhelpers.errors import InputError
from kvhelpers.models import source
from kvhelpers.models.source import EmbeddedModel, find_wheel_file, model_source, sha256_of


@pytest.fixture
def gguf(tmp_path, monkeypatch):
    """A file, a cache folder of the test's own, and nothing remembered."""
    monkeypatch.setenv("KVHELPERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(source, "_hashes", {})
    monkeypatch.setattr(source, "SETTLED_NS", -1)
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights, the first")
    return path


@pytest.fixture
def read(monkeypatch):
    """The files that were read to be hashed."""
    paths = []
    monkeypatch.setattr(source, "sha256_of", lambda path: paths.append(path) or sha256_of(path))
    return paths


def forget(monkeypatch):
    """As in a new process."""
    monkeypatch.setattr(source, "_hashes", {})


def test_a_file_is_hashed_once(gguf, read, monkeypatch):
    expected = f"gguf:{sha256_of(gguf)}"
    assert [model_source(str(gguf)) for _ in range(3)] == [expected] * 3 and len(read) == 1
    forget(monkeypatch)
    assert model_source(str(gguf)) == expected and len(read) == 1
    (source.cache_dir() / "sha256.json").unlink()
    assert model_source(str(gguf)) == expected and len(read) == 1


@pytest.mark.parametrize("process", ("the same process", "a new process"))
def test_a_file_changed_with_size_and_mtime_kept_is_hashed_again(gguf, read, monkeypatch, process):
    before, stat = model_source(str(gguf)), gguf.stat()
    time.sleep(0.02)  # above the resolution of a file's times
    gguf.write_bytes(b"weights, the other")
    os.utime(gguf, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = gguf.stat()
    assert (changed.st_ino, changed.st_size, changed.st_mtime_ns) == (
        stat.st_ino,
        stat.st_size,
        stat.st_mtime_ns,
    )
    if process == "a new process":
        forget(monkeypatch)
    assert model_source(str(gguf)) == f"gguf:{sha256_of(gguf)}" != before and len(read) == 2


def test_another_file_under_the_same_name_is_hashed_again(gguf, read):
    before, other = model_source(str(gguf)), gguf.with_name("other")
    other.write_bytes(b"weights, the third")
    os.replace(other, gguf)
    assert model_source(str(gguf)) == f"gguf:{sha256_of(gguf)}" != before and len(read) == 2


def test_a_file_that_has_just_changed_is_not_remembered(gguf, read, monkeypatch):
    monkeypatch.setattr(source, "SETTLED_NS", 3600 * 10**9)
    assert len({model_source(str(gguf)) for _ in range(2)}) == 1 and len(read) == 2
    assert not source.cache_dir().exists()


@pytest.mark.parametrize("content", ("[]", "{", '{"x": 3}', '{"PATH": [3]}', '{"PATH": [[1, 2, 3, 4], "0"]}'))
def test_a_damaged_or_foreign_memory_is_passed_over(gguf, read, content):
    source.cache_dir().mkdir()
    (source.cache_dir() / "sha256.json").write_text(content.replace("PATH", str(gguf)))
    assert model_source(str(gguf)) == f"gguf:{sha256_of(gguf)}" and len(read) == 1


def test_a_cache_folder_that_cannot_be_made_costs_time_only(gguf, monkeypatch):
    gguf.with_name("file").touch()
    monkeypatch.setenv("KVHELPERS_CACHE", str(gguf.with_name("file") / "cache"))
    assert model_source(str(gguf)) == f"gguf:{sha256_of(gguf)}"


def test_without_the_wheel_the_short_name_means_the_hub(monkeypatch):
    monkeypatch.setattr("kvhelpers.models.source.find_wheel_file", lambda embedded: None)
    assert model_source("smollm2-135m") == "hub:HuggingFaceTB/SmolLM2-135M-Instruct"


def test_find_wheel_file_without_the_distribution():
    absent = EmbeddedModel("no-such-distribution", "x.gguf", "", "")
    assert find_wheel_file(absent) is None


@pytest.fixture
def folder(tmp_path, gguf):
    """A folder with the files of a model, whose contents mean nothing here."""
    folder = tmp_path / "model"
    (folder / "additional_chat_templates").mkdir(parents=True)
    for name in LOADED:
        (folder / name).write_text(f"the first {name}")
    return folder


LOADED = (
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "chat_template.jinja",
    "additional_chat_templates/tools.jinja",
)


@pytest.mark.parametrize("name", LOADED)
def test_a_file_changed_with_size_and_time_kept_is_not_the_same_model(folder, name):
    before, file = model_source(str(folder)), folder / name
    assert model_source(str(folder)) == before
    stat = file.stat()
    time.sleep(0.02)  # above the resolution of a file's times
    file.write_text(f"the other {name}")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert model_source(str(folder)) != before


def test_a_renamed_weight_file_is_not_the_same_model(folder):
    before = model_source(str(folder))
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert model_source(str(folder)) != before


def test_files_that_are_never_loaded_are_not_the_model(folder, read):
    before = model_source(str(folder))
    for name in ("README.md", "pytorch_model.bin", ".gitattributes"):
        (folder / name).write_text("anything")
    time.sleep(0.02)
    os.utime(folder / "config.json")
    assert model_source(str(folder)) == before
    assert {path.name for path in read} == {name.rpartition("/")[2] for name in LOADED}


def test_a_folder_s_files_are_read_once(folder, read, monkeypatch):
    model_source(str(folder))
    forget(monkeypatch)
    model_source(str(folder))
    assert len(read) == len(LOADED)


@pytest.mark.parametrize(
    "name",
    ["", " ", "x" * 300, "a/" + "x" * 300, "x" * 5000, "a/" + "x" * 5000, "/" + "x" * 300,
     "x" * 300 + ".gguf", "\ud800", "a/\ud800", "\ud800.gguf", "a/b c", "a/-b", "a/b--c"],
)  # fmt: skip
def test_a_name_that_can_be_no_model_is_no_traceback(name):
    with pytest.raises(InputError, match="^model '") as caught:
        model_source(name)
    assert len(str(caught.value)) < 300 and str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-3B-Instruct", "a/b", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_hub_ids(name):
    assert model_source(name) == f"hub:{name}"


def test_a_known_model_of_the_hub_is_its_file_by_hash(gguf):
    known = source.HUB_FILES["qwen2.5-coder-1.5b"]
    assert model_source("qwen2.5-coder-1.5b") == f"gguf:{known.sha256}"


def test_a_known_model_s_file_is_taken_from_the_cache_folder_or_downloaded(gguf, monkeypatch):
    known, asked = source.HUB_FILES["qwen2.5-coder-1.5b"], []

    def download(*args, local_files_only):
        asked.append((*args, local_files_only))
        return str(gguf)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert source.find_hub_file(known) == gguf == source.find_hub_file(known, here=True)
    assert asked == [(known.hub_id, known.file, False), (known.hub_id, known.file, True)]
    (source.cache_dir() / "gguf").mkdir(parents=True)
    (source.cache_dir() / "gguf" / known.file).touch()
    assert source.find_hub_file(known) == source.cache_dir() / "gguf" / known.file and len(asked) == 2


def test_a_known_model_that_cannot_be_downloaded_says_where_to_put_it(gguf, monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("no hub")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(InputError, match=r"cannot be downloaded \(no hub\); download it yourself to .*gguf"):
        source.find_hub_file(source.HUB_FILES["qwen2.5-coder-1.5b"])
