"""What runs on the remote host.

Everything in this folder is sent as source over the SSH channel's stdin (see
``fabremote.bootstrap``) and executed there, so it is written in the Python 3.6
dialect, imports only the standard library and its own siblings, and prefers
the small C modules (``_pickle``, ``_signal``) to their slower-to-import faces.

::

    supervisor  one process per connection and interpreter; forks, relays, kills
       | fork per call, pipes
    worker      loads the call, runs it, answers
       |-- loader    builds functions, classes and modules from the payload
       |-- bundle    takes what is sent beside the call, and asks for what wasn't
       |-- answers   turns the result into data: primitives and (tag, args)
       |     |-- kinds, kinds_arrays   which standard objects are data, and how
       |-- paths     names the place of an object inside another
    wire        the frames between the two hosts; used by both

*Extras* are sent only before the first call that needs them, and are then part
of the agent: ``classes`` makes the caller's classes, ``importing`` its own
modules importable, ``class_sources`` shows classes to ``inspect``, ``standins``
stands for the caller's libraries, ``third_party`` makes what is NumPy's and pandas';
``streaming`` gives a generator's items, ``incoming`` takes those of the caller's
iterators, ``lasting`` serves one call after another, whose ``turns`` the supervisor
keeps, ``terminal`` is that of ``pty=True``, ``records`` sends what is logged.

Python floor: 3.6. The tests run this folder under every interpreter found from
that floor up.
"""
