"""A conversation with the model alone: no book, no passage, one source. The same machinery as an answer from a book, so
its probabilities and evidence are of the same kind: every token's responsibility is the closed book's.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

from openbook.answer.answer import Answer, Token
from openbook.answer.complete import Completion
from openbook.lm.cache.beginnings import Beginnings
from openbook.lm.model import LanguageModel
from openbook.lm.weights.chat import Message
from openbook.mix.settings import Settings
from openbook.mix.sources.retrieved import Frame, Lookup, Retrieval


def tokens_of_chat(
    model: LanguageModel,
    messages: Sequence[Message],
    settings: Settings | None = None,
    beginnings: Beginnings | None = None,
) -> Generator[Token, None, Answer]:
    """The tokens of the model's reply as they are written; the generator returns the whole.

    `messages` (`role`, `content`) go through the model's chat template, in which none of them can spell a control
    token. Of the settings those of writing count (`openbook.answer.complete`). What `beginnings` has of other chats
    with this model is not read again; it changes no bit of the reply. Raises `Fault` where the template refuses the
    messages, or they do not fit the context.
    """
    settings = settings or Settings()
    begun = model.tokenizer.encode_chat(messages)
    asked = str(messages[-1].get("content", "")) if messages else ""
    stops = () if settings.constraint is not None else model.tokenizer.turn_ends
    # What stands before the text is in the text: the template wrote it. All of it is read, or the request is refused.
    frame = Frame(lambda passage, most: [], asked or " ", range(len(begun)))
    retrieval = Retrieval(passage_tokens=1, context=model.spec.max_positions)
    lookup = Lookup(model, None, None, retrieval, None, frame, beginnings)
    completion = Completion(lookup, replace(settings, stop=(*settings.stop, *stops)), begun=begun)
    return completion.stream(asked)
