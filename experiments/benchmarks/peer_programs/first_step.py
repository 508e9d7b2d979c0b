"""A peer from `python` to the first finished step of 002, its own initial values.

python first_step.py with_linen
"""

import importlib
import sys

import workloads
from worker import say_started

peer = importlib.import_module(sys.argv[1])
work = workloads.make_work("imdb-002", updates=1)
program = peer.train(work)
program.check(0)
say_started()
