"""What a model folder says of its tokenizer, and chat templates: what they may do and what they may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from token_texts import CHAT
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from openbook.errors import Fault
from openbook.lm.tokenizer import Tokenizer


def folder_with(tmp_path: Path, **files: Any) -> Path:
    backend = Backend(models.BPE({chr(97 + i): i for i in range(4)} | {"</s>": 4}, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["</s>", "<s>", "<|eot_id|>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_a_folder_says_what_ends_an_answer(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(
        folder_with(
            tmp_path,
            tokenizer_config={
                "bos_token": {"content": "<s>"},
                "eos_token": "</s>",
                "chat_template": "{{ bos_token }}x",
            },
            generation_config={"eos_token_id": [4, 3, 999]},
        )
    )
    assert tokenizer.bos_id == 5 and tokenizer.eos_ids == {3, 4, 6}
    assert tokenizer.encode("ab") == [0, 1] and tokenizer.encode_template("a</s>") == [0, 4]
    assert tokenizer.encode("d") == []  # an id that the model's own config calls an end cannot be spelled
    assert tokenizer.render_chat(CHAT) == "<s>x"


def test_a_template_in_a_file_of_its_own_and_in_a_list(tmp_path: Path) -> None:
    listed = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    folder = folder_with(tmp_path, tokenizer_config={"chat_template": listed})
    assert Tokenizer.from_folder(folder).render_chat([]) == "d"
    (folder / "chat_template.jinja").write_text("f")
    assert Tokenizer.from_folder(folder).render_chat([]) == "f"


def templated(tmp_path: Path, template: str | None) -> Tokenizer:
    return Tokenizer.from_folder(folder_with(tmp_path, tokenizer_config={"chat_template": template}))


def test_without_a_template_it_is_plain(tmp_path: Path) -> None:
    tokenizer = templated(tmp_path, None)
    assert tokenizer.render_chat(CHAT) == "Be brief.\n\nWho wrote  Emma?\n\n\nAnswer:"
    assert tokenizer.render_chat(CHAT[:1], add_generation_prompt=False) == "Be brief."


NESTED = "{% set n = namespace(x=[1]) %}{% for a in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
FAILING = {
    "{{ raise_exception('roles must alternate') }}": "roles must alternate",
    "{% for %}": "TemplateSyntaxError",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{{ ''.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}": "SecurityError",
    "{{ messages.append(1) }}": "SecurityError",
    "{{ 'x' * 10 ** 9 }}": "multiplies",
    "{{ 9 ** 9 ** 9 }}": "multiplies",
    "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}": "loops over more",
    "{% for a in range(99) %}{{ 'x' * 999999 }}{% endfor %}": "wrote more than",
    "{{ strftime_now('%d') }}": "UndefinedError",
    "{{ [1, 2] | random }}": "No filter named 'random'",
    "{% set n = namespace(x='ab') %}{% for a in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}": "longer than",
    "{% set n = namespace(x='ab') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}": "longer than",
    "{% set n = namespace(x=[1]) %}{% for a in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}": "longer than",
    NESTED + "{{ n.x }}": "list of",
    NESTED + "{{ n.x|upper }}": "list of",
    NESTED + "{{ n.x ~ 1 }}": "list of",
    NESTED.replace("[n.x, n.x]", "{'a': n.x, 'b': n.x}") + "{{ n.x | tojson }}": "list of",
    "{% set n = namespace(x='a') %}{% for a in range(60) %}{% set n.x %}{{n.x}}{{n.x}}{% endset %}{% endfor %}": "than",
    "{{ '%1000000000d' % 1 }}": "formats wider",
    "{{ '%*d' % (1000000000, 1) }}": "formats wider",
    "{{ '%1000000000d' | format(1) }}": "formats wider",
    "{{ ('%s' * 100000) | format(*(['x' * 100000] * 100000)) }}": "multiplies|longer than",
    "{{ '{:1000000000}'.format(1) }}": "formats wider",
    "{{ '{:{}}'.format(1, 1000000000) }}": "formats wider",
    "{{ ('{0}' * 100000).format('x' * 1000000) }}": "longer than",
    "{{ ('{a}' * 100000).format_map({'a': 'x' * 1000000}) }}": "longer than",
    "{{ 'x' | center(1000000000) }}": "longer than",
    "{{ 'x'.ljust(1000000000) }}": "longer than",
    "{{ 'x'.rjust(1000000000) ~ 'x'.center(1000000000) ~ 'x'.zfill(1000000000) }}": "longer than",
    "{{ '\t'.expandtabs(1000000000) }}": "longer than",
    "{{ 'x\ny' | indent(1000000000) }}": "longer than",
    "{{ [[1]] | tojson(indent=1000000000) }}": "indents JSON",
    "{{ ('x' * 1000000) | replace('x', 'y' * 1000000) }}": "longer than",
    "{{ ('x' * 1000000).replace('x', 'y' * 1000000) }}": "longer than",
    "{{ (['x'] * 100000) | join('y' * 100000) }}": "longer than",
    "{{ ('y' * 100000).join(['x'] * 100000) }}": "longer than",
    "{{ ('x' * 1000000).translate({120: 'y' * 1000000}) }}": "which no prompt needs",
    "{{ 'x'.encode().ljust(1000000000) }}": "which no prompt needs",
    "{{ 1.5 | round(1000000000, 'ceil') }}": "No filter named 'round'",
}


@pytest.mark.parametrize("template", FAILING)
def test_a_bad_template_is_a_fault(template: str, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=FAILING[template]):
        templated(tmp_path, template).render_chat(CHAT)


def test_templates_have_what_the_hub_expects(tmp_path: Path) -> None:
    text = "{% for m in messages %}\n    {% if loop.index > 1 %}{% break %}{% endif %}\n{{ m | tojson }}\n{% endfor %}"
    assert templated(tmp_path, text).render_chat(CHAT) == '{"role": "system", "content": "Be brief."}\n'
    with pytest.raises(Fault, match="no role"):
        templated(tmp_path, text).render_chat([{"content": "x"}])


def test_templates_may_do_what_templates_do(tmp_path: Path) -> None:
    text = (
        "{% set a = ['x', 'y'] + ['z'] %}{{ a | join('-') }} {{ a | length }} {{ '%s=%d' % ('n', 3) }} {{ 7 % 4 }} "
        "{{ 'a' ~ 1 ~ none }} {{ '{}:{:>3}'.format('k', 5) }} {{ 'x\ny' | indent(2) }} {{ ' b ' | trim | upper }} "
        "{{ messages | map(attribute='role') | join(', ') }} {{ messages | join('+', attribute='role') }} "
        "{{ 'aXa'.replace('a', 'b').split('X') }} {{ 'q' | center(3) }}{% set s %}t{{ 1 }}{% endset %}{{ s }} "
        "{{ '%s%%' | format(5) }} {{ messages[0] | tojson(indent=2) }} {{ 2 * 3 + 1 }}{{ '=' * 3 }} "
        "{{ (messages | selectattr('role', 'equalto', 'user') | list | first).role }} {{ 'ab'.join(['1', '2']) }}"
    )
    found = templated(tmp_path, text).render_chat(
        [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    )
    assert found == (
        "x-y-z 3 n=3 3 a1None k:  5 x\n  y B system, user system+user ['b', 'b']  q t1 5% "
        '{\n  "role": "system",\n  "content": "s"\n} 7=== user 1ab2'
    )


GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"
)


def test_a_template_without_a_system_role_gets_its_text_before_the_question(tmp_path: Path) -> None:
    tokenizer = templated(tmp_path, GEMMA)
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?</s>"}
    assert tokenizer.render_chat([system, user]) == "<user>Be brief.\n\nWho?</s></s>"
    ids = tokenizer.encode_chat([system, user])
    assert ids.count(4) == 1 and ids[-1] == 4, "the spelling in the question ends no turn"
    empty: dict[str, Any] = {**system, "content": None}
    for refused in ([system], [system, system, user], [user, user], [empty, user]):
        with pytest.raises(Fault, match=r"System role not supported|alternate"):
            tokenizer.render_chat(refused)
