"""Weight files: exactly those of the model, and nothing is built for others."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from runtime.errors import InputError
from runtime.weights import load_model, load_strictly, read_weights, reading, write_weights


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


@pytest.fixture
def weights(tmp_path):
    write_weights(tmp_path / "a.safetensors", build().state_dict())
    return tmp_path / "a.safetensors"


def test_weights_come_back_into_a_model_that_is_built_by_then(weights):
    model, extra = load_model(build, weights)
    assert extra == {} and all(
        torch.equal(value, read_weights(weights)[name]) for name, value in model.state_dict().items()
    )
    assert not any(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_any_float_type_is_taken(tmp_path, dtype):
    model = build()
    write_weights(tmp_path / "a.safetensors", {name: value.to(dtype) for name, value in model.state_dict().items()})
    loaded, _ = load_model(build, tmp_path / "a.safetensors")
    assert torch.allclose(loaded[0].weight, model[0].weight, atol=1e-2) and loaded[0].weight.dtype == torch.float32


def test_optional_tensors_are_handed_back(tmp_path):
    write_weights(tmp_path / "a.safetensors", {**build().state_dict(), "mean": torch.ones(2)})
    assert load_model(build, tmp_path / "a.safetensors", optional=("mean", "std"))[1]["mean"].tolist() == [1.0, 1.0]
    with pytest.raises(InputError, match="mean is unknown"):
        load_model(build, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"0.weight": None}, "0.weight is missing"),
        ({"2.weight": torch.ones(1)}, "2.weight is unknown"),
        ({"0.weight": torch.ones(4, 4)}, r"0.weight is \[4, 4\], not \[4, 3\]"),
        ({"0.bias": torch.ones(4, dtype=torch.int64)}, "0.bias is I64; weights are floats"),
        ({"0.bias": torch.tensor([1.0, float("nan"), 1.0, 1.0])}, "0.bias holds values that are no finite floats"),
        ({"0.bias": torch.tensor([1.0, float("inf"), -float("inf"), 1.0])}, "0.bias holds values"),
    ],
)
def test_other_weights_are_refused_by_name(tmp_path, changes, words):
    tensors = {name: value for name, value in {**build().state_dict(), **changes}.items() if value is not None}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=words):
        load_model(build, tmp_path / "a.safetensors")


def test_nothing_is_built_in_memory_for_weights_that_do_not_fit(weights):
    def build_huge() -> nn.Module:
        model = nn.Linear(10**7, 10**7)  # 400 terabytes
        assert model.weight.is_meta
        return model

    with pytest.raises(InputError, match="the weights do not fit the network"):
        load_model(build_huge, weights)


@pytest.mark.parametrize("content", [b"", b"\0", bytes(100), (2**60).to_bytes(8, "little"), b"\x80\x04]", b"{}"])
def test_what_is_no_weight_file_is_refused(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    for read in (read_weights, lambda path: load_model(build, path)):
        with pytest.raises(InputError, match="not readable as safetensors"):
            read(tmp_path / "a.safetensors")
        with pytest.raises(InputError, match="no such weight file"):
            read(tmp_path)


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_a_gpu_that_fails_is_not_called_a_damaged_file(weights, fault):
    with pytest.raises(fault, match="of the device"), reading(weights):
        raise fault("of the device")


def test_load_strictly_takes_tensors_that_are_read_already():
    model, other = build(), build()
    load_strictly(model, other.state_dict(), "here")
    assert torch.equal(model[0].weight, other[0].weight)
    with pytest.raises(InputError, match="here: the weights do not fit the network: 1.bias is missing"):
        load_strictly(model, {name: value for name, value in other.state_dict().items() if name != "1.bias"}, "here")
