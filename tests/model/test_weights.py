"""Weights: there and back without a changed bit, and one error that names everything that does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from foldline.cli import main
from foldline.errors import FoldlineError
from foldline.model.alphafold import AlphaFold
from foldline.model.config import tiny
from foldline.model.convert.command import read_npz, write_npz
from foldline.model.convert.deepmind import deepmind_shapes, load_deepmind, to_deepmind
from foldline.model.convert.layout import rearrange
from foldline.model.weights import count_parameters, load_weights, read_weights, save_weights

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model() -> AlphaFold:
    return AlphaFold(tiny())


def random_arrays(fused: bool = False) -> Arrays:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in sorted(deepmind_shapes(tiny(), fused).items())}


@pytest.mark.parametrize("fused", [False, True])
def test_deepmind_there_and_back_is_bit_equal(fused: bool, model: AlphaFold) -> None:
    arrays = random_arrays(fused)
    state = load_deepmind(arrays, tiny())
    model.load_state_dict(state, strict=True)
    back = to_deepmind(model.state_dict(), tiny(), fused)
    assert list(back) == list(arrays)
    assert all(back[name].dtype == array.dtype and np.array_equal(back[name], array) for name, array in arrays.items())


def test_both_triangle_layouts_hold_the_same_network() -> None:
    plain = random_arrays()
    state = load_deepmind(plain, tiny())
    fused = to_deepmind(state, tiny(), fused=True)
    again = load_deepmind(fused, tiny())
    assert all(torch.equal(state[name], again[name]) for name in state)
    scope = "alphafold/alphafold_iteration/evoformer/evoformer_iteration/triangle_multiplication_incoming"
    left = plain[f"{scope}/left_projection//weights"]
    assert np.array_equal(fused[f"{scope}/projection//weights"][..., : left.shape[-1]], left)


def test_a_state_dict_without_buffers_counts_as_the_parameters(model: AlphaFold) -> None:
    assert count_parameters(model) == sum(tensor.numel() for tensor in model.state_dict().values())
    assert count_parameters(model) == sum(array.size for array in random_arrays().values())


def test_one_error_lists_all_that_does_not_fit() -> None:
    arrays = random_arrays()
    first, second, *_ = arrays
    arrays["somewhere//else"] = arrays.pop(first)
    arrays[second] = arrays[second][..., None]
    with pytest.raises(FoldlineError) as error:
        load_deepmind(arrays, tiny())
    message = str(error.value)
    assert "1 unknown: somewhere//else" in message
    assert f"1 missing: {first}" in message
    assert f"1 misshapen: {second}" in message


def test_integers_are_no_weights() -> None:
    arrays = random_arrays()
    name = next(iter(arrays))
    arrays[name] = arrays[name].astype(np.int64)
    with pytest.raises(FoldlineError, match="not floating point"):
        load_deepmind(arrays, tiny())


def test_safetensors_round_trip_with_metadata(model: AlphaFold, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, model.state_dict(), {"preset": "tiny"})
    other = AlphaFold(tiny())
    assert load_weights(path, other)["preset"] == "tiny"
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert list(tmp_path.iterdir()) == [path]


def test_safetensors_of_another_network_change_nothing(model: AlphaFold, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    state = {name: torch.full_like(tensor, 7.0) for name, tensor in model.state_dict().items()}
    wrong = dict(state)
    wrong["extra.weight"] = wrong.pop("heads.pae.logits.weight")
    wrong["heads.pae.logits.bias"] = torch.zeros(3)
    save_weights(path, wrong)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(FoldlineError) as error:
        load_weights(path, model)
    assert all(
        part in str(error.value) for part in ("unknown: extra.weight", "missing: heads.pae.logits.weight", "heads.pae.logits.bias is 3")
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"not a safetensors file at all"])
def test_damaged_files_are_told_as_such(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(content)
    for read in (read_weights, read_npz):
        with pytest.raises(FoldlineError, match="weights"):
            read(path)
    with pytest.raises(FoldlineError, match="no weights at"):
        read_weights(tmp_path / "absent")


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.npz"
    np.savez(path, a=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(FoldlineError, match="not a readable npz"):
        read_npz(path)


@pytest.mark.parametrize("fused", [False, True])
def test_command_line_there_and_back(fused: bool, tmp_path: Path) -> None:
    npz, weights, back = tmp_path / "params.npz", tmp_path / "weights.safetensors", tmp_path / "back.npz"
    write_npz(npz, random_arrays(fused))
    assert main(["weights", "import", str(npz), "--preset", "tiny", "--out", str(weights)]) == 0
    assert main(["weights", "export", str(weights), "--preset", "tiny", "--format", "deepmind", "--out", str(back)]) == 0
    assert back.read_bytes() == npz.read_bytes()


def test_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    npz, out = tmp_path / "params.npz", tmp_path / "weights.safetensors"
    write_npz(npz, random_arrays())
    for arguments, words in (
        (["--preset", "model_1_pmt"], "did you mean 'model_1_ptm'"),
        (["--preset", "small"], "misshapen"),
    ):
        assert main(["weights", "import", str(npz), *arguments, "--out", str(out)]) == 2
        assert words in capsys.readouterr().err
        assert not out.exists()
    out.touch()
    assert main(["weights", "import", str(npz), "--preset", "tiny", "--out", str(out)]) == 2
    assert "exists" in capsys.readouterr().err


def test_rearrange_splits_and_merges_axes() -> None:
    array = torch.arange(24.0).reshape(2, 3, 4)
    merged = rearrange(array, "c h d", "(h d) c", {})
    assert torch.equal(merged, array.permute(1, 2, 0).reshape(12, 2))
    assert torch.equal(rearrange(merged, "(h d) c", "c h d", {"h": 3}), array)
