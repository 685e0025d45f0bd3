"""`jetrunner schedule`: the tasks that wait for their time. Each of its commands lives in a module of its own."""

from cyclopts import App

from .schedule_ls import ls
from .schedule_rm import rm

schedule = App(name="schedule", help="List and remove tasks that wait for their time.")
for _command in (ls, rm):
    schedule.command(_command)
