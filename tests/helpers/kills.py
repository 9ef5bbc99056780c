"""Kills a piece of code before any of its steps on the disk, as if the process were gone."""

import contextlib
import os

import pytest

STEPS = ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "fsync")
"""The functions of ``os`` before which to kill; what ``fsync`` waits for is no matter here."""


class Killed(BaseException):
    """What code must not catch, like a signal that ends the process."""


def kill_before(number, run, *arguments):
    """Call a function and kill it before its step ``number``, counted from 1.

    Cleaning up on the way out fails as well: a process that is gone does nothing more.

    Returns:
        Whether there was such a step.
    """
    count = 0
    os_fsync = os.fsync

    def killing(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count >= number:
                raise Killed
            return None if function is os_fsync else function(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        for name in STEPS:
            patch.setattr(os, name, killing(getattr(os, name)))
        run(*arguments)
    return count >= number
