"""Run a script as it would run on Windows, as far as that shows on another system.

python -X warn_default_encoding tests/windows.py SCRIPT ARGUMENT...

For the project's own modules there are no modules and no functions of `os` that Windows lacks, an
encoding that is left to the system is an error, and a file that is open can be neither replaced
nor removed. Paths, drives, the shell and the speed of Windows are not tried.
"""

import builtins
import os
import runpy
import signal
import sys
import types
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = ("losses", "metrics", "training", "ngram", "vision", "scripts", "__main__")
POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios"}
# of `os`, `signal` and `time`: the names in typeshed that are there where sys.platform != "win32"
POSIX_NAMES = {
    *("chown", "chroot", "confstr", "ctermid", "fchdir", "fchmod", "fchown", "fdatasync", "fork"),
    *("forkpty", "fstatvfs", "getegid", "geteuid", "getgid", "getgroups", "getloadavg", "getpgid"),
    *("getpgrp", "getpriority", "getresuid", "getsid", "getuid", "initgroups", "killpg", "lchown"),
    *("lockf", "major", "mkfifo", "mknod", "nice", "openpty", "posix_fadvise", "pread", "preadv"),
    *("pwrite", "pwritev", "readv", "register_at_fork", "sched_getaffinity", "sched_setaffinity"),
    *("sendfile", "setgid", "setpgid", "setpriority", "setsid", "setuid", "statvfs", "sync"),
    *("sysconf", "tcgetpgrp", "uname", "wait", "wait3", "wait4", "WEXITSTATUS", "WIFEXITED"),
    *("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "memfd_create"),
    *("SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "alarm", "pause", "tzset"),
    *("pthread_kill", "pthread_sigmask", "sigpending", "sigwait", "SIG_BLOCK", "SIG_UNBLOCK"),
}


class Lacking(types.ModuleType):
    """A module without the names that Windows lacks."""

    def __init__(self, real: types.ModuleType) -> None:
        super().__init__(real.__name__)
        self.__dict__["_real"] = real

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._real, name, value)

    def __getattr__(self, name: str):
        if name in POSIX_NAMES:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on Windows")
        if name == "open":
            return open_no_folder
        if name == "platform":
            return "win32"
        return getattr(self._real, name)


def open_no_folder(path, *arguments, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return os.open(path, *arguments, **options)


real_import = builtins.__import__


def import_on_windows(name, globals=None, locals=None, fromlist=(), level=0):
    """Import for one of our own modules what there is on Windows."""
    importer = (globals or {}).get("__name__", "")
    if importer.split(".")[0] not in OURS:
        return real_import(name, globals, locals, fromlist, level)
    if name in POSIX_MODULES:
        raise ModuleNotFoundError(f"No module named {name!r} on Windows", name=name)
    module = real_import(name, globals, locals, fromlist, level)
    return Lacking(module) if module in (os, signal, sys) else module


def refuse_open_files(name: str) -> None:
    """Let a function of `os` fail where a file that it would remove is open in this process."""
    real = getattr(os, name)

    def refused(*arguments, **options):
        for path in arguments:
            if isinstance(path, str | os.PathLike) and is_open(path):
                raise PermissionError(13, "The file is in use", str(path))
        if name == "rename" and os.path.exists(arguments[1]):
            raise FileExistsError(17, "File exists", str(arguments[1]))
        return real(*arguments, **options)

    setattr(os, name, refused)


def is_open(path) -> bool:
    """Say whether this process has the file open (where /proc tells)."""
    files = Path("/proc/self/fd")
    links = files.iterdir() if files.is_dir() else ()
    return os.path.realpath(path) in {os.path.realpath(link) for link in links}


def main() -> None:
    script = sys.argv[1]
    sys.argv[:] = sys.argv[1:]
    sys.path[0] = str(Path(script).parent)
    for name in ("replace", "rename", "remove", "unlink"):
        refuse_open_files(name)
    for package in OURS:
        warnings.filterwarnings("error", "", EncodingWarning, rf"{package}(\.|$)")
    builtins.__import__ = import_on_windows
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
