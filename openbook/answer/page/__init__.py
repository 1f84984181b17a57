"""The page an answer is read on: its template, style and script, and the reading that both faces show."""
