"""The scheduler of ``map`` and ``submit``: a pure state machine, events in and commands out.

No sockets, no clock (time is an argument), no threads, no payloads: jobs are integers in *groups* (one map
call or one submit stream each), and travel in *chunks* (ranges of one group's jobs). A job belongs to the
client until its outcome is in. What becomes of one:

===========  ==========================================  =============  =====================================
a job is     event                                       it becomes     commands, remarks
===========  ==========================================  =============  =====================================
(source)     ``tick``: little waits, consumer keeps up   (source)       ``Pull``
(source)     ``feed``                                    queued
queued       ``tick``: its group's turn, a window open   sent           ``Send``, ``attempt`` 1 if surely new
queued       ``tick``: exclusive, and no worker is idle  held           sent when that worker is idle
queued       ``cancel``                                  ended          cancelled
held         ``cancel``, worker lost or suspended,       queued
             another worker idle
sent         ``results``                                 ended          deliver it; done or failed
sent         ``results(retry=)``, attempts left          queued         charged; do not deliver it
sent         ``results(retry=)``, no attempts left       ended          deliver the exception; failed
sent         ``tick``: one idle, nothing queued          sent           ``Revoke``: only asks
sent         ``revoked``                                 queued         uncharged, nothing ran
sent         ``lose_worker``: it was the one running     queued, alone  charged
sent         the same, no attempts left                  ended          ``Fail("lost")``
sent         ``lose_worker``: not the one running        queued         uncharged; alone if it may be guilty
sent         ``cancel``                                  stopped        ``Revoke``; ``Interrupt`` if it runs
sent         ``tick``: ran for ``job_timeout``           stopped        ``Fail("timeout")``, ``Interrupt``
stopped      ``tick``: still runs after a grace          stopped        ``Kill``
stopped      ``results``, ``revoked``, ``lose_worker``   ended          never delivered, nobody charged
ended        any late message                            ended          ignored: ``results`` returns ``None``
===========  ==========================================  =============  =====================================

A group whose source is exhausted ends with ``Finished``. A worker is *idle*, has *one* chunk, has *more* (with so
little work in them that chunks of a given size may follow), is *busy* with somebody else's cell (a few may wait),
or is *shut* (window full, suspended, or kept for an exclusive chunk); they are chosen in that order.

Which job ran when a worker died: a worker runs its chunks, and the jobs in them, in the order sent, so it is
the oldest without an outcome (``losses`` tells what if outcomes died with the worker). It alone is charged; it
and what was there with it run alone from then on, until it is clear who killed.

The executor's part, once per round of its loop: report what has come, ``tick``, carry out the commands at once and
in order (those to a worker that it has declared lost meanwhile are void), and sleep no longer than until
``next_deadline``. Of a worker it needs: results, ``started`` and answers to ``Revoke`` arrive in the order in which
they were made; the last outcomes of a chunk are sent before the next chunk begins; ``Revoke`` and ``Interrupt``
take the same way as ``Send``, or wait for their chunk; everything that arrived from a worker is reported before its
``lose_worker``; ``set_busy`` is told while it runs what is not this client's; with a ``job_timeout``, a job that is
still running at half its limit is reported by ``started``.

Source: DESIGN.md §2; the modules name theirs. Owning thread: one at a time, the executor's I/O thread.
"""

from znb.schedule.records import (
    Attempt,
    Command,
    Fail,
    Finished,
    GroupStats,
    Interrupt,
    Kill,
    Pull,
    Revoke,
    SchedulerStats,
    Send,
    WorkerStats,
)
from znb.schedule.scheduler import Scheduler

__all__ = [
    "Attempt",
    "Command",
    "Fail",
    "Finished",
    "GroupStats",
    "Interrupt",
    "Kill",
    "Pull",
    "Revoke",
    "Scheduler",
    "SchedulerStats",
    "Send",
    "WorkerStats",
]
