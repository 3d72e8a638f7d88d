"""A module that takes five seconds to import, as torch does."""

import time

from fakes.trials import take_a_second

time.sleep(5)


def behave(trial, folder, *, threads, **options):
    return take_a_second(trial, folder, threads)
