"""The smallest tokenizer, for models that tests make up. Not in conftest.py: another folder has one of its own."""

import json

from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers import Tokenizer as Pieces
from tokenizers.models import BPE

from openbook.lm.tokenizer import Tokenizer

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """A token a byte, and three control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = Pieces(BPE({c: i for i, c in enumerate(alphabet)}, []))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    pieces.add_special_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")])
    return Tokenizer(json.loads(pieces.to_str()), eos=["<|im_end|>"], chat_template=CHAT)
