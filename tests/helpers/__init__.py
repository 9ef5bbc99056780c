"""Holds what tests share: scenes, the float64 reference, comparisons, backends, captures, files."""
