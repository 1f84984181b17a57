"""Speed: races between openbook and its rivals, run by turns on one machine (docs/speed.md).

races.py, entrants.py   what races there are, who runs in them, what they must reach
rounds.py               the turns
environments.py         rivals, each installed in its own virtual environment
process.py, workers/    contestants, each a process that stays loaded
material.py, files.py   the texts they read, the files of weights they load
report.py, plot.py      tables and a plot
"""
