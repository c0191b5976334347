"""The tests of edgers.

Each parallel worker keeps to one core, with all threads that it and its libraries start: two workers with two
threads each on two cores wait for each other most of the time.
"""

import os

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
