"""Races: turns, ratios, processes, environments, files and tables. No test looks at the clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openbook.errors import Fault
from openbook.measure.speed.entrants import Entrant, Outcome, Race, Ratio, Row, Spread
from openbook.measure.speed.environments import CONTEXT_CITE, LLAMA_CPP, RECORD, SENTENCES, TRANSFORMERS, Environment
from openbook.measure.speed.files import Shape, random_llama, weight_bytes, write_gguf
from openbook.measure.speed.material import Material, agreement
from openbook.measure.speed.process import Worker, busy_program, surroundings
from openbook.measure.speed.races import RACES, Setting
from openbook.measure.speed.report import about, document, fill, markdown, nearness, number, ratio_words, same_words
from openbook.measure.speed.rounds import hold

ROOT = Path(__file__).parents[2]
SPEEDS = st.floats(0.1, 1e5)
FACTS = about(threads=2, rounds=3, model="tiny", text="a text", quick=False)


def entrant(name: str, **given: Any) -> Entrant:
    return Entrant(name, "none", dict, **given)


def race(*entrants: Entrant, ratios: tuple[Ratio, ...] = (), **given: Any) -> Race:
    return Race("test", "A test", "tokens/s", entrants, ratios, **given)


def silent(done: int, total: int, what: str) -> None:
    pass


@dataclass
class Scripted:
    """A contestant whose runs are written down: values in order, a `Fault` where one stands."""

    values: list[float | Fault]
    said: Callable[[str], None] = lambda word: None
    opened: list[Mapping[str, Any]] = field(default_factory=list)
    closed: bool = False

    def call(self, name: str, **given: Any) -> dict[str, Any]:
        self.opened.append(given)
        if given.get("broken"):
            raise Fault("this way is not there")
        return {"engine": "scripted"}

    def run(self) -> dict[str, Any]:
        self.said("run")
        value = self.values.pop(0) if self.values else 1.0
        if isinstance(value, Fault):
            raise value
        return {"value": value * self.opened[-1].get("gain", 1)}

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openbook.measure.speed.rounds.PAUSE", 0)


# ---- spreads and ratios


@given(st.lists(SPEEDS, min_size=1, max_size=12))
def test_a_spread_lies_within_what_was_measured(values: list[float]) -> None:
    spread = Spread.of(values)
    assert min(values) <= spread.low <= spread.median <= spread.high <= max(values)


@given(st.lists(st.tuples(SPEEDS, SPEEDS, st.floats(0.5, 2)), min_size=1, max_size=9), st.floats(0.5, 8))
def test_drift_that_meets_both_sides_of_a_round_changes_no_ratio(
    rounds: list[tuple[float, float, float]], factor: float
) -> None:
    """The machine is slower in one round than in the next: the ratio is of one round, so it does not matter."""

    def ratio(scales: list[float]) -> Spread:
        ours = Row("a", "u", tuple(s * a for (a, _, _), s in zip(rounds, scales, strict=True)))
        theirs = Row("b", "u", tuple(s * b for (_, b, _), s in zip(rounds, scales, strict=True)))
        made = race(entrant("a"), entrant("b"), ratios=(Ratio("r", "a", ("b",), factor=factor),))
        return Outcome(made, (ours, theirs)).ratios[0].spread

    assert ratio([drift for *_, drift in rounds]).median == pytest.approx(ratio([1.0] * len(rounds)).median)


@given(SPEEDS, st.lists(SPEEDS, min_size=1, max_size=4), st.booleans())
def test_of_several_rivals_the_best_counts(ours: float, rivals: list[float], higher: bool) -> None:
    names = tuple(f"rival {i}" for i in range(len(rivals)))
    rows = (Row("a", "u", (ours,)), *(Row(n, "u", (v,)) for n, v in zip(names, rivals, strict=True)))
    made = race(*map(entrant, ("a", *names)), ratios=(Ratio("best", "a", names, 2.0),), higher=higher)
    found = Outcome(made, rows).ratios[0]
    best = max(rivals) if higher else min(rivals)
    assert found.spread.median == ours / best
    assert found.holds == (ours / best >= 2)


def test_a_ratio_may_be_asked_to_be_small_or_only_told() -> None:
    assert Ratio("step", "a", ("b",), 2, most=True).holds(1.9)
    assert Ratio("step", "a", ("b",), 2, most=True).holds(2.1) is False
    assert Ratio("told", "a", ("b",)).holds(9) is None


def test_over_nobody_it_is_the_value_itself() -> None:
    made = race(entrant("a"), ratios=(Ratio("first token", "a", (), 2.5, most=True),), higher=False)
    found = Outcome(made, (Row("a", "s", (1.9, 2.1, 2.0)),)).ratios[0]
    assert (found.spread.median, found.holds) == (2.0, True)
    assert ratio_words(found) == ("first token", "2 s (1.95–2.05)", "≤ 2.5 s: pass")


def test_eight_branches_count_as_steps() -> None:
    """400 tokens a second alone is a step of 2.5 ms; eight at 1,600 together are a step of 5 ms: 2 times it."""
    rows = (Row("one", "u", (400.0,)), Row("eight", "u", (1600.0,)))
    made = race(entrant("one"), entrant("eight"), ratios=(Ratio("step", "one", ("eight",), 2, most=True, factor=8),))
    assert Outcome(made, rows).ratios[0].spread.median == 2


# ---- turns


def test_everyone_runs_once_a_round_in_turn() -> None:
    order: list[str] = []
    crew = {name: Scripted([], said=lambda word, name=name: order.append(name)) for name in "abc"}  # type: ignore[misc]
    outcome = hold(race(*map(entrant, crew)), 3, lambda e: crew[e.name], silent)
    assert order == [*"abc", *"abcabcabc"]  # once to warm up, then by turns
    assert [len(row.values) for row in outcome.rows] == [3, 3, 3]
    assert all(one.closed for one in crew.values())


def test_who_cannot_start_or_fails_is_absent_with_the_reason_and_the_others_run_on() -> None:
    crew = {"good": Scripted([]), "late": Scripted([1.0, 2.0, Fault("it broke")])}

    def start(one: Entrant) -> Scripted:
        if one.name == "missing":
            raise Fault("no compiler")
        return crew[one.name]

    made = race(*map(entrant, ("missing", "late", "good")), ratios=(Ratio("r", "good", ("missing", "late"), 1),))
    outcome = hold(made, 4, start, silent)
    assert outcome.absent == {"missing": "no compiler", "late": "it broke"}
    assert [row.name for row in outcome.rows] == ["good"]
    assert outcome.ratios == ()  # nothing is said of rivals that did not run
    assert all(one.closed for one in crew.values())


def test_the_quickest_way_runs_and_a_way_that_is_not_there_is_passed_over() -> None:
    one = Scripted([])
    ways = ({"broken": True}, {"gain": 1}, {"gain": 3}, {"gain": 2})
    outcome = hold(race(entrant("a", ways=ways)), 2, lambda e: one, silent)
    assert outcome.rows[0].way == {"gain": 3}
    assert outcome.rows[0].values == (3.0, 3.0)
    nowhere = hold(race(entrant("a", ways=({"broken": True},) * 2)), 2, lambda e: Scripted([]), silent)
    assert nowhere.absent == {"a": "this way is not there"}


def test_what_is_no_speed_runs_once_and_is_not_warmed_up() -> None:
    one = Scripted([7.0, 8.0])
    outcome = hold(race(entrant("a"), rounds=1), 5, lambda e: one, silent)
    assert outcome.rows[0].values == (7.0,)


# ---- processes

FAKE = """
import json as engine      # the file is called json.py: it must not hide the module
print("noise of an engine")
class Opened:
    facts = {"engine": "fake"}
    def __init__(self, value): self.value = value
    def run(self):
        print("more noise")
        return {"value": self.value, "threads": __import__("os").environ["OMP_NUM_THREADS"]}
def open(value): return Opened(value)
def double(number): return 2 * number
def fail(): raise ValueError("these weights are odd")
def end():
    import os, sys
    sys.stderr.write("out of luck\\n"); sys.stderr.flush(); os._exit(3)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Any:
    (tmp_path / "json.py").write_text(FAKE)
    made = Worker(str(tmp_path / "json"), None, threads=3)
    yield made
    made.close()


def test_a_process_obeys_whatever_its_engine_prints(worker: Worker) -> None:
    assert worker.call("double", number=21) == 42
    with pytest.raises(Fault, match="nothing is open"):
        worker.run()
    assert worker.call("open", value=1.5) == {"engine": "fake"}
    assert worker.run() == {"value": 1.5, "threads": "3"}
    with pytest.raises(Fault, match="ValueError: these weights are odd"):
        worker.call("fail")
    assert worker.run()["value"] == 1.5  # an error is an answer: what is open stays


def test_a_process_that_ends_is_a_fault_with_its_last_words(worker: Worker) -> None:
    with pytest.raises(Fault, match="out of luck"):
        worker.call("end")
    with pytest.raises(Fault, match="out of luck"):
        worker.run()


def test_every_contestant_has_the_same_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    seen = surroundings(2)
    assert seen["OMP_NUM_THREADS"] == seen["MKL_NUM_THREADS"] == "2"
    assert "OMP_WAIT_POLICY" not in seen


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs a system that tells on which cores one runs")
def test_the_busy_program_keeps_to_one_core_and_is_gone_afterwards() -> None:
    with busy_program() as process:
        assert os.sched_getaffinity(process) == {min(os.sched_getaffinity(0))}
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_the_busy_program_ends_with_a_bench_that_is_killed() -> None:
    code = (
        "from openbook.measure.speed.process import busy_program\nimport os, sys\n"
        "with busy_program() as spinning:\n    print(spinning, flush=True)\n    os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    assert any(gone(int(killed.stdout)) or time.sleep(0.01) for _ in range(3000))


# ---- environments


class Pretended(Environment):
    """An environment whose installation is one command, so that nothing is fetched."""

    code = "print('installed')"

    def commands(self) -> list[tuple[str, list[str]]]:
        return [("pretending", [sys.executable, "-I", "-c", self.code])]


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_an_environment_is_whole_or_begun_again(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Pretended("transformers", ("transformers",))
    made.folder.mkdir(parents=True)
    (made.folder / "left").touch()  # by a stopped installation
    told: list[str] = []
    monkeypatch.setattr(Pretended, "code", "import sys; print('ERROR: no such wheel'); print('a hint'); sys.exit(1)")
    with pytest.raises(Fault, match=r"no such wheel.*transformers-.*log"):
        made.install(told.append)
    assert not made.here
    monkeypatch.setattr(Pretended, "code", "import sys, pathlib; pathlib.Path(sys.argv[0])")
    monkeypatch.setattr(Pretended, "commands", lambda self: (self.folder.mkdir(), [])[1])
    made.install(told.append)
    assert made.here
    assert not (made.folder / "left").exists()
    made.install(lambda words: pytest.fail("it is here already"))
    (made.folder / RECORD).write_text("another recipe")
    assert not made.here


def gone(process: int) -> bool:
    """Dead, buried or not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_stopping_an_installation_stops_what_it_has_started(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's compilers are children of pip's children: they go with it."""
    started = own_home.with_name("started")
    sleeper = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-Ic', 'import time; time.sleep(60)']);"
    monkeypatch.setattr(Pretended, "code", f"{sleeper} open({str(started)!r}, 'w').write(str(p.pid)); p.wait()")
    monkeypatch.setattr("openbook.measure.speed.environments.TICK", 0.02)

    def interrupt(words: str) -> None:
        if started.exists() and started.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Pretended("transformers", ("transformers",)).install(interrupt)
    assert any(gone(int(started.read_text())) or time.sleep(0.01) for _ in range(3000))


def test_what_is_compiled_needs_a_compiler(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(Fault, match="no C\\+\\+ compiler; install"):
        LLAMA_CPP.install(lambda words: None)


@pytest.mark.parametrize("rival", [LLAMA_CPP, TRANSFORMERS, SENTENCES, CONTEXT_CITE], ids=lambda e: e.name)
def test_every_version_is_pinned_and_the_folder_carries_the_rivals(rival: Environment, own_home: Path) -> None:
    lines = [line for line in rival.pins.read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 and "+" not in line for line in lines)
    assert rival.folder == own_home / "rivals" / f"{rival.name}-{rival.version}"
    assert [pin.split("==")[0].replace("_", "-") for pin in rival.pinned()] == list(rival.packages)
    assert str(own_home) in rival.commands()[1][1][0]  # its own pip, never ours


def test_rivals_run_on_our_torch_and_transformers() -> None:
    ours = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for rival in (TRANSFORMERS, SENTENCES, CONTEXT_CITE):
        pins = dict(line.split("==") for line in rival.pins.read_text().splitlines() if "==" in line)
        assert {name: pins[name] for name in ("torch", "transformers", "numpy")} == {
            name: ours[name] for name in ("torch", "transformers", "numpy")
        }


# ---- material and files


class Letters:
    """A tokenizer with a token a character."""

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]


def test_prompts_are_pieces_of_one_text_and_a_short_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("abcdefghij" * 3)
    material = Material(Letters(), file)  # type: ignore[arg-type]
    assert ["".join(map(chr, prompt)) for prompt in material.prompts(3, 8)] == ["abcdefgh", "ijabcdef", "ghijabcd"]
    assert len(material.beginning(1000, 10)) == 30
    with pytest.raises(Fault, match="30 tokens, the race needs 40; give --text"):
        material.prompts(4, 10)
    with pytest.raises(Fault, match="cannot be read"):
        Material(Letters(), tmp_path / "none").prompts(1, 1)  # type: ignore[arg-type]


def test_without_a_file_there_is_text_enough_everywhere() -> None:
    assert len(Material(Letters()).tokens) > 300_000  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_agreement_is_the_common_beginning(first: list[int], second: list[int]) -> None:
    n = agreement(first, second)
    assert first[:n] == second[:n]
    assert n == min(len(first), len(second)) or first[n] != second[n]


METADATA = {"general.architecture": "llama", "a.list": ["x", "ü"], "numbers": [1, -2], "scores": [0.5], "flag": True}


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_random_weights_read_back_with_the_deviation_of_a_fresh_model(kind: str, tmp_path: Path) -> None:
    import torch

    from openbook.lm.weights.gguf import GGUFFile

    path = tmp_path / "random.gguf"
    write_gguf(path, METADATA, {"wide.weight": (96, 64), "odd.weight": (5, 32), "norm.weight": (33,)}, kind)
    file = GGUFFile.open(path)
    assert file.metadata == METADATA
    assert {name: info.shape for name, info in file.tensors.items()} == {
        "wide.weight": (96, 64), "odd.weight": (5, 32), "norm.weight": (33,),
    }  # fmt: skip
    weights = file.tensor("wide.weight")
    assert 0.018 < float(weights.std()) < 0.022
    assert torch.equal(file.tensor("norm.weight"), torch.ones(33))
    size = {"Q4_0": 18, "Q8_0": 34}[kind]
    assert weight_bytes(path) == (96 * 2 + 5) * size


# ---- reports

RATIOS = (Ratio("over rival", "openbook", ("rival",), 2.5), Ratio("told", "openbook", ("rival",)))


def measured() -> Outcome:
    rows = (
        Row("openbook", "tokens/s", (300.0, 320.0, 310.0), {"engine": "native"}, last={"tokens": [1, 2, 3]}),
        Row("rival", "tokens/s", (100.0, 160.0, 155.0), {"engine": "r 1"}, {"flash": True}, {"tokens": [1, 2, 9]}),
        Row("memory read", "GB/s", (40.0, 41.0, 42.0)),
    )
    entrants = (entrant("openbook"), entrant("rival"), entrant("memory read"), entrant("gone"))
    return Outcome(race(*entrants, ratios=RATIOS), rows, {"gone": "no network"})


def test_a_table_says_median_quartiles_ratio_verdict_and_who_did_not_run() -> None:
    text = markdown(measured(), FACTS)
    assert "| openbook | 310 (305–315) | native |" in text
    assert "| rival | 155 (128–158) | r 1; flash true; first 2 tokens as ours |" in text
    assert "| memory read | 41.0 (40.5–41.5) GB/s |" in text
    assert "| over rival | 2× (2–2.5) | ≥ 2.5×: miss |" in text
    assert "| told | 2× (2–2.5) |  |" in text
    assert "Not run: gone (no network)." in text
    assert "`openbook bench test`, tiny" in text


def test_encoders_are_told_to_be_the_same_by_their_vectors() -> None:
    vectors = [[1.0, 0.0], [0.6, 0.8]]
    rows = (
        Row("openbook", "u", (1.0,), {"vectors": vectors}),
        Row("rival", "u", (1.0,), {"vectors": [[1.0, 0.0], [0.8, 0.6]]}),
    )
    outcome = Outcome(race(entrant("openbook"), entrant("rival")), rows)
    assert nearness(outcome, rows[1]) == pytest.approx(0.96)
    assert same_words(outcome, rows[1]) == "cosine with ours ≥ 0.9600"
    assert same_words(outcome, rows[0]) == ""
    assert "vectors" not in document([outcome], FACTS)["races"][0]["entrants"][1]


def test_the_document_holds_every_run_and_is_json() -> None:
    made = json.loads(json.dumps(document([measured()], FACTS)))
    first = made["races"][0]
    assert first["entrants"][1]["runs"] == [100.0, 160.0, 155.0]
    assert first["entrants"][1]["first_tokens_as_ours"] == 2
    assert first["ratios"][0] == {
        "what": "over rival", "of": "openbook", "against": "rival", "median": 2.0, "lower_quartile": 2.0,
        "upper_quartile": 2.5, "asked": 2.5, "at_most": False, "reached": False,
    }  # fmt: skip
    assert "reached" not in first["ratios"][1]
    assert first["absent"] == {"gone": "no network"}


def test_a_page_is_filled_between_its_marks_alone_and_again(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text("before\n<!-- bench test -->\nstale words\n<!-- /bench test -->\nafter\n")
    fill(page, [measured()], FACTS)
    once = page.read_text()
    assert once.startswith("before\n<!-- bench test -->\nA test.")
    assert once.endswith("<!-- /bench test -->\nafter\n")
    assert "stale words" not in once
    fill(page, [measured()], FACTS)
    assert page.read_text() == once
    page.write_text("nothing here")
    with pytest.raises(Fault, match="has no place for test"):
        fill(page, [measured()], FACTS)
    assert page.read_text() == "nothing here"


@pytest.mark.parametrize(("value", "said"), [(1563.4, "1,563"), (128.6, "129"), (41.06, "41.1"), (0.1252, "0.125")])
def test_numbers_have_three_digits(value: float, said: str) -> None:
    assert number(value) == said


def test_every_race_has_a_place_on_the_page() -> None:
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    for name in RACES:
        assert text.count(f"<!-- bench {name} -->") == text.count(f"<!-- /bench {name} -->") == 1, name


def test_the_plot_shows_every_entrant_but_not_the_memory(tmp_path: Path) -> None:
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    from openbook.measure.speed.plot import check, draw, values

    assert [bar["entrant"] for bar in values(measured())] == ["openbook", "rival"]
    path = tmp_path / "speed.svg"
    check(path)
    draw([measured()], path, "a machine")
    assert "A test" in path.read_text()
    for bad in (tmp_path / "speed.pdf", tmp_path / "no" / "speed.svg"):
        with pytest.raises(Fault):
            check(bad)


def test_a_plot_without_altair_is_refused_before_the_races(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    from openbook.measure.speed.plot import check

    with pytest.raises(Fault, match="openbook\\[bench\\]"):
        check(tmp_path / "speed.svg")


# ---- the races themselves


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random Llama of one narrow layer with a real tokenizer, in a home of its own."""
    from openbook.lm.weights.catalogue import CATALOGUE
    from openbook.lm.weights.checkpoint import open_checkpoint
    from openbook.lm.weights.pull import installed

    here = {model.name: model for model in installed()}
    if not {"smollm2", "minilm"} <= set(here) & {model.name for model in CATALOGUE}:
        pytest.skip("needs the models: openbook models pull --all")
    like, encoder = open_checkpoint(here["smollm2"].path), here["minilm"].path
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBOOK_HOME", str(tmp_path_factory.mktemp("home")))
        path = random_llama(like, "Q8_0", lambda words: None, Shape(layers=1, width=64, inner=128, heads=4, kv_heads=2))
    text = path.with_name("text.txt")
    text.write_text(Material(Letters()).text[:8000])  # type: ignore[arg-type]
    checkpoint = open_checkpoint(path)
    return checkpoint, Material(checkpoint.tokenizer(), text), encoder


def setting(tiny: Any, **given: Any) -> Setting:
    checkpoint, material, encoder = tiny
    return Setting(checkpoint, material, encoder, 1, lambda words: None, quick=True, **given)


@pytest.mark.parametrize("name", [name for name in RACES if name not in ("bandwidth", "index")])
def test_a_race_names_its_entrants_once_and_its_ratios_are_between_them(name: str, tiny: Any) -> None:
    made = RACES[name](setting(tiny))
    names = [one.name for one in made.entrants]
    assert len(set(names)) == len(names)
    assert made.name == name
    for ratio in made.ratios:
        assert {ratio.over, *ratio.under} <= set(names)
    alone = RACES[name](setting(tiny, alone=True))
    assert all(one.environment is None for one in alone.entrants)


def test_our_contestants_run(tiny: Any) -> None:
    """In this process: what the race hands over is what `workers/ours.py` takes."""
    from openbook.measure.speed.workers import memory, ours

    for name in ("decode", "branches", "prefill", "perplexity"):
        made = RACES[name](setting(tiny, alone=True))
        ways = [one for one in made.entrants if one.script == "ours" and one.task().get("backend") != "native"]
        for one in ways:
            task = dict(one.task())
            task |= {"new": 2} if "new" in task else {}
            opened = ours.open(**task)
            ran = opened.run()
            assert ran["value"] > 0
            assert "openbook" in opened.facts["engine"]
            if name == "decode":
                assert len(ran["tokens"]) == 3
    assert memory.open(threads=1, megabytes=1).run()["value"] > 0


def test_the_perplexity_of_random_weights_is_about_the_vocabulary(tiny: Any) -> None:
    """A model that knows nothing spreads its bets: exp(mean −log p) is the size of the vocabulary, roughly."""
    from openbook.measure.speed.workers import ours

    checkpoint, material, _ = tiny
    tokens = material.beginning(257, 257)
    ran = ours.open(
        race="perplexity", model=str(checkpoint.path), threads=1, tokens=tokens, window=128, precision="fp32"
    ).run()
    assert ran["predicted"] == 2 * 127
    assert 0.5 < ran["value"] / checkpoint.spec.vocabulary < 2
