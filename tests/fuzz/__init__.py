"""Mutates files of every format and feeds them to the readers."""
