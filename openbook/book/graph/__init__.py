"""The graph of a book: who and what its documents name, what stands together, and walking from passage to passage.

    from openbook.book.graph import open_graph
    from openbook.book.communities import communities

    graph = open_graph(book, progress=None)            # Graph at the book's version; extracts what is new (no model)
    len(graph)                                          # E, entities; each has a number, by normal form
    graph.entity(n) -> Entity(number, name, kind, forms, sentences, passages, informative)
    graph.find("Kevin Scott") -> Entity | None          # by any form or alias
    graph.mentioned(text) -> [number, …]                # the entities that a question names
    graph.relations(n=None, most=None) -> [Relation(a, b, weight, sentences), …]      # weightiest first
    graph.sentences_of(a, b) -> [sentence number, …]    # what makes the relation
    graph.sentences(numbers) -> [Sentence(document, start, end, text, passage id), …]
    graph.places.ids                                    # ids of the P passages; book.passage(id) reads one
    graph.derived.count_PE, .said_SE                    # sparse: mentions in passages; which sentences say an entity
    graph.derived.passage_S, .spans_S2                  # each sentence's passage, and its characters

    found = communities(graph, seed=0)                  # Communities; the same graph gives the same ones
    found.levels; found.level(0) -> [Community(number, level, parent, children, entities, weight), …]
    found.report(c, sentences=8) -> Report(community, title, entities, sentences: [Sentence], covered)
    found.scores(c) -> [S]                              # how much each sentence carries of a community

    from openbook.book.graph.asking import Extracting, ask, choose, estimate

    estimate(book, model) -> Asking(calls, read, written, …)        what asking a model what is named would take
    choose(book, Extracting(how="both", made=model.made)); ask(book, model, budget=None, told=None) -> Asking
    graph.told(a, b) -> [Tied(a, b, first, last, what), …]          what a model said of a relation; its sentences

`find(book, query, by="graph")` walks (`openbook.book.graph.walk`), `by="pagerank"` goes all ways at once.
"""

from openbook.book.graph.graph import Entity, Graph, Relation, Sentence
from openbook.book.graph.opened import open_graph

__all__ = ["Entity", "Graph", "Relation", "Sentence", "open_graph"]
