"""Stored prefixes: what is kept on disk and read back, what is believed, what the budgets are."""

import os
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
import torch
from cache_specs import VOCABULARY, decoder, specs
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache import stored
from openbook.lm.cache.make import CacheSpec
from openbook.lm.cache.plan import plan
from openbook.lm.cache.prefixes import Make, Prefix, PrefixStore
from openbook.lm.decoder import Decoder
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, RopeSpec

CODECS = ["raw", "int8", "int4"]


@pytest.fixture(autouse=True)
def a_disk_with_room(monkeypatch):
    monkeypatch.setattr(stored, "SPARE_BYTES", 0)


def tokens(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def make(runner: TorchRunner, name: str = "model") -> Make:
    return Make(name, plan(runner.spec), runner.caching.codec, runner.dtype)


def small(codec: str = "raw") -> TorchRunner:
    layer = LayerSpec(AttentionSpec(2, 1, 4, rope=RopeSpec()), FeedForwardSpec(8))
    torch.manual_seed(0)
    return TorchRunner(Decoder(ModelSpec(VOCABULARY, 8, (layer,) * 2, 64)), CacheSpec(codec=codec))


def store(folder, runner: TorchRunner, memory: int = 0, disk: int = 1 << 20, name: str = "model") -> PrefixStore:
    return PrefixStore(memory, folder, disk, make(runner, name))


def equal(one: Prefix, other: Prefix) -> bool:
    pairs = zip(one.slots, other.slots, strict=True)
    same = all(torch.equal(a, b) for kept, read in pairs for a, b in zip(kept, read, strict=True))
    return same and (one.length, one.codec) == (other.length, other.codec)


def kept(folder, runner: TorchRunner, text: list[int]):
    """A file with the prefix of this text, its path, and the prefix."""
    prefix = runner.prefill(text)
    assert store(folder, runner).save("p", text, prefix)
    (file,) = folder.glob("*/*")
    return file, prefix


@pytest.mark.parametrize("codec", CODECS)
@given(specs(), st.integers(1, 12))
@settings(deadline=None, max_examples=6)
def test_a_prefix_from_disk_is_the_prefix_that_was_kept(tmp_path_factory, codec, spec, length):
    folder = tmp_path_factory.mktemp("kv")
    text, runner = tokens(length), TorchRunner(decoder(spec, 0, torch.float32), CacheSpec(codec=codec))
    made = runner.prefill(text)
    first = store(folder, runner, 1 << 20)
    assert not first.on_disk("p", text)
    first.put("p", text, made)
    first.flush()
    again = store(folder, runner)
    assert again.on_disk("p", text) and equal(again.get("p", text), made)
    assert next(folder.glob("*/*")).stat().st_size == make(runner).nbytes(length)
    for name, other in (("p", [*text, 1]), ("p", [(text[0] + 1) % VOCABULARY, *text[1:]]), ("q", text)):
        assert again.get(name, other) is None and not again.on_disk(name, other)


@pytest.mark.parametrize("codec", CODECS)
@given(st.data())
@settings(deadline=None, max_examples=40)
def test_a_file_in_which_bytes_changed_is_not_believed(tmp_path_factory, codec, data):
    """Anywhere: flipped, missing, added, emptied."""
    runner, text = small(codec), tokens(9)
    file, prefix = kept(tmp_path_factory.mktemp("kv"), runner, text)
    whole = file.read_bytes()
    damaged = bytearray(whole)
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=6, unique=True)):
        damaged[place] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(whole))))
    damaged = damaged[:cut] + data.draw(st.binary(max_size=3))
    file.write_bytes(damaged)
    found = store(file.parent.parent, runner).get("p", text)
    assert (found is not None and equal(found, prefix)) if damaged == whole else found is None


FOREIGN = {
    "weights": lambda runner: (runner, "another model"),
    "codec": lambda runner: (small("int8"), "model"),
    "precision": lambda runner: (TorchRunner(runner.decoder.to(torch.bfloat16)), "model"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_file_of_another_make_under_the_right_name_is_not_believed(tmp_path, what):
    text = tokens(6)
    runner, name = FOREIGN[what](small())
    theirs = store(tmp_path / "theirs", runner, name=name)
    theirs.save("p", text, runner.prefill(text))
    file, prefix = kept(tmp_path / "ours", small(), text)
    assert equal(store(tmp_path / "ours", small()).get("p", text), prefix)
    shutil.copy(next((tmp_path / "theirs").glob("*/*")), file)
    assert store(tmp_path / "ours", small()).get("p", text) is None


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("number", [float("inf"), -float("inf"), float("nan"), 3e38])
def test_numbers_that_are_none_are_not_believed_though_the_checksum_is_right(tmp_path, codec, number):
    """Whoever can write a book's folder can write a sound file; 3e38 is a number, but not times a step of a codec."""
    runner, text = small(codec), tokens(6)
    prefix = runner.prefill(text)
    for index, part in enumerate(prefix.slots[1]):
        is_scale = codec != "raw" and index == 1
        if part.dtype.is_floating_point and (is_scale or number != 3e38):
            forged = part.clone()
            forged[0, 0, 2, 0] = number
            parts = (*prefix.slots[1][:index], forged, *prefix.slots[1][index + 1 :])
            one = store(tmp_path, runner)
            assert one.save("p", text, prefix._replace(slots=(prefix.slots[0], parts)))
            assert one.get("p", text) is None


def test_what_is_not_a_plain_file_is_left_alone(tmp_path):
    runner, text = small(), tokens(6)
    file, prefix = kept(tmp_path / "kv", runner, text)
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    for become in (lambda: os.mkfifo(file), lambda: file.symlink_to(elsewhere), file.mkdir):
        become()
        one = store(tmp_path / "kv", runner)
        assert one.get("p", text) is None and not one.on_disk("p", text)
        one.put("p", text, prefix)
        one.flush()  # replaces a pipe and a link; a folder stays
        if file.is_dir():
            assert store(tmp_path / "kv", runner).get("p", text) is None
        else:
            assert equal(store(tmp_path / "kv", runner).get("p", text), prefix)
            file.unlink()
    assert elsewhere.stat().st_size == make(runner).nbytes(6)


def test_a_folder_that_is_a_link_is_left_alone(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "letter.txt").write_text("dear")
    (tmp_path / "kv").symlink_to(tmp_path / "elsewhere")
    runner, text = small(), tokens(6)
    for root in (tmp_path / "kv", tmp_path / "elsewhere" / "kv"):
        (tmp_path / "elsewhere" / "kv").mkdir(exist_ok=True)
        if root.parent.name == "elsewhere":
            (root / "model").symlink_to(tmp_path / "elsewhere")
        one = store(root, runner)
        one.put("p", text, runner.prefill(text))
        one.flush()
        assert one.get("p", text) is None and one.disk.room == 0
    assert sorted(f.name for f in (tmp_path / "elsewhere").iterdir()) == ["kv", "letter.txt"]


def test_memory_keeps_to_its_budget_and_gives_what_it_was_given():
    runner = small()
    texts = [tokens(10, seed) for seed in range(6)]
    made = [runner.prefill(text) for text in texts]
    one = PrefixStore(2 * made[0].nbytes)
    for i, (text, prefix) in enumerate(zip(texts, made, strict=True)):
        one.put(f"p{i}", text, prefix)
        assert one.get("p0", texts[0]) is (made[0] if i <= 1 or one.get("p0", texts[0]) else None)
    assert one.get("p5", texts[5]) is made[5]
    assert sum(one.get(f"p{i}", texts[i]) is not None for i in range(6)) == 2


def test_of_the_disk_the_longest_unused_goes_first_whatever_model_it_is_of(tmp_path):
    runner = small()
    texts = [tokens(10, seed) for seed in range(5)]
    size = make(runner).nbytes(10)
    for i, name in enumerate(["old", "model", "model", "model", "model"]):
        one = store(tmp_path, runner, disk=10 * size, name=name)
        one.save(f"p{i}", texts[i], runner.prefill(texts[i]))
        (file,) = tmp_path.glob(f"*/p{i}.*")
        os.utime(file, (1000 + i, 1000 + i))
    assert store(tmp_path, runner).get("p1", texts[1]) is not None  # used again: now the last to go
    one = store(tmp_path, runner, memory=1, disk=3 * size)
    one.put("p9", tokens(10, 9), runner.prefill(tokens(10, 9)))
    one.flush()
    assert {f.name.split(".")[0] for f in tmp_path.glob("*/*")} == {"p1", "p4", "p9"}
    assert one.disk.used == 3 * size


def test_others_on_the_disk_are_left_room(tmp_path, monkeypatch):
    runner, text = small(), tokens(10)
    size = make(runner).nbytes(10)
    one = store(tmp_path, runner)
    one.save("p", text, runner.prefill(text))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 500))
    monkeypatch.setattr(stored, "SPARE_BYTES", 400)
    assert one.disk.room == size + 100
    assert not one.save("q", text, runner.prefill(text))
    monkeypatch.setattr(stored, "SPARE_BYTES", 501)
    one.disk.trim()
    assert one.disk.used == 0


def test_a_disk_that_cannot_be_written_changes_nothing(tmp_path):
    runner, text = small(), tokens(6)
    (tmp_path / "kv").write_text("a file")
    one = store(tmp_path / "kv", runner, memory=1 << 20)
    prefix = runner.prefill(text)
    one.put("p", text, prefix)
    one.flush()
    assert one.get("p", text) is prefix
    assert not one.save("p", text, prefix) and not one.on_disk("p", text)


def test_what_a_killed_writer_left_goes(tmp_path):
    runner, text = small(), tokens(6)
    file, prefix = kept(tmp_path, runner, text)
    partial = file.with_name("p.0.partial")
    partial.write_bytes(b"half")
    one = store(tmp_path, runner)
    one.disk.trim()
    assert partial.exists()  # perhaps somebody is writing it
    os.utime(partial, (1000, 1000))
    one.disk.trim()
    assert not partial.exists() and equal(one.get("p", text), prefix)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3), st.sampled_from(["get", "put", "flush", "delete"]))))
@settings(deadline=None, max_examples=40)
def test_processes_on_one_book_never_see_anything_but_the_right_numbers(tmp_path_factory, steps):
    folder, runner = tmp_path_factory.mktemp("kv"), small()
    texts = [tokens(6, seed) for seed in range(4)]
    made = [runner.prefill(text) for text in texts]
    room = make(runner).nbytes(6)
    both = [store(folder, runner, memory=made[0].nbytes, disk=2 * room) for _ in range(2)]
    for who, which, what in steps:
        name, text = f"p{which}", texts[which]
        if what == "get":
            found = both[who].get(name, text)
            assert found is None or equal(found, made[which])
        elif what == "put":
            both[who].put(name, text, made[which])
        elif what == "flush":
            both[who].flush()
        else:
            for file in folder.glob(f"*/{name}.*"):
                file.unlink()
        assert sum(f.stat().st_size for f in folder.glob("*/*")) <= 3 * room  # one may be on its way


def test_what_waits_for_the_disk_is_bounded_too(tmp_path):
    runner = small()
    texts = [tokens(10, seed) for seed in range(6)]
    made = [runner.prefill(text) for text in texts]
    one = store(tmp_path, runner, memory=made[0].nbytes)
    for i, (text, prefix) in enumerate(zip(texts, made, strict=True)):
        one.put(f"p{i}", text, prefix)
    assert len(list(tmp_path.glob("*/*"))) >= 4  # written before anybody asked


def test_names_of_models_become_names_of_folders(tmp_path):
    runner, text = small(), tokens(6)
    one = store(tmp_path, runner, name="../../etc/a model:7")
    assert one.save("p", text, runner.prefill(text))
    (file,) = tmp_path.glob("*/*")
    assert file.parent.parent == tmp_path
    assert store(tmp_path, runner, name="another").get("p", text) is None


def test_makes_differ_in_what_they_name():
    one, text = make(small()), tokens(6)
    others = [replace(one, name="other"), replace(one, codec="int8"), replace(one, dtype=torch.bfloat16)]
    assert len({m.identity(text) for m in (one, *others)}) == 4
    assert one.identity(text) != one.identity(text[:-1]) != one.identity([*text, 0])


@pytest.mark.parametrize("looks", range(1, 5))
def test_the_disk_may_be_left_while_it_is_read(tmp_path, looks):
    class Leaving(PrefixStore):
        """Another thread leaves the disk after so many looks of this one at it."""

        left = looks

        def __getattribute__(self, name):
            found = super().__getattribute__(name)
            if name == "disk":
                self.left -= 1
                if not self.left:
                    self.disk = None
            return found

    runner, text = small(), tokens(5)
    _, prefix = kept(tmp_path, runner, text)
    found = Leaving(0, tmp_path, 1 << 20, make(runner)).get("p", text)
    assert found is None or equal(found, prefix)
