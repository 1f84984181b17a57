"""One forward gives the logits and the key of kNN-LM: what the last layer's feed-forward read, in every backend."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_specs import native, specs, weighted

from openbook.lm.backends.native import kernels
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.decoder import Decoder
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, RopeSpec


@given(st.data())
@settings(max_examples=40)
def test_the_tap_is_what_the_last_feed_forward_read_and_changes_nothing(data: st.DataObject) -> None:
    model = weighted(data.draw(specs()), data.draw(st.integers(0, 9)), dtype=torch.float32)
    rows, length, pad = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9)), data.draw(st.integers(0, 1))
    tokens = torch.randint(0, model.spec.vocabulary, (rows, length))
    positions = torch.arange(length).expand(rows, length) - pad
    real = positions >= 0
    seen: list[torch.Tensor] = []
    runners = [TorchRunner(model), *([native(model)] if kernels() is not None else [])]
    for runner in runners:
        tap = torch.zeros(rows, length, model.spec.width)
        hook = model.layers[-1].feed_forward.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        logits = runner.forward(tokens, positions_BT=positions, tap_BTM=tap)
        hook.remove()
        hidden = runner.hidden(tokens, positions_BT=positions)
        assert torch.equal(runner.forward(tokens, positions_BT=positions)[real], logits[real])
        assert torch.equal(hidden.feed_forward_BTM, tap)
        assert not tap[~real].any() and not hidden.last_BTM[~real].any()
        if runner is runners[0]:
            assert torch.equal(tap[real], seen[0][real].float())


def test_hidden_without_positions_follows_the_cache() -> None:
    layer = LayerSpec(AttentionSpec(2, 1, 8, rope=RopeSpec()), FeedForwardSpec(16))
    torch.manual_seed(0)
    runner = TorchRunner(Decoder(ModelSpec(30, 16, (layer,) * 2, 64)))
    tokens = torch.randint(0, 30, (2, 8))
    whole = runner.hidden(tokens).feed_forward_BTM
    cache = runner.cache([None, None], room=8)
    parts = [runner.hidden(tokens[:, :3], cache), runner.hidden(tokens[:, 3:], cache)]
    assert torch.allclose(torch.cat([part.feed_forward_BTM for part in parts], 1), whole, atol=1e-5)
