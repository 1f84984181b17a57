"""Members on a server: what it tells is exact, what it does not tell is bounded, and it can do no harm.

The server is our own, on this machine, and knows a distribution that depends on the text.
"""

import json
import math
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from openbook.answer.committee import Together, write_together
from openbook.answer.deliberation import Deliberation, least_risk
from openbook.answer.seats import Seat, local
from openbook.errors import Fault
from openbook.lm.decoding.asked import AskedRows
from openbook.lm.decoding.bytewise import END, Bytewise
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.remote import MOST_BYTES, Remote

DRAWN = Sampling(temperature=1.0, seed=5)
TOKENS = ("a", "b", "ab", " ab", "é", "<|im_end|>")


def told(text: str) -> dict[str, float]:
    """p of every token after a text."""
    logits = np.random.default_rng(len(text) + 7 * text.count("b")).normal(size=len(TOKENS))
    p = np.exp(logits) / np.exp(logits).sum()
    return dict(zip(TOKENS, p.tolist(), strict=True))


def log_begins(text: bytes, said: str = "", ended: bool = False) -> float:
    """log P(text begins so [and ends there]), by enumeration."""
    if len(said.encode()) >= len(text) and not ended:
        return 0.0 if said.encode().startswith(text) else -math.inf
    if not text.startswith(said.encode()):
        return -math.inf
    p = told(said)
    if said.encode() == text:
        return math.log(p["<|im_end|>"])
    paths = [math.log(p[t]) + log_begins(text, said + t, ended) for t in TOKENS[:-1]]
    return float(np.logaddexp.reduce(paths))


class Server(BaseHTTPRequestHandler):
    """Answers `/completions` in either form, and `/chat/completions`."""

    form, seen = "list", []
    prompt = ""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).seen.append((self.path, asked, self.headers.get("Authorization")))
        if self.path.endswith("/chat/completions"):
            said = {"choices": [{"message": {"content": " Paris. "}}], "usage": {"prompt_tokens": 9}}
            said["usage"]["completion_tokens"] = 3
        else:
            text = asked["prompt"][len(type(self).prompt) :]
            best = sorted(told(text).items(), key=lambda pair: -pair[1])[: asked["logprobs"]]
            said = {"choices": [{"text": "", "logprobs": self.shown(best)}]}
        self.reply(json.dumps(said).encode())

    def shown(self, best):
        if type(self).form == "dict":
            return {"top_logprobs": [{token: math.log(p) for token, p in best}]}
        entries = [{"token": token, "bytes": list(token.encode()), "logprob": math.log(p)} for token, p in best]
        return {"content": [{"token": "", "top_logprobs": entries}]}

    def reply(self, body, status=200, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def serving(handler, **fields):
    kind = type("Handler", (handler,), {"seen": [], **fields})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", kind
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("form", ["list", "dict"])
def test_where_all_is_told_bytes_equal_enumeration(form):
    with serving(Server, form=form) as (address, _):
        bytewise = Bytewise(AskedRows(Remote(f"{address}/v1", "m"), ""), least=0)
        text = "abé abb".encode()
        for n, byte in enumerate(text):
            log_p, log_here = bytewise.log_p(), log_begins(text[:n])
            assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-9)
            assert log_p[byte] == pytest.approx(log_begins(text[: n + 1]) - log_here, abs=1e-9)
            try:
                text[:n].decode()
                assert log_p[END] == pytest.approx(log_begins(text[:n], ended=True) - log_here, abs=1e-9)
            except UnicodeDecodeError:
                assert log_p[END] == -math.inf
            bytewise.step(byte)


@pytest.mark.parametrize("top", [1, 2, 3, 5])
def test_what_is_not_told_is_bounded(top):
    """The first byte: the truth lies between what is told and that with all the rest. Later ones: the told mass is no
    more than the truth, and with all that was ever untold no less."""
    text = b"abab"
    with serving(Server) as (address, _):
        bytewise = Bytewise(AskedRows(Remote(address + "/v1", "m", top=top), ""), least=0)
        known, rest = bytewise.log_known(), bytewise.unknown
        assert rest == pytest.approx(1 - sum(sorted(told("").values())[-top:]))
        for byte in range(256):
            truth = math.exp(log_begins(bytes([byte])))
            assert math.exp(known[byte]) - 1e-9 <= truth <= math.exp(known[byte]) + rest + 1e-9
        for n, byte in enumerate(text):
            if bytewise.width == 0 or bytewise.unknown > 0.5:
                break  # from here on the text is taken for told
            assert bytewise.log_lower - 1e-9 <= log_begins(text[:n]) <= bytewise.log_upper + 1e-9
            assert np.exp(bytewise.log_p()).sum() == pytest.approx(1, abs=1e-9)
            bytewise.step(byte)


def test_a_text_that_was_not_told_is_gone_on_with():
    """One token told, and another member writes something else: the server is asked again, and knows again."""
    with serving(Server) as (address, kind):
        bytewise = Bytewise(AskedRows(Remote(address + "/v1", "m", top=1), ""), least=0.01)
        for byte in "né ab".encode():
            bytewise.step(byte)
            assert np.exp(bytewise.log_p()).sum() == pytest.approx(1, abs=1e-9)
        assert bytewise.width > 0 and any(asked["prompt"] == "né ab" for _, asked, _ in kind.seen)


def test_a_committee_of_a_server_and_a_model_says_what_was_untold(tiny_model):
    with serving(Server) as (address, kind):
        remote = Seat("served", Remote.named(f"{address}#m"))
        kind.prompt = Seat.messages(remote, "Who?", ())[0]["content"] + "\n\nQuestion: Who?\n\nAnswer:"
        object.__setattr__(remote.model, "top", 3)
        together = write_together(Together([Seat("tiny", tiny_model), remote], "Who?", (), "auto", DRAWN, 3))
        assert kind.seen[0][1]["prompt"] == kind.prompt
    facts = together.to_dict()
    assert facts["how"] == "bytes" and facts["untold"] > 0
    assert facts["sources"][1]["address"] == f"{address}/v1"
    for token in facts["tokens"]:
        assert 0 <= token["lower"] <= token["p"] <= token["upper"] <= 1
    assert facts["bits"]["mixture"] <= facts["bits"]["allowed"] + 1e-4
    with pytest.raises(Fault, match="over bytes"):
        local(remote)
    with pytest.raises(Fault, match="over bytes"):
        write_together(Together([remote], "Who?", how="tokens"))


def test_a_server_answers_whole(tiny_model):
    with serving(Server) as (address, kind):
        seat = Seat("served", Remote(address + "/v1", "m", key="secret"))
        asked = Deliberation([seat, Seat("tiny", tiny_model)], "Capital of France?", max_tokens=4)
        said = asked.draw(2)
        assert [each.text for each in said if each.member == "served"] == ["Paris.", "Paris."]
        assert asked.cost.read > 18 and least_risk(said).text == "Paris."
        paths, bodies, keys = zip(*kind.seen, strict=True)
        assert set(paths) == {"/v1/chat/completions"} and set(keys) == {"Bearer secret"}
        assert [body["temperature"] for body in bodies] == [0.0, 0.7]


class Bad(Server):
    """Does what `deed` says."""

    deed = None

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).deed(self)


def drip(server):
    server.send_response(200)
    server.end_headers()
    with suppress(OSError):
        while True:
            server.wfile.write(b" ")
            time.sleep(0.05)


def completion(logprobs):
    return lambda server: server.reply(json.dumps({"choices": [{"logprobs": logprobs}]}).encode())


def entries(*pairs):
    return completion({"content": [{"top_logprobs": [{"token": t, "logprob": p} for t, p in pairs]}]})


DEEDS = {
    "status 500: no": lambda server: server.reply(b"no\x1b[31m", 500),
    "status 302": lambda server: server.reply(b"", 302, [("Location", "http://127.0.0.1:9/")]),
    "within 0.3 s": drip,
    "longer than": lambda server: server.reply(b" " * (MOST_BYTES + 9)),
    "JSON: NaN": lambda server: server.reply(b'{"a": NaN}'),
    "not answer in JSON": lambda server: server.reply(b"[" * 100_000),
    "no object": lambda server: server.reply(b"[]"),
    "no log-prob": completion(None),
    "sum to": entries(("a", -0.1), ("b", -0.1)),
    "no log-probability": entries(("a", 0.7)),
    "is no log-probability": entries(("a", "b")),
    "OverflowError": entries(("a", -(10**400))),
    "AttributeError": entries((5, -1.0)),
    "UnicodeEncodeError": entries(("\ud800", -1.0)),
    "ValueError": completion({"content": [{"top_logprobs": [{"token": "a", "bytes": [999], "logprob": -1.0}]}]}),
}


@pytest.mark.parametrize("message", DEEDS)
def test_a_server_that_misbehaves_is_a_fault_in_one_line(message):
    with serving(Bad, deed=staticmethod(DEEDS[message])) as (address, _):
        remote = Remote(address + "/v1", "m", seconds=0.3)
        with pytest.raises(Fault, match=message) as fault:
            remote.told("x")
        assert "\n" not in str(fault.value)


def test_nobody_there_is_a_fault():
    with serving(Server) as (address, _):
        pass
    with pytest.raises(Fault, match="cannot be asked"):
        Remote(address + "/v1", "m").told("x")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://a/v1#m", "no address"),
        ("http:///v1#m", "no address"),
        ("http://a:99999/v1#m", "no address"),
        ("http://me:pw@a/v1#m", "no address"),
        ("http://[::1/v1#m", "no address"),
        ("http://a..b/v1#m", "no address"),
        ("http://a/é#m", "no address"),
        ("http://a/v 1#m", "no address"),
        ("http://a/v1\n/x#m", "no address"),
        ("http://a:0/v1#m", "no address"),
        ("http://a/v1?x=1#m", "leave that out"),
        ("http://a/v1", "which model"),
    ],
)
def test_what_is_no_address_is_refused(address, message):
    with pytest.raises(Fault, match=message):
        Remote.named(address)


def test_half_a_character_in_an_answer_is_no_character():
    reply = json.dumps({"choices": [{"message": {"content": "a\ud800"}}]}).encode()
    with serving(Bad, deed=staticmethod(lambda server: server.reply(reply))) as (address, _):
        said = Remote(address + "/v1", "m").chat([], temperature=0, seed=0, max_tokens=1)
    assert said.text.encode() == b"a?"


def test_a_key_is_not_sent_in_the_clear_and_not_shown():
    with pytest.raises(Fault, match="line break") as fault:
        Remote("https://example.org/v1", "m", key="secret\n")
    assert "secret" not in str(fault.value)
    with pytest.raises(Fault, match="in the clear"):
        Remote("http://example.org/v1", "m", key="secret")
    assert "secret" not in repr(Remote("https://example.org/v1", "m", key="secret"))
    assert Remote.named("http://127.0.0.1:1#m").address == "http://127.0.0.1:1/v1"
