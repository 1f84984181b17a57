"""A mixture of experts: what must hold for every spec, and each mistake that public code makes."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openbook.errors import Fault
from openbook.lm.decoder import Decoder
from openbook.lm.experts import (
    Experts,
    Routing,
    importance_loss,
    kth_excluding,
    load_loss,
    routings,
    selection_probability,
    switch_loss,
    upcycle,
)
from openbook.lm.feedforward import ACTIVATIONS, FeedForward
from openbook.lm.spec import AttentionSpec, ExpertsSpec, FeedForwardSpec, LayerSpec, ModelSpec, SpecError

WIDTH = 6


@st.composite
def specs(draw, **fixed):
    count = draw(st.integers(1, 6))
    shared = draw(st.sampled_from([None, FeedForwardSpec(5), FeedForwardSpec(3, "gelu", gated=False)]))
    spec = {
        "count": count,
        "active": draw(st.integers(1, count)),
        "expert": FeedForwardSpec(draw(st.sampled_from([1, 4])), draw(st.sampled_from(list(ACTIVATIONS))),
                                  draw(st.booleans())),
        "routing": draw(st.sampled_from(["softmax", "noisy"])),
        "renormalise": draw(st.booleans()),
        "balance_bias": draw(st.booleans()),
        "shared": shared,
        "shared_gate": shared is not None and draw(st.booleans()),
        **fixed,
    }  # fmt: skip
    if spec["routing"] == "noisy":
        spec |= {"renormalise": True, "balance_bias": False}
    assume(spec["active"] > 1 or count == 1 or not spec["renormalise"])
    return ExpertsSpec(**spec)


def build(spec, seed=0, width=WIDTH):
    """Experts with no weight at zero, so that every part counts."""
    torch.manual_seed(seed)
    layer = Experts(spec, width)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def noisy(count=4, active=2):
    return ExpertsSpec(count, active, FeedForwardSpec(4), routing="noisy")


def one_by_one(layer, x, routing):
    """The definition, a token and an expert at a time."""
    out = torch.zeros_like(x)
    for t, (experts, weights) in enumerate(zip(routing.experts_TK, routing.weights_TK, strict=True)):
        for e, w in zip(experts.tolist(), weights, strict=True):
            up, act = layer.up[e] @ x[t], layer.activation
            inner = act(up) if layer.gate is None else act(layer.gate[e] @ x[t]) * up
            out[t] += w * (layer.down[e] @ inner)
        if layer.shared is not None:
            gate = 1 if layer.shared_gate is None else layer.shared_gate(x[t]).sigmoid()
            out[t] += gate * layer.shared(x[t])
    return out


@given(specs(), st.integers(0, 9), st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_grouping_is_the_loop_over_tokens_and_a_batch_is_its_tokens(spec, seed, tokens):
    layer = build(spec, seed).eval()
    x = torch.randn(tokens, WIDTH)
    together = layer(x)
    torch.testing.assert_close(together, one_by_one(layer, x, layer.route(x)), atol=1e-4, rtol=1e-4)
    for t in range(tokens):
        torch.testing.assert_close(layer(x[t]), together[t], atol=1e-4, rtol=1e-4)


@given(specs(), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_weights_are_a_choice_of_k_different_experts(spec, seed):
    layer = build(spec, seed).train(seed % 2 == 0)
    routing = layer.route(torch.randn(2, 5, WIDTH))
    assert routing.experts_TK.shape == routing.weights_TK.shape == (10, spec.active)
    assert all(len(set(row)) == spec.active for row in routing.experts_TK.tolist())
    total = routing.weights_TK.sum(-1)
    if spec.renormalise:
        torch.testing.assert_close(total, torch.ones(10))
    else:
        assert (total <= 1 + 1e-6).all()
        scores = routing.logits_TE.softmax(-1).gather(1, routing.experts_TK)
        torch.testing.assert_close(routing.weights_TK, scores)
    assert routing.counts_E.sum() == 10 * spec.active
    torch.testing.assert_close(routing.gates_TE.sum(-1), total)


@given(specs(), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_the_order_of_experts_means_nothing(spec, seed):
    layer = build(spec, seed).eval()
    order = torch.randperm(spec.count)
    shuffled = build(spec, seed).eval()
    numbered = {"router.weight", "noise.weight", "balance", "gate", "up", "down"}
    shuffled.load_state_dict({n: v[order] if n in numbered else v for n, v in layer.state_dict().items()})
    x = torch.randn(5, WIDTH)
    torch.testing.assert_close(shuffled(x), layer(x), atol=1e-4, rtol=1e-4)


@given(specs(), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_the_gradient_reaches_the_router_and_every_chosen_expert(spec, seed):
    assume(spec.count > 1)
    layer = build(spec, seed)
    x = torch.randn(8, WIDTH)
    routing = layer.route(x)
    layer(x, routing).square().sum().backward()
    assert layer.router.weight.grad.abs().max() > 0
    for expert, count in enumerate(routing.counts_E.tolist()):
        if count == 0:
            assert layer.down.grad[expert].abs().max() == 0
    assert layer.balance is None or layer.balance.grad is None


def test_one_expert_of_normalised_weight_is_refused_since_its_router_would_not_learn():
    for routing in ("softmax", "noisy"):
        with pytest.raises(SpecError, match="active=2 or more"):
            Experts(ExpertsSpec(4, 1, FeedForwardSpec(4), routing=routing), WIDTH)
    Experts(ExpertsSpec(1, 1, FeedForwardSpec(4)), WIDTH)
    Experts(ExpertsSpec(4, 1, FeedForwardSpec(4), renormalise=False), WIDTH)


@given(specs(), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_an_expert_that_nobody_chose_is_not_read(spec, seed):
    layer = build(spec, seed).eval()
    x = torch.randn(WIDTH)
    with torch.no_grad():
        want, chosen = layer(x), layer.route(x).experts_TK[0].tolist()
        for expert in set(range(spec.count)) - set(chosen):
            layer.up[expert] = layer.down[expert] = torch.nan
        assert torch.equal(layer(x), want)


def test_meta_builds_without_values_and_takes_a_state():
    spec = ExpertsSpec(3, 2, FeedForwardSpec(4), balance_bias=True, shared=FeedForwardSpec(5), shared_gate=True)
    layer = build(spec)
    with torch.device("meta"):
        empty = Experts(spec, WIDTH)
    assert all(parameter.is_meta for parameter in empty.parameters())
    names = {"router.weight", "balance", "gate", "up", "down", "shared_gate.weight"}
    names |= {f"shared.{n}.weight" for n in ("gate", "up", "down")}
    assert set(empty.state_dict()) == names
    empty.load_state_dict(layer.state_dict(), assign=True)
    x = torch.randn(4, WIDTH)
    torch.testing.assert_close(empty(x), layer(x))
    assert set(Experts(noisy(), WIDTH).state_dict()) == {"router.weight", "noise.weight", "gate", "up", "down"}


def test_bf16_is_routed_in_fp32():
    layer = build(ExpertsSpec(4, 2, FeedForwardSpec(4))).bfloat16()
    x = torch.randn(5, WIDTH, dtype=torch.bfloat16)
    routing = layer.route(x)
    assert routing.weights_TK.dtype == torch.float32 and layer(x).dtype == torch.bfloat16
    torch.testing.assert_close(layer(x).float(), build(layer.spec)(x.float()), atol=0.5, rtol=0.1)


# The noisy gate (Shazeer 2017)


def test_the_noisy_gate_keeps_k_then_takes_the_softmax():
    layer = build(noisy(5, 3)).eval()
    x = torch.randn(7, WIDTH)
    routing = layer.route(x)
    for row, experts, weights in zip(x @ layer.router.weight.T, routing.experts_TK, routing.weights_TK, strict=True):
        best = sorted(range(5), key=lambda e: -row[e])[:3]
        assert experts.tolist() == best
        torch.testing.assert_close(weights, row[best].softmax(-1))


def test_noise_is_there_in_training_only_and_comes_from_the_generator():
    layer = build(noisy())
    x = torch.randn(50, WIDTH)
    first, again, other = (layer.route(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.noisy_TE, again.noisy_TE) and not torch.equal(first.noisy_TE, other.noisy_TE)
    drawn = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    spread = torch.nn.functional.softplus(layer.noise(x))
    torch.testing.assert_close(first.noisy_TE, layer.router(x) + drawn * spread)
    assert torch.equal(first.experts_TK, first.noisy_TE.topk(2).indices)
    quiet = layer.eval().route(x)
    assert quiet.noisy_TE is None and quiet.spread_TE is None
    assert torch.equal(quiet.experts_TK, layer.route(x).experts_TK)


@given(st.lists(st.lists(st.integers(-3, 3).map(float), min_size=5, max_size=5), min_size=1, max_size=4),
       st.integers(1, 5))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_kth_excluding_is_the_kth_of_the_others_ties_and_all(rows, k):
    got = kth_excluding(torch.tensor(rows), k)
    for row, found in zip(rows, got.tolist(), strict=True):
        for i, threshold in enumerate(found):
            others = sorted(row[:i] + row[i + 1 :], reverse=True)
            assert threshold == (others[k - 1] if k <= len(others) else -math.inf)


def test_the_load_probability_is_the_frequency_of_being_chosen_when_the_noise_is_drawn_again():
    layer = build(noisy(4, 2))
    routing = layer.route(torch.randn(3, WIDTH), torch.Generator().manual_seed(0))
    want = selection_probability(routing)
    draws = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    for t, i in itertools.product(range(3), range(4)):
        anew = routing.noisy_TE[t].expand(len(draws), -1).clone()
        anew[:, i] = routing.logits_TE[t, i] + draws * routing.spread_TE[t, i]
        chosen = (anew.topk(2).indices == i).any(-1).float().mean()
        assert abs(chosen - want[t, i]) < 0.015


def test_all_experts_active_are_chosen_for_sure():
    layer = build(noisy(3, 3))
    routing = layer.route(torch.randn(4, WIDTH))
    assert (selection_probability(routing) == 1).all() and load_loss(routing) == 0


def test_losses_at_the_zero_start_have_finite_gradients_and_move_both_matrices():
    layer = Experts(noisy(), WIDTH)
    assert not layer.router.weight.any() and not layer.noise.weight.any()
    routing = layer.route(torch.randn(64, WIDTH), torch.Generator().manual_seed(0))
    for loss in (importance_loss(routing), load_loss(routing)):
        grads = torch.autograd.grad(loss, (layer.router.weight, layer.noise.weight), retain_graph=True)
        assert all(grad.isfinite().all() and grad.abs().max() > 0 for grad in grads)


def test_a_spread_that_underflows_keeps_the_load_loss_finite():
    layer = build(noisy())
    with torch.no_grad():
        layer.noise.weight.fill_(-1e4)
    routing = layer.route(torch.rand(5, WIDTH) + 1)
    load_loss(routing).backward()
    assert layer.router.weight.grad.isfinite().all() and layer.noise.weight.grad.isfinite().all()


# The losses, by hand


def balanced(experts):
    """As many tokens as experts, two each, every expert with equal weights."""
    pairs = torch.tensor([[e, (e + 1) % experts] for e in range(experts)])
    return Routing(pairs, torch.full(pairs.shape, 0.5), torch.zeros(experts, experts))


@pytest.mark.parametrize("experts", [2, 3, 8])
def test_losses_at_perfect_balance(experts):
    routing = balanced(experts)
    torch.testing.assert_close(importance_loss(routing), torch.tensor(0.0))
    torch.testing.assert_close(switch_loss(routing), torch.tensor(2.0))
    level = replace(routing, noisy_TE=torch.zeros(experts, experts), spread_TE=torch.ones(experts, experts))
    torch.testing.assert_close(load_loss(level), torch.tensor(0.0))


def test_losses_of_an_example_computed_by_hand():
    # Two tokens, three experts, k = 2: ΣG = (0.75, 1, 0.25), mean 2/3, variance (1 + 16 + 25)/144/3.
    logits = torch.log(torch.tensor([[0.6, 0.2, 0.2], [0.25, 0.5, 0.25]]))
    routing = Routing(torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0.75, 0.25], [0.75, 0.25]]), logits)
    torch.testing.assert_close(importance_loss(routing), torch.tensor(42 / 432 / (4 / 9)))
    # f = (1/2, 1, 1/2), p = (0.425, 0.35, 0.225): 3 · (0.2125 + 0.35 + 0.1125).
    torch.testing.assert_close(switch_loss(routing), torch.tensor(3 * 0.675))
    # H = (2, 1, 0), x·W = (1, 1, 1), k = 1: thresholds (1, 2, 2), spread 1: P = (Φ(0), Φ(−1), Φ(−1)).
    one = Routing(
        torch.tensor([[0]]), torch.tensor([[1.0]]), torch.ones(1, 3), torch.tensor([[2.0, 1, 0]]), torch.ones(1, 3)
    )
    low = 0.15865525
    torch.testing.assert_close(selection_probability(one), torch.tensor([[0.5, low, low]]))
    mean = (0.5 + 2 * low) / 3
    want = ((0.5 - mean) ** 2 + 2 * (low - mean) ** 2) / 3 / mean**2
    torch.testing.assert_close(load_loss(one), torch.tensor(want))


def test_the_load_loss_without_noise_says_what_it_needs():
    for routing in (balanced(3), build(noisy()).eval().route(torch.randn(2, WIDTH))):
        with pytest.raises(Fault, match="train"):
            load_loss(routing)


def test_padding_does_not_count():
    layer = build(noisy())
    x = torch.randn(6, WIDTH)
    routing = layer.route(x, torch.Generator().manual_seed(0))
    kept = torch.tensor([True, True, False, True, False, False])
    part = routing.only(kept)
    assert torch.equal(part.experts_TK, routing.experts_TK[[0, 1, 3]]) and len(part.noisy_TE) == 3
    assert part.counts_E.sum() == 6 and load_loss(part).isfinite()


# The loss-free bias (2408.15664)


@given(st.integers(0, 99), st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_bias_changes_the_choice_and_never_a_weight(seed, renormalise):
    layer = build(ExpertsSpec(5, 2, FeedForwardSpec(4), renormalise=renormalise, balance_bias=True), seed)
    x = torch.randn(9, WIDTH)
    biased = layer.route(x)
    scores = biased.logits_TE.softmax(-1)
    assert torch.equal(biased.experts_TK, (scores + layer.balance).topk(2).indices)
    want = scores.gather(1, biased.experts_TK)
    want = want / want.sum(-1, keepdim=True) if renormalise else want
    torch.testing.assert_close(biased.weights_TK, want)
    with torch.no_grad():
        layer.balance += 3.0  # the same for all: nothing changes
        torch.testing.assert_close(layer.route(x).weights_TK, biased.weights_TK)
        layer.balance.copy_(torch.tensor([0.0, 0, 0, 9, 9]))
    assert {3, 4} == set(layer.route(x).experts_TK.flatten().tolist())


def test_the_bias_steps_by_sign_and_balances():
    layer = Experts(ExpertsSpec(4, 2, FeedForwardSpec(4), balance_bias=True), WIDTH)
    layer.update_balance(torch.tensor([9, 1, 5, 5]), speed=0.25)
    assert layer.balance.tolist() == [-0.25, 0.25, 0.0, 0.0]
    torch.manual_seed(0)
    with torch.no_grad():
        layer.router.weight.normal_(0, 0.3)
    x = torch.randn(512, WIDTH) + 1.0
    before = layer.route(x).counts_E
    for _ in range(200):
        layer.update_balance(layer.route(x).counts_E, speed=0.01)
    after = layer.route(x).counts_E
    assert before.max() / before.float().mean() > 1.4 > 1.15 > after.max() / after.float().mean()


def test_a_bias_that_cannot_step_is_refused():
    with pytest.raises(Fault, match="balance_bias=True"):
        build(noisy()).update_balance(torch.ones(4))
    with pytest.raises(Fault, match="float32"):
        build(ExpertsSpec(4, 2, FeedForwardSpec(4), balance_bias=True)).bfloat16().update_balance(torch.ones(4))


# Sparse upcycling


@given(specs(shared=None, shared_gate=False), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_the_upcycled_layer_is_the_dense_one(spec, seed):
    torch.manual_seed(seed)
    dense = FeedForward(spec.expert, WIDTH)
    if not spec.renormalise:
        with pytest.raises(SpecError, match="renormalise=True"):
            upcycle(dense.state_dict(), spec)
        return
    layer = Experts(spec, WIDTH).train(seed % 2 == 0)
    layer.load_state_dict(upcycle(dense.state_dict(), spec, seed))
    assert 0.005 < layer.router.weight.std() < 0.05 or spec.count == 1
    x = torch.randn(3, 4, WIDTH)
    torch.testing.assert_close(layer(x), dense(x), atol=1e-5, rtol=1e-5)
    layer(x).sum().backward()  # the copies are copies: each has a gradient of its own
    assert len({p.data_ptr() for p in layer.up.unbind()}) == spec.count


def test_upcycling_is_seeded_and_refuses_what_does_not_fit():
    spec = ExpertsSpec(3, 2, FeedForwardSpec(4))
    state = FeedForward(spec.expert, WIDTH).state_dict()
    first, again, other = (upcycle(state, spec, seed)["router.weight"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    half = upcycle({name: tensor.bfloat16() for name, tensor in state.items()}, replace(spec, balance_bias=True))
    assert (
        half["router.weight"].dtype == half["gate"].dtype == torch.bfloat16 and half["balance"].dtype == torch.float32
    )
    for wrong in (
        FeedForwardSpec(4, bias=True),
        FeedForwardSpec(4, gated=False),
        FeedForwardSpec(5),
    ):
        with pytest.raises(SpecError):
            upcycle(FeedForward(wrong, WIDTH).state_dict(), spec)
    with pytest.raises(SpecError, match="shared=None"):
        upcycle(state, replace(spec, shared=FeedForwardSpec(4)))


# In a model


def test_a_decoder_of_experts_tells_its_routings_and_trains():
    torch.manual_seed(0)
    attention = AttentionSpec(2, 1, 4)
    layers = (LayerSpec(attention, noisy()), LayerSpec(attention, FeedForwardSpec(8)), LayerSpec(attention, noisy()))
    decoder = Decoder(ModelSpec(31, 8, layers, 16))
    tokens = torch.randint(0, 31, (2, 5))
    with routings(decoder, torch.Generator().manual_seed(0)) as decided:
        logits = decoder(tokens)
        again = [decoder.layers[i].feed_forward.route(torch.zeros(10, 8)) for i in (0, 2)]
    assert [len(routing.experts_TK) for routing in decided] == [10, 10] == [len(r.experts_TK) for r in again]
    (logits.square().mean() + sum(importance_loss(r) + load_loss(r) for r in decided)).backward()
    assert decoder.layers[0].feed_forward.noise.weight.grad.abs().max() > 0
    with routings(decoder, torch.Generator().manual_seed(0)) as repeated:
        assert torch.equal(decoder(tokens), logits)
    assert torch.equal(repeated[1].noisy_TE, decided[1].noisy_TE)
    decoder(tokens)
    assert len(decided) == len(repeated) == 2
