"""x"""
from __future__ import annotations
def adapted(found, remote):
    return found.body, found.shown
