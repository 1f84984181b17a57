"""A mixture of experts: a router sends each token through a few of E feed-forwards and adds up what they say.

    y = Σ_i G_i(x) · expert_i(x), with G_i = 0 for all but k experts

Nothing is kept between forwards: what the router decided is a `Routing`, returned, and the losses are functions of it.

Shapes: T tokens (every leading dimension together), K experts chosen a token, E experts, R = T·K rows sorted by expert,
M model width, I an expert's width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openbook.errors import Fault
from openbook.lm.feedforward import ACTIVATIONS, FeedForward
from openbook.lm.spec import ExpertsSpec, require


@dataclass(frozen=True)
class Routing:
    """What a router decided for T tokens, in fp32 or finer.

    `logits_TE` is x·W_r. A noisy gate in training adds `spread_TE`, softplus(x·W_n), and `noisy_TE`, the H that was
    compared; both are None otherwise.
    """

    experts_TK: Tensor
    weights_TK: Tensor
    logits_TE: Tensor
    noisy_TE: Tensor | None = None
    spread_TE: Tensor | None = None

    @property
    def counts_E(self) -> Tensor:
        """How many tokens each expert got."""
        return torch.bincount(self.experts_TK.flatten(), minlength=self.logits_TE.shape[1])

    @property
    def gates_TE(self) -> Tensor:
        """G: the weights at their experts, 0 elsewhere."""
        return torch.zeros_like(self.logits_TE).scatter(1, self.experts_TK, self.weights_TK)

    def only(self, kept_T: Tensor) -> Routing:
        """These tokens alone (a bool mask, or indices): losses should not see padding."""
        tensors = {name: value[kept_T] for name, value in vars(self).items() if value is not None}
        return replace(self, **tensors)


class Experts(nn.Module):
    """A mixture of E feed-forwards, `spec.active` of them a token; `[…, M] → […, M]`.

    Tokens are sorted by expert, and each chosen expert multiplies its rows at once: no loop over tokens, and the
    weights of an expert that nobody chose are never read.
    """

    def __init__(self, spec: ExpertsSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.activation = ACTIVATIONS[spec.expert.activation]
        inner = spec.expert.width
        self.router = nn.Linear(width, spec.count, bias=False)
        self.noise = nn.Linear(width, spec.count, bias=False) if spec.routing == "noisy" else None
        if self.noise is not None and not self.noise.weight.is_meta:
            nn.init.zeros_(self.router.weight)  # equal load at the start (Shazeer 2017, appendix A)
            nn.init.zeros_(self.noise.weight)
        self.balance = nn.Parameter(torch.zeros(spec.count), requires_grad=False) if spec.balance_bias else None
        self.gate = _drawn(spec.count, inner, width) if spec.expert.gated else None
        self.up = _drawn(spec.count, inner, width)
        self.down = _drawn(spec.count, width, inner)
        self.shared = FeedForward(spec.shared, width) if spec.shared else None
        self.shared_gate = nn.Linear(width, 1, bias=False) if spec.shared_gate else None

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        """The mixture of these tokens' experts. A `routing` of the same tokens may be given; else it is made here."""
        x_TM = x.reshape(-1, x.shape[-1])
        y_TM = self._mixed(x_TM, self.route(x_TM) if routing is None else routing)
        return self._with_shared(x_TM, y_TM).reshape(x.shape)

    def fixed(self, x: Tensor) -> Tensor:
        """As `forward`, in shapes that the routing does not change, for a few tokens: what a recorded step needs, and
        nothing that a device is waited for."""
        x_TM = x.reshape(-1, x.shape[-1])
        return self._with_shared(x_TM, self._mixed_fixed(x_TM, self.route(x_TM))).reshape(x.shape)

    def _with_shared(self, x_TM: Tensor, y_TM: Tensor) -> Tensor:
        if self.shared is not None:
            shared_TM = self.shared(x_TM)
            if self.shared_gate is not None:
                shared_TM = self.shared_gate(x_TM).sigmoid() * shared_TM
            y_TM = y_TM + shared_TM
        return y_TM

    def route(self, x: Tensor, generator: torch.Generator | None = None) -> Routing:
        """Which experts these tokens go to. `generator` draws the noise of a noisy gate, which there is in training
        only."""
        x_TM = x.reshape(-1, x.shape[-1])
        logits_TE = _fine(self.router(x_TM))
        if self.noise is None:
            return self._softmax_then_top(logits_TE)
        noisy_TE = spread_TE = None
        if self.training:
            spread_TE = F.softplus(_fine(self.noise(x_TM)))
            drawn_TE = torch.randn(spread_TE.shape, generator=generator, device=x.device, dtype=spread_TE.dtype)
            noisy_TE = logits_TE + drawn_TE * spread_TE
        # Shazeer 2017, eq. 3: the softmax is over the k that are kept, so it comes after the choice.
        kept_TK, experts_TK = (logits_TE if noisy_TE is None else noisy_TE).topk(self.spec.active)
        return Routing(experts_TK, kept_TK.softmax(-1), logits_TE, noisy_TE, spread_TE)

    def update_balance(self, counts_E: Tensor, speed: float = 1e-3) -> None:
        """One step of loss-free balancing (2408.15664, algorithm 1): `b_i += speed · sign(mean(counts) − counts_i)`.

        `counts_E` is how many tokens of the whole batch each expert got (`Routing.counts_E`, summed over its parts).
        """
        if self.balance is None:
            raise Fault("these experts have no balance bias to update; build them with balance_bias=True")
        if self.balance.dtype in (torch.bfloat16, torch.float16):
            raise Fault(f"the balance bias is {self.balance.dtype}, too coarse for small steps; keep it in float32")
        counts_E = counts_E.to(self.balance)
        with torch.no_grad():
            self.balance.add_((counts_E.mean() - counts_E).sign(), alpha=speed)

    def _softmax_then_top(self, logits_TE: Tensor) -> Routing:
        scores_TE = logits_TE.softmax(-1)
        ranked_TE = scores_TE if self.balance is None else scores_TE + self.balance.to(scores_TE)
        experts_TK = ranked_TE.topk(self.spec.active).indices
        # The bias chooses and does not weigh. Renormalised scores are the softmax of the chosen logits, which does not
        # divide 0 by 0 where the bias chose experts of no score.
        if self.spec.renormalise:
            weights_TK = logits_TE.gather(1, experts_TK).softmax(-1)
        else:
            weights_TK = scores_TE.gather(1, experts_TK)
        return Routing(experts_TK, weights_TK, logits_TE)

    def _mixed(self, x_TM: Tensor, routing: Routing) -> Tensor:
        tokens, chosen = routing.experts_TK.shape
        order_R = routing.experts_TK.flatten().argsort(stable=True)
        x_RM = x_TM[order_R // chosen]
        # A select's gradient is as large as the whole bank, for each expert; unbind makes one for all.
        banks = [b.unbind() if torch.is_grad_enabled() else b for b in (self.gate, self.up, self.down) if b is not None]
        parts, start = [], 0
        for expert, count in enumerate(routing.counts_E.tolist()):
            if count:
                parts.append(self._expert(x_RM[start : start + count], [bank[expert] for bank in banks]))
                start += count
        y_RM = torch.cat(parts) if parts else x_RM
        y_TKM = y_RM[order_R.argsort()].view(tokens, chosen, x_TM.shape[1])
        return (routing.weights_TK[..., None] * y_TKM).sum(1).to(x_TM.dtype)

    def _mixed_fixed(self, x_TM: Tensor, routing: Routing) -> Tensor:
        """Every expert reads every token; or, where that moves less, the chosen weights are gathered first, a copy of
        which is read, written and read again."""
        (T, K), M, E = routing.experts_TK.shape, x_TM.shape[1], self.spec.count
        banks = [bank for bank in (self.gate, self.up, self.down) if bank is not None]
        if 3 * T * K < E:
            chosen = [bank[routing.experts_TK.flatten()] for bank in banks]
            x_R1M = x_TM[:, None].expand(T, K, M).reshape(T * K, 1, M)
            y_TKM = self._each(x_R1M, chosen).view(T, K, M)
        else:
            y_ETM = self._each(x_TM.expand(E, T, M), banks)
            y_TKM = y_ETM[routing.experts_TK, torch.arange(T, device=x_TM.device)[:, None]]
        return (routing.weights_TK[..., None] * y_TKM).sum(1).to(x_TM.dtype)

    def _each(self, x_ETM: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """`_expert` of a batch of experts, each with tokens of its own."""
        *first, down = weights
        inner = self.activation(x_ETM @ first[0].mT)
        if len(first) == 2:
            inner = inner * (x_ETM @ first[1].mT)
        return inner @ down.mT

    def _expert(self, x_RM: Tensor, weights: Sequence[Tensor]) -> Tensor:
        *first, down = weights
        inner = self.activation(F.linear(x_RM, first[0]))
        if len(first) == 2:
            inner = inner * F.linear(x_RM, first[1])
        return F.linear(inner, down)


@contextmanager
def routings(model: nn.Module, generator: torch.Generator | None = None) -> Iterator[list[Routing]]:
    """While the block lasts, what every mixture inside `model` decides, in the order in which they run.

    For a training step: `with routings(model) as decided: loss = …; loss = loss + sum(map(load_loss, decided))`.
    """
    decided: list[Routing] = []

    def decide(layer: Experts, arguments: tuple[Any, ...]) -> tuple[Tensor, Routing]:
        x, routing = arguments if len(arguments) == 2 else (arguments[0], layer.route(arguments[0], generator))
        decided.append(routing)
        return x, routing

    hooks = [m.register_forward_pre_hook(decide) for m in model.modules() if isinstance(m, Experts)]
    try:
        yield decided
    finally:
        for hook in hooks:
            hook.remove()


def importance_loss(routing: Routing) -> Tensor:
    """`CV(Σ_x G(x))²`: 0 when every expert has the same total weight (Shazeer 2017, eq. 6–7). Multiply by w."""
    return _cv_squared(routing.gates_TE.sum(0))


def load_loss(routing: Routing) -> Tensor:
    """`CV(Σ_x P(x))²`: 0 when every expert expects as many tokens (Shazeer 2017, appendix A). Multiply by w."""
    return _cv_squared(selection_probability(routing).sum(0))


def selection_probability(routing: Routing) -> Tensor:
    """P `[T, E]`: how likely each expert is chosen if its own noise is drawn anew and the others' stays (eq. 8–9).

    `P_i = Φ((x·W_g,i − kth_excluding(H, k, i)) / softplus(x·W_n,i))`: the clean logit against the noisy logits of the
    others, all before any softmax.
    """
    if routing.noisy_TE is None or routing.spread_TE is None:
        raise Fault("the load loss needs the noise of a noisy gate in training; set routing='noisy' and call train()")
    k, experts = routing.experts_TK.shape[1], routing.logits_TE.shape[1]
    if k == experts:
        return torch.ones_like(routing.logits_TE)
    above_TE = routing.logits_TE - kth_excluding(routing.noisy_TE, k)
    # A spread that underflows to 0 would make 0 / 0 of a tie.
    probability_TE: Tensor = torch.special.ndtr(above_TE / routing.spread_TE.clamp(min=1e-6))
    return probability_TE


def kth_excluding(values_TE: Tensor, k: int) -> Tensor:
    """For each entry, the k-th largest of the *other* entries of its row; −∞ where there are fewer than k others."""
    if k >= values_TE.shape[1]:
        return torch.full_like(values_TE, -torch.inf)
    top_TK, experts_TK = values_TE.topk(k + 1)
    # Taking one of the first k away moves the (k+1)-th up; taking any other away changes nothing.
    among_TE = torch.zeros_like(values_TE, dtype=torch.bool).scatter(1, experts_TK[:, :k], True)
    return torch.where(among_TE, top_TK[:, k:], top_TK[:, k - 1 : k])


def switch_loss(routing: Routing) -> Tensor:
    """`E · Σ_i f_i · p_i`, f the share of tokens sent to expert i, p its mean softmax: k at perfect balance.

    Switch Transformers (2101.03961, eq. 4–6), for k > 1 with Σ f = k, as Mixtral was trained. Multiply by w.
    """
    tokens, experts = max(1, len(routing.logits_TE)), routing.logits_TE.shape[1]
    return experts * (routing.counts_E / tokens * routing.logits_TE.softmax(-1).sum(0) / tokens).sum()


def upcycle(dense: Mapping[str, Tensor], spec: ExpertsSpec, seed: int = 0) -> dict[str, Tensor]:
    """The weights of a mixture whose experts are all copies of one feed-forward (sparse upcycling, 2212.05055).

    `dense` is the state of a `FeedForward`; the router is drawn from N(0, 0.02²) by `seed`. Before training the
    mixture equals the feed-forward, since weights that sum to 1 mix equal outputs. `SpecError` if they cannot be equal.
    """
    require(spec.renormalise, "an upcycled mixture equals its feed-forward if weights sum to 1; set renormalise=True")
    require(spec.shared is None, "upcycling makes no shared expert: it would be added to the copies; set shared=None")
    names = ["gate", "up", "down"] if spec.expert.gated else ["up", "down"]
    wanted = {f"{name}.weight" for name in names}
    require(
        set(dense) == wanted,
        f"upcycling to these experts takes {', '.join(sorted(wanted))}; given: {', '.join(sorted(dense))}",
    )
    up = dense["up.weight"]
    require(
        len(up) == spec.expert.width,
        f"the feed-forward is {len(up)} wide, an expert {spec.expert.width}; set the expert's width to {len(up)}",
    )
    state = {name: dense[f"{name}.weight"].expand(spec.count, -1, -1).clone() for name in names}
    draw = torch.Generator().manual_seed(seed)
    state["router.weight"] = (0.02 * torch.randn(spec.count, up.shape[1], generator=draw)).to(up)
    if spec.routing == "noisy":
        state["noise.weight"] = torch.zeros_like(state["router.weight"])
    if spec.balance_bias:
        state["balance"] = torch.zeros(spec.count, device=up.device)
    return state


def _drawn(count: int, outputs: int, inputs: int) -> nn.Parameter:
    """A bank of weights `[count, outputs, inputs]`, each expert drawn as nn.Linear is; left without values on meta."""
    bank = torch.empty(count, outputs, inputs)
    return nn.Parameter(bank if bank.is_meta else bank.uniform_(-(inputs**-0.5), inputs**-0.5))


def _fine(x: Tensor) -> Tensor:
    """At least fp32: a router that rounds its softmax chooses badly."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _cv_squared(x_E: Tensor) -> Tensor:
    """The squared coefficient of variation, variance / mean²; 0 for nothing."""
    return x_E.var(correction=0) / x_E.mean().square().clamp(min=torch.finfo(x_E.dtype).tiny)
