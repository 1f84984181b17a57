"""What contestants' processes run: plain files, each of the standard library and its own engine alone.

`worker.py` obeys orders; every other file here is one engine, with a function `open(**task)` that loads what a race
needs and gives back an object with `facts` (a dict) and `run()` (one timed run: a dict with its `value`).
"""
