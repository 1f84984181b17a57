"""Settings: options over environment over openbook.toml over defaults; what cannot be used is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openbook.cli.ready import settings_of
from openbook.config import BadOption, Config, load_config
from openbook.errors import Fault
from openbook.mix.settings import Settings

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "model": st.text("abcdefgh/.-", min_size=1, max_size=8),
    "persistence": st.floats(0, 1),
    "passages": st.integers(1, 64),
    "max_tokens": st.integers(1, 4096),
    "margin": st.floats(-100, 100),
    "temperature": st.floats(0, 3),
    "precision": st.sampled_from(["auto", "bf16", "fp32"]),
    "kv_codec": st.sampled_from(["raw", "int8", "int4"]),
    "kv_layout": st.sampled_from(["auto", "dense", "ring", "paged"]),
    "kv_memory": st.integers(0, 1 << 40),
    "kv_disk": st.integers(0, 1 << 40),
    "threads": st.integers(1, 64),
    "anyway": st.booleans(),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working folder without settings, and no variables of the person who runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in Config.model_fields:
        monkeypatch.delenv(f"OPENBOOK_{name.upper()}", raising=False)
    yield


@st.composite
def places(draw: st.DrawFn) -> tuple[str, list[Any]]:
    """A setting, and its value in each place, None where it is not set there."""
    name = draw(st.sampled_from(sorted(VALUES)))
    return name, [draw(st.none() | VALUES[name]) for _ in range(3)]


@given(places())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_the_nearest_place_wins(case: tuple[str, list[Any]]) -> None:
    name, (option, variable, key) = case
    with pytest.MonkeyPatch.context() as patch:
        if variable is not None:
            patch.setenv(f"OPENBOOK_{name.upper()}", str(variable))
        Path("openbook.toml").write_text("" if key is None else f"{name} = {json.dumps(key)}\n")
        found = getattr(load_config(**{name: option}), name)
    expected = [value for value in (option, variable, key) if value is not None]
    default = Config.model_fields[name].default
    assert found == (expected[0] if expected else default)


def test_without_settings_the_library_decides() -> None:
    assert settings_of(load_config()) == Settings()
    assert load_config().book == Path(".openbook")


def test_anyway_never_withholds() -> None:
    assert settings_of(load_config(anyway=True, margin=3.0)).margin is None
    assert settings_of(load_config(margin=3.0)).margin == 3.0


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBOOK_PASSAGES", "")
    assert load_config().passages is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pasages = 3", ["openbook.toml", "'pasages'", "did you mean passages?"]),
        ("zzz = 3", ["openbook.toml", "'zzz'", "known are: book"]),
        ("persistence = 2", ["openbook.toml: persistence is 2", "less than or equal to 1"]),
        ("passages = 'many'", ["openbook.toml: passages is 'many'", "integer"]),
        ("precision = 'fp8'", ["openbook.toml: precision is 'fp8'", "'bf16'"]),
        ("cap = nan", ["openbook.toml: cap is nan", "finite"]),
        ("kv_disk = 'much'", ["openbook.toml: kv_disk is 'much'", "say it like 500MB"]),
        ("lambda_knn = 1.5", ["openbook.toml: lambda_knn is 1.5", "less than 1"]),
        ('passages = "x', ["openbook.toml is not TOML", "line 1"]),
    ],
)
def test_what_the_file_says_wrongly_is_named(text: str, words: list[str]) -> None:
    Path("openbook.toml").write_text(text + "\n")
    with pytest.raises(Fault) as caught:
        load_config()
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_text_are_not_toml() -> None:
    Path("openbook.toml").write_bytes(b"model = '\xff'\n")
    with pytest.raises(Fault, match="not TOML"):
        load_config()


def test_a_bad_variable_and_a_bad_option_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadOption, match=r"--max-tokens is 0; it should be greater than or equal to 1"):
        load_config(max_tokens=0)
    monkeypatch.setenv("OPENBOOK_SEED", "soon")
    with pytest.raises(Fault, match="OPENBOOK_SEED is 'soon'") as caught:
        load_config()
    assert not isinstance(caught.value, BadOption)


def test_the_share_of_neighbours_is_a_number_or_by_their_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of(load_config(lambda_knn=0.0)) == Settings()
    assert settings_of(load_config(lambda_knn="0.25")).lambda_knn == 0.25
    assert settings_of(load_config(lambda_knn="auto")).lambda_knn == "auto"
    with pytest.raises(BadOption, match="--lambda-knn is '1'; it should be less than 1"):
        load_config(lambda_knn="1")
    monkeypatch.setenv("OPENBOOK_LAMBDA_KNN", "0.1")
    assert settings_of(load_config()).lambda_knn == 0.1
