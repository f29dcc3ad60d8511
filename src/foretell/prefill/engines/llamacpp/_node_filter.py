"""A callback in machine code that lets only the nodes worth a look through to Python.

A graph has hundreds of nodes and llama.cpp asks about each. A Python callback must take the
interpreter's lock each time, so one busy Python thread in the process makes a token ten times
slower (figures in ``docs/decisions/0002-node-filter.md``). These 34 bytes answer "no" for every
node that is not named ``l_out-…``, and for all of them while nothing is wanted, without the lock.

Elsewhere than x86-64 with the System V convention, and where memory may not be made executable,
there is no filter and Python answers every node: slower under contention, otherwise the same.
"""

from __future__ import annotations

import ctypes as c
import mmap
import platform
from typing import Any, Final

# The arguments are rdi = tensor, esi = ask, rdx = user data: {u8 armed, pad, void *callback}.
_X86_64: Final = bytes.fromhex(
    "803a00"  #               cmp  byte ptr [rdx], 0
    "741a"  #                 je   no
    "81bf000100006c5f6f75"  # cmp  dword ptr [rdi + 256], "l_ou"
    "750e"  #                 jne  no
    "6681bf04010000742d"  #   cmp  word ptr [rdi + 260], "t-"
    "7503"  #                 jne  no
    "ff6208"  #               jmp  [rdx + 8]
    "31c0"  #             no: xor  eax, eax
    "c3"  #                   ret
)
_READ_AND_RUN: Final = 1 | 4


class _UserData(c.Structure):
    _fields_ = [("armed", c.c_uint8), ("callback", c.c_void_p)]


class NodeFilter:
    """Stands between llama.cpp and a Python callback. Must outlive the context."""

    def __init__(self, callback: Any) -> None:
        self._callback = callback  # kept alive: C holds only its address
        address = c.cast(callback, c.c_void_p).value
        self._user = _UserData(0, address)
        self._code = _executable(_X86_64) if _supported() else None
        self.native = self._code is not None
        self.address = (
            address if self._code is None else c.addressof(c.c_char.from_buffer(self._code))
        )

    @property
    def user_data(self) -> int:
        """What the context must hand to the callback."""
        return c.addressof(self._user)

    def arm(self, armed: bool) -> None:
        """Whether nodes are let through at all."""
        self._user.armed = armed


def _supported() -> bool:
    return platform.machine() in ("x86_64", "AMD64") and platform.system() in ("Linux", "Darwin")


def _executable(code: bytes) -> mmap.mmap | None:
    """The code in memory that may be run but no longer written; ``None`` where that is refused."""
    try:
        memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        memory.write(code)
        address = c.addressof(c.c_char.from_buffer(memory))
        protect = c.CDLL(None, use_errno=True).mprotect
    except (OSError, AttributeError, ValueError):
        return None
    protect.argtypes, protect.restype = [c.c_void_p, c.c_size_t, c.c_int], c.c_int
    return memory if protect(address, mmap.PAGESIZE, _READ_AND_RUN) == 0 else None
