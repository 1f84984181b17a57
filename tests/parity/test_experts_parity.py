"""A block of experts against transformers' four, the same weights, fp32."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.lm.experts import Experts, Routing, switch_loss
from openbook.lm.spec import ExpertsSpec, FeedForwardSpec

transformers = pytest.importorskip("transformers")

ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "relu": "relu", "gelu_pytorch_tanh": "gelu_tanh"}
BLOCKS = {"mixtral": "Mixtral", "qwen3_moe": "Qwen3Moe", "olmoe": "Olmoe", "qwen2_moe": "Qwen2Moe"}


def oracle(family, count, active, inner, activation, renormalise):
    """A block of that family with random weights."""
    sizes = {"hidden_size": 12, "num_experts_per_tok": active, "hidden_act": activation}
    if family == "mixtral":
        sizes |= {"num_local_experts": count, "intermediate_size": inner}
    else:
        sizes |= {"num_experts": count, "norm_topk_prob": renormalise, "intermediate_size": inner}
        sizes |= {"moe_intermediate_size": inner, "shared_expert_intermediate_size": inner + 3}
    module = getattr(transformers.models, family)
    config = getattr(module, f"configuration_{family}")
    block = getattr(getattr(module, f"modeling_{family}"), f"{BLOCKS[family]}SparseMoeBlock")
    built = block(getattr(config, f"{BLOCKS[family]}Config")(**sizes)).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(0, 0.4)
    return built


def ours(family, theirs, spec):
    """Our block with the oracle's weights."""
    gate, up = theirs.experts.gate_up_proj.chunk(2, dim=1)
    state = {"router.weight": theirs.gate.weight, "gate": gate, "up": up, "down": theirs.experts.down_proj}
    if family == "qwen2_moe":
        state |= {
            f"shared.{n}.weight": getattr(theirs.shared_expert, f"{n}_proj").weight for n in ("gate", "up", "down")
        }
        state["shared_gate.weight"] = theirs.shared_expert_gate.weight
    with torch.device("meta"):
        block = Experts(spec, 12)
    block.load_state_dict(state, assign=True)
    return block.eval()


@pytest.mark.parametrize("family", BLOCKS)
@given(
    count=st.sampled_from([2, 5, 8]),
    active=st.integers(2, 4),
    inner=st.sampled_from([1, 7]),
    activation=st.sampled_from(list(ACTIVATIONS)),
    renormalise=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=12, deadline=None)
def test_a_block_of_experts_is_the_oracles(family, count, active, inner, activation, renormalise, seed):
    active, renormalise = min(active, count), renormalise or family == "mixtral"
    torch.manual_seed(seed)
    theirs = oracle(family, count, active, inner, activation, renormalise)
    expert = FeedForwardSpec(inner, ACTIVATIONS[activation])
    shared = FeedForwardSpec(inner + 3, ACTIVATIONS[activation]) if family == "qwen2_moe" else None
    spec = ExpertsSpec(count, active, expert, renormalise=renormalise, shared=shared, shared_gate=family == "qwen2_moe")
    x = torch.randn(2, 9, 12)
    with torch.inference_mode():
        torch.testing.assert_close(ours(family, theirs, spec)(x), theirs(x), atol=1e-5, rtol=1e-5)


@given(st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_the_switch_loss_is_the_oracles(active, seed):
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    logits = torch.randn(40, 5, generator=torch.Generator().manual_seed(seed))
    top = logits.softmax(-1).topk(active)
    want = load_balancing_loss_func((logits,), 5, active)
    torch.testing.assert_close(switch_loss(Routing(top.indices, top.values, logits)), want)
