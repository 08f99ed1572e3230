"""Whether a process is over."""

import psutil


def is_over(pid: int) -> bool:
    """Tell whether a process has ended, though nobody may have taken its exit status yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
