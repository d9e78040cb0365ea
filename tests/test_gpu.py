"""A GPU computes, in float32, what a CPU does: the engine's tokens are those of transformers' own `generate` there, and
a training step leads to the same weights."""

import pytest
import torch
from fakes import ARCHITECTURES, Architecture, tiny_model
from test_engine import generate, greedy, ids, prompts, small_engine
from torch import Tensor

from honed.training.attention import ATTENTION
from honed.training.distributed import Ranks
from honed.training.forward import check_packing, policy_logits
from honed.training.learner import Learner, OptimizerConfig
from honed.training.objectives import token_logprobs
from honed.training.trees import Tree, pack

pytestmark = pytest.mark.gpu

TREES = [
    Tree(tuple(range(10, 22)), (tuple(range(30, 41)), (50, 2), tuple(range(60, 75)))),
    Tree((100,), ((101, 102, 103),)),
    Tree(tuple(range(110, 119)), ((120,), (121, 122))),
]


@pytest.fixture(autouse=True)
def _a_gpu() -> None:
    assert torch.cuda.is_available(), "make test-gpu needs a CUDA device"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_generate_on_a_gpu(architecture: Architecture) -> None:
    model = tiny_model(architecture).to("cuda")
    asked = prompts(8)
    expected = [generate(model, prompt) for prompt in asked]
    together = small_engine(model).run([greedy(prompt) for prompt in asked])
    assert [ids(samples) for samples in together] == expected


def stepped(architecture: Architecture, device: str) -> dict[str, Tensor]:
    """The weights after one step on packed trees."""
    model = tiny_model(architecture).to(device)
    model.set_attn_implementation(ATTENTION)
    check_packing(model)
    # A large epsilon: Adam would turn the rounding of a gradient near zero into a whole step.
    learner = Learner(
        model, Ranks(torch.device(device)), OptimizerConfig(learning_rate=1e-2, eps=1.0), torch.float32
    )  # fmt: skip
    packed = pack(TREES, device)
    learner.backward(-token_logprobs(policy_logits(model, packed), packed.target_ids).mean())
    learner.step(1.0)
    return {name: each.detach().cpu() for name, each in model.named_parameters()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_training_step_leads_where_it_leads_on_a_cpu(architecture: Architecture) -> None:
    torch.testing.assert_close(stepped(architecture, "cuda"), stepped(architecture, "cpu"), atol=1e-5, rtol=1e-4)
