"""`jetrunner dead`: the tasks that were given up. Each of its commands lives in a module of its own."""

from cyclopts import App

from .dead_ls import ls
from .dead_retry import retry
from .dead_rm import rm
from .dead_show import show

dead = App(name="dead", help="List, show, retry and remove tasks that were given up.")
for _command in (ls, show, retry, rm):
    dead.command(_command)
