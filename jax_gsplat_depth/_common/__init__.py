"""Helpers that several packages share: optional libraries, files that appear whole, colours."""
