"""Floor 5: faces for other programs and for people: HTTP as OpenAI's clients speak it, the page, MCP."""
