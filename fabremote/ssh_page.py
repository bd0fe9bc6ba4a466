"""Prints docs/ssh_options.md: ``python -m fabremote.ssh_page``."""

from __future__ import annotations

import sys

from fabremote.ssh_reference import reference

if __name__ == "__main__":
    sys.stdout.write(reference())
