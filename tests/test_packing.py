"""Packed linear layers: the same products, from another layout."""

import pytest
import torch
from fakes import tiny_model
from torch import nn

from honed.models.engine.engine import Engine, EngineConfig
from honed.models.engine.packing import can_pack, has_bfloat16, pack, packed_bytes, unpack
from honed.models.engine.sequence import SamplingParams, Sequence

FORMATS = [(torch.float32, 1e-5), *([(torch.bfloat16, 1e-2)] if has_bfloat16() else [])]  # and what is rounded away


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 48), (1, 1, 48), (1, 7, 48)])
@pytest.mark.parametrize(("dtype", "error"), FORMATS)
def test_a_packed_layer_gives_the_same(dtype: torch.dtype, error: float, shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 96, bias=bias), nn.Linear(96, 5, bias=bias)).to(dtype)
    x = torch.randn(shape, dtype=dtype)
    with torch.inference_mode():
        plain = model(x)
        pack(model)
        packed = model(x)
    torch.testing.assert_close(packed, plain, atol=error, rtol=0)


def test_a_packed_copy_is_a_copy_and_can_be_taken_back() -> None:
    """It does not follow its weights, which is why a model in training must not be packed."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    x = torch.ones(1, 4)
    with torch.no_grad():
        before = model(x)
        pack(model)
        model[0].weight.zero_()
        assert torch.equal(model(x), before)
        unpack(model)
        unpack(model)
        assert torch.equal(model(x), torch.zeros(1, 4))


def test_packed_bytes_counts_linear_layers() -> None:
    assert packed_bytes(nn.Sequential(nn.Linear(4, 8), nn.Embedding(10, 4))) == 4 * 8 * 4


def test_what_a_cpu_computes_with_is_packed() -> None:
    assert can_pack(nn.Linear(2, 2)) == torch.backends.mkldnn.is_available()
    assert can_pack(nn.Linear(2, 2, dtype=torch.bfloat16)) == has_bfloat16()
    assert not can_pack(nn.Linear(2, 2, dtype=torch.float16))
    assert not can_pack(nn.Linear(2, 2, device="meta"))


def test_an_engine_over_packed_weights_answers_the_same() -> None:
    model = tiny_model()

    def answer(*, pack_weights: bool) -> list[int]:
        engine = Engine(
            model, EngineConfig(num_blocks=64, block_size=4, max_batch_tokens=64, pack_weights=pack_weights)
        )
        sequences = [Sequence((5, 6, 7, n), SamplingParams(max_tokens=20, temperature=0), seed=0) for n in range(4, 9)]
        return [sample.token_id for samples in engine.run(sequences) for sample in samples]

    assert answer(pack_weights=True) == answer(pack_weights=False)
