"""A running server against whatever its own OpenAPI allows, and much that it does not: no answer may be a 5xx.

    python bench/fuzz_server.py --seconds 300

Half the time the schema is as the server gives it, half with the names of books, models and documents that are there,
so that requests get past the door. Prints how many requests had which status; exit status 1 where one was a 5xx.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

NOTES = {
    "comet.md": "# The comet team\n\nThe team that followed the comet was led by Maurice Lindqvist.\n",
    "garden.md": "# The garden\n\nThe apple trees were planted by Ingrid Solberg in 1948.\n",
    "faq.csv": "question,answer\nWho planted the trees?,Ingrid Solberg\nWhen did the comet fade?,In June 1961\n",
}
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
RUN = [sys.executable, "-c", "from openbook.cli import main; main()"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        book = made_book(place)
        server = subprocess.Popen(
            [*RUN, "serve", "--book", str(book), "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=place
        )
        try:
            address = re.search(r"http://\S+", server.stdout.readline())[0]  # type: ignore[index, union-attr]
            failed = [fuzz(address, place, given.seconds // 2, given.seed, narrow) for narrow in (False, True)]
            counts = statuses(address)
        finally:
            server.terminate()
            ended = server.wait(60)
    print(json.dumps({"statuses": counts, "findings": sum(failed), "exit status of the server": ended}, indent=1))
    return int(any(status.startswith("5") for status in counts) or any(failed))


def made_book(place: Path) -> Path:
    """A book with a few notes and stored answers."""
    notes = place / "notes"
    notes.mkdir()
    for name, text in NOTES.items():
        (notes / name).write_text(text)
    book = place / "notes.book"
    subprocess.run([*RUN, "add", str(notes / "comet.md"), str(notes / "garden.md"), "--book", str(book)], check=True)
    subprocess.run([*RUN, "faq", "--add", str(notes / "faq.csv"), "--book", str(book)], check=True)
    return book


def fuzz(address: str, place: Path, seconds: int, seed: int, narrow: bool) -> bool:
    """Run schemathesis for so long; whether it found anything."""
    schema = read(f"{address}/openapi.json")
    if narrow:
        narrowed(schema, [card["id"] for card in read(f"{address}/v1/models")["data"]])
    path = place / "openapi.json"
    path.write_text(json.dumps(schema))
    tool = shutil.which("st") or str(Path(sys.executable).with_name("st"))
    how = ["--url", address, "--checks", CHECKS, "--max-time", str(seconds), "--seed", str(seed), "--no-color"]
    done = subprocess.run(
        [tool, "run", str(path), *how, "--generation-database", "none", "--request-timeout", "120", "--no-shrink"],
        cwd=place,
    )
    return done.returncode != 0


def read(address: str) -> Any:
    """JSON at an address."""
    return httpx.get(address, timeout=60).json()


def narrowed(schema: dict[str, Any], models: list[str]) -> None:
    """Only names that are there: what is drawn gets further than "there is no such book"."""
    there: dict[str, list[Any]] = {"book": ["notes"], "document": ["comet.md", "garden.md"], "number": [1, 2, 3]}
    for path in schema["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path" and parameter["name"] in there:
                    parameter["schema"] = {"enum": there[parameter["name"]]}
    for name, model in schema["components"]["schemas"].items():
        properties = model.get("properties", {})
        if name.endswith("Request") and "model" in properties:
            properties["model"] = {"enum": [*models, "openbook"]}
        if name in ("Message", "Turn"):
            properties["role"] = {"enum": ["user"]}
        if name == "Options":
            properties["book"] = properties["model"] = {"type": "null"}
        for field, least, most in (
            ("max_tokens", 1, 16),
            ("max_completion_tokens", 1, 16),
            ("max_output_tokens", 1, 16),
        ):
            if field in properties:
                properties[field] = {"type": "integer", "minimum": least, "maximum": most}
                model["required"] = sorted({*model.get("required", []), field})


def statuses(address: str) -> dict[str, int]:
    """How many requests had which status, by the server's own count."""
    text = httpx.get(f"{address}/metrics", timeout=60).text
    counts: Counter[str] = Counter()
    for status, count in re.findall(r'openbook_http_requests_total\{.*status="(\d+)"\} (\d+)', text):
        counts[status] += int(count)
    return dict(sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
