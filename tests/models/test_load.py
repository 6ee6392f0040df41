import pytest
import torch
from reference import tiny_llama

from kvhelpers.errors import InputError
from kvhelpers.models.device import resolve_device, resolve_dtype
from kvhelpers.models.load import load_model
from kvhelpers.models.source import model_source, sha256_of


def test_local_folder_in_half_precision(folder):
    lm = load_model(str(folder), dtype="bfloat16", attn="eager")
    assert (
        lm.model.dtype == torch.bfloat16 and lm.dtype == "bfloat16" and lm.source == model_source(str(folder))
    )
    assert lm.model.config._attn_implementation == "eager"


def test_replaced_weights_are_other_weights(folder):
    before = model_source(str(folder))
    assert model_source(str(folder)) == before
    tiny_llama(initializer_range=0.1).save_pretrained(folder)
    assert model_source(str(folder)) != before


def test_pickled_weights_are_not_loaded(folder):
    state = tiny_llama().state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(str(folder))


@pytest.mark.parametrize("file", ("model.safetensors", "tokenizer.json", "config.json"))
def test_damaged_files_are_named(folder, file):
    (folder / file).write_text("[]")
    with pytest.raises(InputError, match=f"model '{folder}' .* cannot be loaded: "):
        load_model(str(folder))


def test_model_without_chat_template_is_refused(folder):
    for path in folder.glob("chat_template*"):
        path.unlink()
    config = folder / "tokenizer_config.json"
    config.write_text(
        "\n".join(line for line in config.read_text().splitlines() if '"chat_template"' not in line)
    )
    with pytest.raises(InputError, match="has no chat template"):
        load_model(str(folder))


@pytest.mark.parametrize(
    "name",
    ("./missing", "/no/such/folder", "missing.gguf", "smollm", "a/b/c"),
    ids=("folder", "path", "gguf", "bare", "deep"),
)
def test_missing_models_are_named(name):
    with pytest.raises(InputError, match=f"model '{name}'"):
        model_source(name)


def test_a_hub_id_that_cannot_be_reached_is_named(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("We couldn't connect to the hub\nand more")

    monkeypatch.setattr("kvhelpers.models.load.AutoTokenizer.from_pretrained", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # weights are looked for only here
    with pytest.raises(
        InputError, match=r"model 'a/b' \(hub:a/b\) cannot be loaded: We couldn't connect to the hub$"
    ):
        load_model("a/b", device="cpu")


def test_downloaded_weights_are_checked_by_their_hash(folder, tmp_path, monkeypatch):
    """The hub's cache: a snapshot's files are links to blobs that are named by their SHA-256."""
    cache, weights = tmp_path / "cache", folder / "model.safetensors"
    snapshot, blobs = cache / "models--a--b" / "snapshots" / "f00", cache / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True), blobs.mkdir()
    for path in folder.glob("*.*"):
        blob = blobs / (sha256_of(path) if path == weights else path.name)
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blob)
    (cache / "models--a--b" / "refs").mkdir()
    (cache / "models--a--b" / "refs" / "main").write_text("f00")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(cache), raising=False)
    assert load_model("a/b", device="cpu").source == "hub:a/b"
    blob = (snapshot / "model.safetensors").resolve()
    whole = blob.read_bytes()
    for damaged in (whole[:-4] + b"\0\0\1\0", whole[:100]):
        blob.write_bytes(damaged)
        with pytest.raises(
            InputError, match="model 'a/b': the downloaded file .* is damaged; delete it and run again"
        ):
            load_model("a/b", device="cpu")


def test_devices_and_dtypes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(InputError, match="device 'cuda' is not available"):
        resolve_device("cuda")
    with pytest.raises(InputError, match="device 'gpu' is unknown"):
        resolve_device("gpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == "cuda"
    assert [resolve_dtype("auto", device) for device in ("cpu", "cuda", "mps")] == [
        "float32",
        "float16",
        "float16",
    ]
    with pytest.raises(InputError, match=r"dtype 'float' is unknown; did you mean 'float(16|32)'"):
        resolve_dtype("float", "cpu")
    with pytest.raises(InputError, match="attn 'flash' is unknown"):
        load_model("smollm2-135m", device="cpu", attn="flash")
