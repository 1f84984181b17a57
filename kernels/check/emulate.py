"""Builds the check for other processors and runs it under emulation.

    python kernels/check/emulate.py [rounds]

Needs an emulator, QEMU's user mode (`qemu-aarch64` and `qemu-x86_64`, with or without `-static`), and for 64-bit ARM
a compiler: `aarch64-linux-gnu-g++`, or zig (`pip install ziglang`). What is absent is skipped with its reason.
"""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
FLAGS = ["-std=c++20", "-O2", "-DNDEBUG", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-w", "-static"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
WIDE = [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni")] + ["-mfma", "-mf16c"]

# Files of a set of instructions, with what each is compiled for; processors to run on, with the kernels each has.
ARM = {"neon": [], "neon_dot": ["-mcpu=generic+dotprod"]}
X86 = {"avx2": AVX2, "avx512": WIDE}
RUNS = {
    "aarch64": {"cortex-a57": ["neon", "portable"], "max": ["neon-dot", "neon", "portable"]},
    "x86_64": {"Nehalem": ["portable"], "Haswell": ["avx2", "portable"]},
}


def compiler(machine: str) -> list[str] | None:
    """The command that compiles for a machine, where there is one."""
    native = "g++" if machine == "x86_64" else "aarch64-linux-gnu-g++"
    if shutil.which(native):
        return [native]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++", "-target", f"{machine}-linux-musl"]
    return None


def emulator(machine: str) -> str | None:
    """QEMU's user mode for a machine, where it is installed."""
    return shutil.which(f"qemu-{machine}-static") or shutil.which(f"qemu-{machine}")


def build(command: list[str], sets: dict[str, list[str]], folder: Path) -> Path:
    """Compiles the check with the kernels of these sets."""
    defines = [f"-DOB_{name}" for name in sets]
    units: dict[Path, list[str]] = {HERE / "check.cpp": []}
    units |= {SOURCE / f"{name}.cpp": [] for name in ("matrix", "machine", "isa_portable")}
    units |= {SOURCE / f"isa_{name}.cpp": flags for name, flags in sets.items()}
    objects = []
    for unit, flags in units.items():
        objects.append(str(folder / f"{unit.stem}.o"))
        made = [*FLAGS, *defines, *flags, f"-I{SOURCE}", "-c", str(unit), "-o", objects[-1]]
        subprocess.run([*command, *made], check=True)  # noqa: S603 - our own files
    program = folder / "check"
    subprocess.run([*command, "-static", *objects, "-o", str(program)], check=True)  # noqa: S603
    return program


def main() -> int:
    """Checks every machine that can be built for and emulated; returns how many runs failed."""
    rounds = sys.argv[1] if len(sys.argv) > 1 else "2"
    failed = 0
    for machine, sets in (("aarch64", ARM), ("x86_64", X86)):
        command, runner = compiler(machine), emulator(machine)
        if command is None or runner is None:
            print(f"{machine}: skipped, no {'compiler' if command is None else 'qemu-' + machine} here")
            continue
        with tempfile.TemporaryDirectory() as folder:
            program = build(command, sets, Path(folder))
            for processor, expected in RUNS[machine].items():
                line = [runner, "-cpu", processor, str(program), rounds]
                done = subprocess.run(line, capture_output=True, text=True)  # noqa: S603
                met = [line.split()[0] for line in done.stdout.splitlines()]
                right = done.returncode == 0 and met == expected
                failed += not right
                print(f"{machine}, {processor}: {'agrees' if right else 'FAILED'}\n{done.stdout}{done.stderr}", end="")
    return failed


if __name__ == "__main__":
    sys.exit(main())
