"""Threads that come and go share few arenas: what one frees another finds."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from openbook.serve.memory import ARENAS, few_arenas

COUNT = """
import ctypes, sys, threading
from openbook.serve.memory import few_arenas
if sys.argv[1] == "few":
    assert few_arenas()
libc, together = ctypes.CDLL(None), threading.Barrier(12)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
def work():
    together.wait()
    for _ in range(200):
        libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")
def test_many_threads_have_few_arenas(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")}
    arenas = {}
    for how in ("few", "many"):
        told = tmp_path / how
        subprocess.run([sys.executable, "-c", COUNT, how, str(told)], env=env, check=True)
        arenas[how] = told.read_text().count("<heap nr=")
    assert arenas["few"] <= ARENAS < arenas["many"]


def test_who_says_how_many_has_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert not few_arenas()
