"""The engine on a GPU, in float32: the same tokens as transformers' own `generate` there."""

import pytest
import torch
from fakes import ARCHITECTURES, Architecture, tiny_model
from test_engine import generate, greedy, ids, prompts, small_engine

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_generate_on_a_gpu(architecture: Architecture) -> None:
    assert torch.cuda.is_available(), "make test-gpu needs a CUDA device"
    model = tiny_model(architecture).to("cuda")
    asked = prompts(8)
    expected = [generate(model, prompt) for prompt in asked]
    together = small_engine(model).run([greedy(prompt) for prompt in asked])
    assert [ids(samples) for samples in together] == expected
