import json

import pytest
import torch
from reference import tiny_llama
from safetensors.torch import load_file, save_file

from kvhelpers.errors import InputError
from kvhelpers.models.load import load_model

INDEX = "model.safetensors.index.json"


def change_weights(folder, change):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def change_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def without(name):
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def renamed(weights):
    return {key.replace("layers.1.", "layers.one."): value for key, value in weights.items()}


def refused(folder, capfd):
    """The sentence that says why a folder is not loaded; there is nothing else to read."""
    with pytest.raises(InputError, match=f"^model '{folder}' .* cannot be loaded: ") as caught:
        load_model(str(folder), device="cpu")
    assert "REPORT" not in "".join(capfd.readouterr())
    return str(caught.value).rpartition("cannot be loaded: ")[2]


def test_a_missing_weight_is_not_drawn_at_random(folder, capfd):
    change_weights(folder, without("model.layers.1.mlp.up_proj.weight"))
    assert refused(folder, capfd).endswith("they lack model.layers.1.mlp.up_proj.weight")


def test_renamed_layers_are_not_drawn_at_random(folder, capfd):
    change_weights(folder, renamed)
    sentence = refused(folder, capfd)
    assert "they lack model.layers.1.input_layernorm.weight, " in sentence
    assert "they have, beside those it asks for, model.layers.one.input_layernorm.weight, " in sentence


def test_a_layer_that_the_weights_lack_is_not_drawn_at_random(folder, capfd):
    change_config(folder, num_hidden_layers=4)
    assert "they lack model.layers.3.input_layernorm.weight, " in refused(folder, capfd)


def test_layers_that_the_configuration_lacks_are_not_left_out(folder, capfd):
    change_config(folder, num_hidden_layers=1)
    sentence = refused(folder, capfd)
    assert "beside those it asks for, model.layers.1.input_layernorm.weight" in sentence
    assert sentence.endswith(" and 15 more")


def test_a_weight_of_another_shape_is_not_drawn_at_random(folder, capfd):
    change_config(folder, intermediate_size=80)
    assert "they have in another shape model.layers.0.mlp.down_proj.weight, " in refused(folder, capfd)


def test_weights_that_may_be_absent_or_left_over_are_not_refused(folder):
    tied = tiny_llama(tie_word_embeddings=True)
    tied.save_pretrained(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    change_weights(folder, lambda weights: weights | old)
    loaded = load_model(str(folder), device="cpu").model
    assert torch.equal(loaded.lm_head.weight, tied.model.embed_tokens.weight)


@pytest.mark.parametrize(
    "target",
    ["pytorch_model.bin", "../other/model.safetensors", "/x/model.safetensors", "inner/w.safetensors", 7],
)
def test_an_index_does_not_lead_to_other_files(folder, target, capfd):
    other = folder.parent / "other"
    other.mkdir()
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").rename(other / "model.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, target)}))
    sentence = refused(folder, capfd)
    assert sentence.startswith(f"{INDEX} names {target!r}; only .safetensors files in the model's own folder")


@pytest.mark.parametrize("target", ["../other/model.safetensors", "adapter_model.bin"])
def test_a_configuration_does_not_lead_to_other_files(folder, target, capfd):
    change_config(folder, transformers_weights=target)
    assert refused(folder, capfd).startswith(f"config.json names {target!r}; only .safetensors files")


def test_an_index_under_another_name_does_not_lead_to_other_files(folder, capfd):
    change_config(folder, transformers_weights="x.safetensors.index.json")
    (folder / "x.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": "x.bin"}}))
    assert refused(folder, capfd).startswith("x.safetensors.index.json names 'x.bin'")


def test_an_adapter_does_not_lead_to_other_weights(folder, capfd):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../other"}))
    assert refused(folder, capfd).startswith("it is an adapter")


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": 3}', ""])
def test_a_damaged_index_is_no_traceback(folder, content, capfd):
    (folder / INDEX).write_text(content)
    refused(folder, capfd)


def test_weights_in_several_files_are_loaded(folder):
    model = tiny_llama()
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    loaded = load_model(str(folder), device="cpu").model.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in model.state_dict().items())
