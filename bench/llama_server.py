"""llama.cpp's own server, compiled for this machine from the sources that `llama-cpp-python` carries.

That package serves one request after the other; the program beside it in llama.cpp's sources batches continuously. It
is built once, below openbook's home: `binary()` gives its path. Needs a C++ compiler and cmake.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from openbook.errors import Fault
from openbook.home import home

VERSION = "0.3.36"
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=ON", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)  # fmt: skip


def binary() -> Path:
    """The program, built if it is not there yet. Raises `Fault` where it cannot be."""
    folder = home() / "rivals" / f"llama-server-{VERSION}"
    program = folder / "build" / "bin" / "llama-server"
    if program.exists():
        return program
    if shutil.which("cmake") is None or not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise Fault("llama.cpp's server is compiled for this machine: install cmake and g++ or clang++")
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "build.log"
    print(f"llama.cpp's server: building ({log})", file=sys.stderr)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-binary",
        "llama-cpp-python",
        "--dest",
        str(folder),
    ]
    with log.open("w", encoding="utf-8") as said:
        _run([*pip, f"llama-cpp-python=={VERSION}"], said)
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        source = next(folder.glob("*/vendor/llama.cpp"))
        _run(["cmake", "-S", str(source), "-B", str(folder / "build"), *OPTIONS], said)
        build = ["cmake", "--build", str(folder / "build"), "--target", "llama-server"]
        _run([*build, "--parallel", str(os.cpu_count() or 1)], said)
    return program


def command(program: Path, model: Path, port: int, slots: int, context: int, threads: int) -> list[str]:
    """How it is started: as many slots as clients, each with room for a whole request, as many threads as ours."""
    return [
        str(program), "--model", str(model), "--port", str(port), "--parallel", str(slots), "--no-kv-unified",
        "--ctx-size", str(slots * context), "--threads", str(threads), "--threads-batch", str(threads),
    ]  # fmt: skip


def _run(command: list[str], log: object) -> None:
    try:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)  # type: ignore[call-overload]
    except subprocess.CalledProcessError as error:
        raise Fault(f"llama.cpp's server could not be built; {error}") from error
