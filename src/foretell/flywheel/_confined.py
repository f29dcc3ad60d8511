"""The child's side of the sandbox: lock this process in, then run one program on one task.

Started by path, without site-packages, so nothing of foretell is imported here. It is given the
task as JSON on standard input, and two pipes: one to write lines of JSON to, one that holds a nonce
and is read only after the program has ended well.

What locks a process in (on Linux for x86-64 and 64-bit ARM), all of it without any privilege:

* limits (``setrlimit``) on processor time, address space, open files, and files: none may grow;
* a seccomp filter: no other process, no socket, no signal to others, no tracing, nothing that
  changes a file's owner, mode or times, and no system call younger than this list;
* Landlock: only Python's own library, what the system keeps in ``/usr/lib``, and the time zones can
  be opened, for reading alone.

A process that runs as root gives up its privileges, too, and becomes *nobody* where one of the two
is missing.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import stat
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_NOBODY = 65534
_OPEN_FILES = 64

# Classic BPF (linux/filter.h), and where seccomp_data has the number, architecture, first argument.
_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER_AT, _MACHINE_AT, _ARGUMENT_AT = 0, 4, 16
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_CLONE_THREAD = 0x00010000
_NEWEST_CALL = 462  # mseal; a later one may do anything

_CAPABILITIES = 0x20080522  # version 3 of their format (linux/capability.h)
_SET_SECCOMP, _NO_NEW_PRIVILEGES, _FILTER_MODE = 22, 38, 2

# By machine: AUDIT_ARCH, and the numbers of clone, clone3, prlimit64, and of all that is refused.
_CALLS: Mapping[str, tuple[int, int, int, int, tuple[int, ...]]] = {
    "x86_64": (
        0xC000003E,
        56,
        435,
        302,
        (
            # socket, fork, vfork, execve, execveat, kill, tkill, tgkill, (rt_)sigqueueinfo, pidfd_*
            *(41, 57, 58, 59, 322, 62, 200, 234, 129, 297, 424, 434, 438),
            # ptrace, process_vm_*, kcmp, unshare, setns, mount, umount2, pivot_root, chroot
            *(101, 310, 311, 312, 272, 308, 165, 166, 155, 161),
            # bpf, perf_event_open, userfaultfd, io_uring_*, keys, personality
            *(321, 298, 323, 425, 426, 427, 248, 249, 250, 135),
            # memory that no limit counts: shmget, msgget, semget, mq_open, memfd_create, _secret
            *(29, 68, 64, 240, 319, 447),
            # the scheduling of others: setpriority, sched_set*, ioprio_set
            *(141, 142, 144, 203, 314, 251),
            # chmod, chown, utime and their like, extended attributes
            *(90, 91, 268, 452, 92, 93, 94, 260, 132, 235, 261, 280),
            *(188, 189, 190, 197, 198, 199),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        220,
        435,
        261,
        (
            *(198, 221, 281, 129, 130, 131, 138, 240, 424, 434, 438),
            *(117, 270, 271, 272, 97, 268, 40, 39, 41, 51),
            *(280, 241, 282, 425, 426, 427, 217, 218, 219, 92),
            *(194, 186, 190, 180, 279, 447),
            *(140, 118, 119, 122, 274, 30),
            *(52, 53, 452, 54, 55, 88),
            *(5, 6, 7, 14, 15, 16),
        ),
    ),
}

# Landlock (linux/landlock.h); its calls have one number on every machine.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")
_DEVICES = ("/dev/null", "/dev/urandom", "/dev/zero")


def confine(limits: Mapping[str, int]) -> list[str]:
    """Lock this process in and return what it could be locked in with; there is no way back.

    ``limits`` are ``cpu_s`` and ``memory_bytes``. ``seccomp`` and ``landlock`` are in the answer
    where this kernel has them.
    """
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
    ):
        _limit(kind, value)
    if len(os.listdir("/proc/self/task")) != 1:  # noqa: PTH208 (pathlib costs 10 ms at start)
        raise RuntimeError("the locks would hold one thread of several")
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    locks = {"landlock": _allow_only_reading, "seccomp": _filter_calls}
    done = [name for name, lock in locks.items() if lock(library)]
    if os.geteuid() == 0:
        _stop_being_root(locked_in=len(done) == 2)
    if "seccomp" not in done:
        # Counts all processes of the user, so this says: no more of them.
        _limit(resource.RLIMIT_NPROC, 0)
    return done


def _stop_being_root(*, locked_in: bool) -> None:
    """Give up every privilege; where nothing else locks the process in, the user, too.

    The locks alone would not do for root, and the user alone not for a Python that only root can
    read, as in many containers.
    """
    if locked_in:
        library = ctypes.CDLL(None, use_errno=True)
        if library.capset(struct.pack("Ii", _CAPABILITIES, 0), bytes(24)) == 0:
            return
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    # The processor's limit asks first and kills a second later.
    above = value + 1 if kind == resource.RLIMIT_CPU else value
    resource.setrlimit(kind, (value, above if hard == resource.RLIM_INFINITY else min(above, hard)))


def _allow_only_reading(library: ctypes.CDLL) -> bool:
    version = library.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    rights = _FILE_RIGHTS[max(known for known in _FILE_RIGHTS if known <= version)]
    # Version 4 knows TCP (bind, connect), 6 keeps signals and abstract sockets within.
    attributes = struct.pack("QQQ", rights, 3, 3)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = library.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if rules < 0:
        return False
    try:
        own = (*sys.path, f"{sys.base_prefix}/lib")
        for path in (*own, *_SYSTEM_LIBRARIES, *_DEVICES):
            _allow_reading(library, rules, path)
        return library.syscall(_RESTRICT_SELF, rules, 0) == 0
    finally:
        os.close(rules)


def _allow_reading(library: ctypes.CDLL, rules: int, path: str) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no rule
    try:
        rights = _READ_FILE | (_READ_FOLDER if stat.S_ISDIR(os.fstat(opened).st_mode) else 0)
        library.syscall(_ADD_RULE, rules, 1, struct.pack("=Qi", rights, opened), 0)
    finally:
        os.close(opened)


def _filter_calls(library: ctypes.CDLL) -> bool:
    known = _CALLS.get(platform.machine())
    if known is None or sys.maxsize < 1 << 32:
        return False
    program = _filter(*known)
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    return library.prctl(_SET_SECCOMP, _FILTER_MODE, header, 0, 0) == 0


def _filter(machine: int, clone: int, clone3: int, prlimit: int, refused: Sequence[int]) -> bytes:
    """The filter as the kernel wants it; each of its jumps counts instructions to skip."""
    absent, forbidden = _ERRNO | errno.ENOSYS, _ERRNO | errno.EPERM
    rules = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 1, 0, machine),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_GREATER, 0, 1, _NEWEST_CALL),
        (_RETURN, 0, 0, absent),
        # Its flags cannot be looked at; the C library falls back to clone.
        (_EQUAL, 0, 1, clone3),
        (_RETURN, 0, 0, absent),
    ]
    for number in refused:
        rules += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, forbidden)]
    rules += [
        # A thread is fine, a process is not.
        (_EQUAL, 0, 3, clone),
        (_LOAD, 0, 0, _ARGUMENT_AT),
        (_ANY_BIT, 4, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, forbidden),
        # Its own limits are fine, those of another process are not.
        (_EQUAL, 0, 2, prlimit),
        (_LOAD, 0, 0, _ARGUMENT_AT),
        (_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, forbidden),
    ]
    return b"".join(struct.pack("HBBI", *rule) for rule in rules)


def main() -> None:
    """Run the program ``argv[1]``; report to pipe ``argv[2]``, the nonce is in ``argv[3]``."""
    path, report_to, nonce_in = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    write, read, encode, leave = os.write, os.read, json.dumps, os._exit
    task = json.load(sys.stdin)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)

    def report(**facts: Any) -> None:
        left = encode(facts).encode() + b"\n"
        while left:
            left = left[write(report_to, left) :]

    program: dict[str, Any] = {"__name__": "program"}
    with open(path, encoding="utf-8") as source:  # noqa: PTH123 (pathlib costs 10 ms at start)
        exec(compile(source.read(), path, "exec"), program)  # noqa: S102 (it is our own)
    run: Callable[..., bool] = program["prepare"](task)
    confined = confine(task["limits"])
    lacks = [lock for lock in task["needs"] if lock not in confined]
    report(lacks=lacks)
    if not lacks and run(report):
        report(done=read(nonce_in, 64).decode())
    leave(0)


if __name__ == "__main__":
    main()
