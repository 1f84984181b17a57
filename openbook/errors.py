"""Faults that a person can mend. The command line prints one as one line and exits with status 1."""


class Fault(Exception):
    """Something outside the program is wrong; the message says what, where and what to do, in one line."""
