"""What tests share: a whole language model small enough to run anywhere, with random weights."""

import json

import pytest
import torch
from hypothesis import settings
from tiny import byte_tokenizer
from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers import Tokenizer as Pieces
from tokenizers.models import BPE

from openbook.lm.backends.torch import TorchRunner
from openbook.lm.decoder import Decoder
from openbook.lm.model import LanguageModel
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, RopeSpec
from openbook.lm.tokenizer import Tokenizer

# The same draws at every run, and no clock: a law fails where something changed, not by luck. `make sweep` draws anew.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("sweep", deadline=None)  # other examples each time; none of them by the clock
settings.load_profile("steady")


@pytest.fixture(scope="session")
def tiny_model() -> LanguageModel:
    """Two layers, GQA, fp32, a token a byte: it writes nonsense, exactly."""
    tokenizer = byte_tokenizer()
    layer = LayerSpec(AttentionSpec(4, 2, 8, rope=RopeSpec()), FeedForwardSpec(48))
    torch.manual_seed(0)
    decoder = Decoder(ModelSpec(tokenizer.vocabulary, 32, (layer,) * 2, 2048))
    return LanguageModel("tiny", TorchRunner(decoder), tokenizer, "tiny-fp32")


@pytest.fixture(scope="session")
def merging_model() -> LanguageModel:
    """Another vocabulary: bytes and a few merges, no chat template; one layer of random weights."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("an", "d"), ("Ã", "©")]
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, *(a + b for a, b in merges)])}
    pieces = Pieces(BPE(vocabulary, merges))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces.decoder = decoders.ByteLevel()
    pieces.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    tokenizer = Tokenizer(json.loads(pieces.to_str()), eos=["<|endoftext|>"])
    layer = LayerSpec(AttentionSpec(2, 1, 8, rope=RopeSpec()), FeedForwardSpec(32))
    torch.manual_seed(1)
    decoder = Decoder(ModelSpec(tokenizer.vocabulary, 16, (layer,), 2048))
    return LanguageModel("other", TorchRunner(decoder), tokenizer, "other-fp32")
