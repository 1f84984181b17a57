"""The official openai client, LangChain's and LlamaIndex's, unchanged, against a live server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from live_server import QUESTION, Server, book_of, needs_models, openai_client, serving

pytest.importorskip("fastapi", reason="the server needs fastapi")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    needs_models()
    with serving(book_of(tmp_path_factory.mktemp("served"))) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    return openai_client(server)


def ask(client: Any, model: str = "openbook:notes", question: str = QUESTION, **more: Any) -> Any:
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model=model, messages=messages, **more)


def test_openai_an_answer_with_its_citations(client: Any) -> None:
    made = ask(client)
    [choice] = made.choices
    assert "Ingrid Solberg" in choice.message.content and choice.finish_reason == "stop"
    cited = choice.message.annotations[0]
    assert cited.filename == "notes/garden.md" and "Solberg" in cited.cited_text
    assert choice.message.content[cited.start_index : cited.end_index].strip()
    assert made.usage.completion_tokens == len(made.openbook["tokens"])
    assert made.system_fingerprint.startswith("fp_")


def test_openai_the_same_as_it_is_written(client: Any) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ask(client).choices[0].message.content
    tokens = [chunk.openbook["token"] for chunk in chunks if "token" in (chunk.model_extra or {}).get("openbook", {})]
    planted = next(token for token in tokens if "Sol" in token["text"])
    assert planted["responsibility"]["p1"] > 0.9 and planted["bits"] > 3
    assert chunks[-1].usage.total_tokens > 0


def test_openai_several_answers_stops_and_likelihoods(client: Any) -> None:
    drawn = ask(client, n=3, temperature=1.0, seed=4, max_tokens=12, extra_body={"openbook": {"anyway": True}})
    assert [choice.index for choice in drawn.choices] == [0, 1, 2]
    searched = ask(client, n=3, max_tokens=16)
    assert len({choice.message.content for choice in searched.choices}) == len(searched.choices) > 1
    stopped = ask(client, stop=["Ingrid"]).choices[0]
    assert "Ingrid" not in stopped.message.content and stopped.finish_reason == "stop"
    told = ask(client, logprobs=True, top_logprobs=3, max_tokens=4).choices[0].logprobs.content
    assert len(told) == 4 and all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in told)
    assert "".join(token.token for token in told) == bytes(b for token in told for b in token.bytes).decode()


def test_openai_json_of_a_schema(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "year": {"type": "integer"}},
        "required": ["name", "year"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "planted", "schema": schema, "strict": True}}
    made = ask(client, question="Who planted the apple trees, and when?", response_format=form, max_tokens=60)
    found = json.loads(made.choices[0].message.content)
    assert set(found) == {"name", "year"} and isinstance(found["year"], int)


def test_openai_a_conversation(client: Any) -> None:
    messages = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "Ingrid Solberg"},
        {"role": "user", "content": "In which year?"},
    ]
    made = client.chat.completions.create(model="openbook", messages=messages)
    assert "1948" in made.choices[0].message.content
    assert made.openbook["sources"][0]["document"] == "notes/garden.md"


def test_openai_the_model_alone(client: Any) -> None:
    names = [card.id for card in client.models.list()]
    assert names[0] == "openbook:notes" and len(names) == 2
    made = ask(client, model=names[-1], question="Say hello.", max_tokens=16)
    assert made.choices[0].message.content and [s["kind"] for s in made.openbook["sources"]] == ["closed_book"]
    assert client.models.retrieve(names[0]).openbook["book"] == "notes"


def test_openai_the_model_alone_is_told_what_was_kept(client: Any) -> None:
    alone, page = client.models.list().data[-1].id, "The apple trees were planted in 1948 by Ingrid Solberg. " * 12
    first, again = (ask(client, model=alone, question=f"{page} {q}?", max_tokens=4).usage for q in ("Who", "When"))
    assert first.prompt_tokens_details.cached_tokens == 0 and first.prompt_tokens > 128
    kept = again.prompt_tokens_details.cached_tokens
    assert kept % 64 == 0 and kept <= again.prompt_tokens
    read = {"model": alone, "input": f"{page} Who?", "max_output_tokens": 4}
    told = client.responses.create(**read).usage
    assert told.input_tokens == first.prompt_tokens and told.input_tokens_details.cached_tokens >= kept
    metrics = httpx.get(str(client.base_url.join("/metrics"))).text
    assert (kept >= 128) == bool(re.search(r"openbook_engine_kept_bytes{.*} [1-9]", metrics))


def test_openai_an_abstention_says_why(client: Any) -> None:
    made = ask(client, question="What is the boiling point of tungsten?")
    assert made.choices[0].message.content == "" and made.openbook["abstained"] and made.openbook["reason"]


def test_openai_embeddings(client: Any) -> None:
    texts = ["Ingrid planted the trees.", "The comet faded."]
    numbers = client.embeddings.create(model="openbook", input=texts, encoding_format="float")
    packed = client.embeddings.create(model="openbook:notes", input=texts)  # the client asks for base64 and unpacks it
    for one, other in zip(numbers.data, packed.data, strict=True):
        assert len(one.embedding) == 384 and one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert sum(x * x for x in one.embedding) == pytest.approx(1, abs=1e-4)
    assert numbers.usage.prompt_tokens > 5


def test_openai_responses(client: Any) -> None:
    made = client.responses.create(model="openbook", input=QUESTION, instructions="Answer briefly.")
    assert "Solberg" in made.output_text and made.status == "completed"
    assert made.output[0].content[0].annotations[0].type == "file_citation"
    with client.responses.stream(model="openbook", input=[{"role": "user", "content": QUESTION}]) as stream:
        kinds = [event.type for event in stream]
        whole = stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert "response.output_text.annotation.added" in kinds and "Solberg" in whole.output_text


def test_openai_errors_are_its_own(client: Any) -> None:
    import openai

    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        ask(client, model="gpt-4")
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        ask(client, tools=[{"type": "function", "function": {"name": "f"}}])
    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "string", "minLength": 90}}}
    with pytest.raises(openai.APIError, match="allow more tokens"):
        list(ask(client, stream=True, response_format=schema, max_tokens=4))


def test_langchain(server: Server) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="needs langchain-openai")
    model = langchain.ChatOpenAI(base_url=f"{server.address}/v1", api_key="none", model="openbook")
    assert "Solberg" in model.invoke(QUESTION).content
    assert "Solberg" in "".join(chunk.text for chunk in model.stream([("system", "Be brief."), ("human", QUESTION)]))
    assert [("Solberg" in made.content) for made in model.batch([QUESTION, QUESTION])] == [True, True]
    shaped = model.with_structured_output({"title": "planted", "type": "object",
                                           "properties": {"year": {"type": "integer"}}, "required": ["year"]},
                                          method="json_schema")  # fmt: skip
    assert isinstance(shaped.invoke("In which year were the apple trees planted?")["year"], int)
    embed = langchain.OpenAIEmbeddings(
        base_url=f"{server.address}/v1", api_key="none", model="openbook", check_embedding_ctx_length=False
    )
    assert len(embed.embed_query("apple trees")) == 384


def test_llamaindex(server: Server) -> None:
    like = pytest.importorskip("llama_index.llms.openai_like", reason="needs llama-index-llms-openai-like")
    from llama_index.core.llms import ChatMessage

    model = like.OpenAILike(api_base=f"{server.address}/v1", api_key="none", model="openbook", is_chat_model=True)
    assert "Solberg" in model.complete(QUESTION).text
    assert "Solberg" in model.chat([ChatMessage(role="user", content=QUESTION)]).message.content
    *_, last = model.stream_chat([ChatMessage(role="user", content=QUESTION)])
    assert "Solberg" in last.message.content
