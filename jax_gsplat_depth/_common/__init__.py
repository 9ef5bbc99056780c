"""Holds what several packages share: extras, files and folders, fusion, colours, rotations."""
