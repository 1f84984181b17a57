"""Stored prefixes: what is kept on disk and read back, what is believed, what the budgets are."""

import pytest
import torch
from cache_specs import VOCABULARY, decoder, specs
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.make import CacheSpec
from openbook.lm.cache.prefixes import PrefixStore
from openbook.lm.decoder import Decoder
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, RopeSpec


def tokens(length: int) -> list[int]:
    return torch.randint(0, VOCABULARY, (length,)).tolist()


@pytest.mark.parametrize("codec", ["raw", "int8", "int4"])
@given(specs(), st.integers(1, 12))
@settings(deadline=None, max_examples=6)
def test_a_prefix_from_disk_is_the_prefix_that_was_kept(tmp_path_factory, codec, spec, length):
    folder = tmp_path_factory.mktemp("kv")
    text, runner = tokens(length), TorchRunner(decoder(spec, 0, torch.float32), CacheSpec(codec=codec))
    made = runner.prefill(text)
    store = PrefixStore(1 << 20, folder, 1 << 20)
    store.put("p", text, made)
    store.flush()
    found = PrefixStore(1 << 20, folder, 1 << 20, accepts=runner.fits).get("p", text)
    assert found is not None and (found.length, found.codec) == (length, codec)
    for kept, read in zip(made.slots, found.slots, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(kept, read, strict=True))
    assert PrefixStore(1 << 20, folder, 1 << 20).get("p", [*text, 1]) is None


def small() -> TorchRunner:
    layer = LayerSpec(AttentionSpec(2, 1, 4, rope=RopeSpec()), FeedForwardSpec(8))
    return TorchRunner(Decoder(ModelSpec(VOCABULARY, 8, (layer,), 64)))


def test_a_store_keeps_to_its_budgets(tmp_path):
    runner = small()
    texts = [tokens(10) for _ in range(6)]
    made = [runner.prefill(text) for text in texts]
    store = PrefixStore(2 * made[0].nbytes, tmp_path, 3000)
    for i, (text, prefix) in enumerate(zip(texts, made, strict=True)):
        store.put(f"p{i}", text, prefix)
    store.flush()
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) <= 3000
    assert store.get("p5", texts[5]) is made[5]
    assert PrefixStore(1 << 20).get("p5", texts[5]) is None


def test_a_damaged_entry_is_made_again_not_believed(tmp_path):
    runner = small()
    text = tokens(10)
    store = PrefixStore(1 << 20, tmp_path, 1 << 20)
    store.put("p", text, runner.prefill(text))
    store.flush()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    assert PrefixStore(1 << 20, tmp_path, 1 << 20).get("p", text) is None


def int8(runner: TorchRunner) -> TorchRunner:
    return TorchRunner(runner.decoder, CacheSpec(codec="int8"))


WRONG = {
    "heads": lambda p: p._replace(slots=((p.slots[0][0].repeat(1, 2, 1, 1),),)),
    "slots": lambda p: p._replace(slots=(p.slots[0], (p.slots[0][0].clone(),))),
    "parts": lambda p: p._replace(slots=((p.slots[0][0], p.slots[0][0].clone()),)),
    "more": lambda p: p._replace(slots=((torch.cat((p.slots[0][0],) * 2, 2),),)),
    "flat": lambda p: p._replace(slots=((p.slots[0][0].flatten(),),)),
    "kind": lambda p: p._replace(slots=((p.slots[0][0].to(torch.int8),),)),
    "nan": lambda p: p._replace(slots=((p.slots[0][0] * float("nan"),),)),
    "narrow": lambda p: p._replace(slots=((p.slots[0][0][..., :1].contiguous(),),)),
    "length": lambda p: p._replace(length=p.length + 1),
    "unknown codec": lambda p: p._replace(codec="int9"),
    "another codec": lambda p: p._replace(codec="int8"),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_entry_of_the_wrong_make_is_not_believed(tmp_path, what):
    """Whoever can write a book's folder can write anything there."""
    runner, text = small(), tokens(6)
    store = PrefixStore(1 << 20, tmp_path, 1 << 20)
    store.put("p", text, WRONG[what](runner.prefill(text)))
    store.flush()
    assert PrefixStore(1 << 20, tmp_path, 1 << 20, accepts=runner.fits).get("p", text) is None


@pytest.mark.parametrize("scale", [float("inf"), float("nan"), 3e38])
def test_a_scale_that_decodes_to_no_number_is_not_believed(scale):
    runner, text = int8(small()), tokens(6)
    prefix = runner.prefill(text)
    assert runner.fits(prefix)
    steps, scales = (part.clone() for part in prefix.slots[0])
    steps[0, 0, 2], scales[0, 0, 2] = 127, scale
    assert not runner.fits(prefix._replace(slots=((steps, scales),)))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["x"], {"length": "6", "codec": "raw"}),
        (["0.1"], {"length": "6", "codec": "raw"}),
        (["1.0"], {"length": "6", "codec": "raw"}),
        (["0.0.0"], {"length": "6", "codec": "raw"}),
        (["-1.0"], {"length": "6", "codec": "raw"}),
        (["0.0"], {"length": "six", "codec": "raw"}),
        (["0.0"], {"length": "6"}),
        (["0.0"], None),
        ([], {"length": "6", "codec": "raw"}),
    ],
)
def test_a_file_that_says_something_else_is_not_believed(tmp_path, names, says):
    runner, text = small(), tokens(6)
    prefix = runner.prefill(text)
    store = PrefixStore(1 << 20, tmp_path, 1 << 20, accepts=runner.fits)
    store.put("p", text, prefix)
    store.flush()
    save_file(dict.fromkeys(names, prefix.slots[0][0]), next(tmp_path.iterdir()), metadata=says)
    assert PrefixStore(1 << 20, tmp_path, 1 << 20, accepts=runner.fits).get("p", text) is None


def test_a_folder_that_is_a_link_is_left_alone(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "letter.txt").write_text("dear")
    (tmp_path / "kv").symlink_to(tmp_path / "elsewhere")
    runner = small()
    text = tokens(6)
    for folder in (tmp_path / "kv", tmp_path / "kv" / "model"):
        store = PrefixStore(1 << 20, folder, 1)
        store.put("p", text, runner.prefill(text))
        store.flush()
    plain = PrefixStore(1 << 20, tmp_path / "elsewhere", 1)
    plain.put("p", text, runner.prefill(text))
    plain.flush()
    assert [f.name for f in (tmp_path / "elsewhere").iterdir()] == ["letter.txt"]


def test_what_waits_for_the_disk_is_bounded_too(tmp_path):
    runner = small()
    texts = [tokens(10) for _ in range(6)]
    made = [runner.prefill(text) for text in texts]
    store = PrefixStore(made[0].nbytes, tmp_path, 1 << 20)
    for i, (text, prefix) in enumerate(zip(texts, made, strict=True)):
        store.put(f"p{i}", text, prefix)
    assert len(list(tmp_path.iterdir())) >= 4  # written before anybody asked
