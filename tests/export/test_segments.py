"""The calls that compilers are given are the pass, bit for bit, and one function serves every block of a stack."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from foldline.data_store.types import ChainRecord
from foldline.export.graph import FoldPass, output_schema
from foldline.export.runners import features_of, recycled_tensors, to_tensors
from foldline.export.runners_aoti import signatures, size_limits
from foldline.export.segments import Segment, calls_of
from foldline.export.stages import POLICIES
from foldline.model.alphafold import AlphaFold
from foldline.model.config import model_1_ptm
from foldline.model.precision import apply_precision
from foldline.tests.export.cases import CONFIGS, model_of
from foldline.tests.export.conformance import cycles_of
from foldline.tests.export.conftest import FEATURES

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "precision"), [("small", "fp32"), ("small", "bf16"), ("bare", "fp32")])
def test_the_calls_are_the_pass_and_hold_no_weights(name: str, precision: str, records: dict[str, ChainRecord]) -> None:
    config = CONFIGS[name]()
    model = model_of(replace(config, evoformer=replace(config.evoformer, blocks=2)))
    apply_precision(model, POLICIES[precision])
    (batch,) = cycles_of(records["1ajj_A"], 8, 16, 2, 1)
    known = to_tensors(features_of(batch, model.config), model.config, CPU) | recycled_tensors(model.config, 37, None, CPU)
    parameters, whole = dict(model.named_parameters()), FoldPass(model)
    with torch.inference_mode():
        expected = whole(*(known[field] for field in whole.inputs))
        for call in calls_of(model):
            segment = Segment(call, model)
            assert not segment.state_dict()
            given = [known[field] for field in call.stage.inputs]
            known |= zip(call.stage.outputs, segment(*given, *(parameters[p] for p in call.parameters)), strict=True)
    for field, value in zip(output_schema(model.config), expected, strict=True):
        assert torch.equal(known[field], value), field


def test_a_full_size_network_is_few_functions() -> None:
    with torch.device("meta"):
        model = AlphaFold(model_1_ptm()).eval()
    calls = calls_of(model)
    counted = Counter(call.code for call in calls)
    assert counted["evoformer.blocks"] == 48
    assert len(counted) == 7
    sizes = {
        code: {tuple(model.get_parameter(p).shape for p in call.parameters) for call in calls if call.code == code} for code in counted
    }
    assert all(len(shapes) == 1 for shapes in sizes.values()), "calls of one function take parameters of other sizes"
    heads = ("heads.masked_msa.", "heads.experimentally_resolved.")
    read = [p for call in calls for p in call.parameters]
    assert sorted(read) == sorted(name for name, _ in model.named_parameters() if not name.startswith(heads)), "lost, or given twice"


def test_the_functions_are_known_by_their_arguments() -> None:
    small = CONFIGS["small"]()
    deeper = replace(small, evoformer=replace(small.evoformer, blocks=2))
    assert signatures(small) == signatures(CONFIGS["small"]())
    assert len({signatures(config) for config in (small, deeper, CONFIGS["bare"]())}) == 3


def test_limits_are_those_of_the_networks_own_dimensions() -> None:
    assert size_limits(CONFIGS["small"](), FEATURES) == {"N_res": (2, 4096), "N_clust": (2, 8), "N_extra": (2, 16), "N_templ": (2, 2)}
    assert "N_templ" not in size_limits(CONFIGS["bare"](), FEATURES)
