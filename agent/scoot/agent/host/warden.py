"""The warden: a tiny program that holds one engine, so that no engine outlives the agent that watches it.

The agent starts one warden per engine (`python -I -S warden.py`, stdin and stdout on one socket) and sends it one JSON
line saying what to run. The warden is a session leader and a child subreaper: whatever the engine forks, double-forks
or puts into sessions of its own stays below the warden, and "no children left" (waitpid says ECHILD) is proof that
nothing of it is left. End of file on stdin means that the agent has died, even by SIGKILL: the engine is stopped.

Standard library only, few imports: it must start in milliseconds and stay small. It imports nothing of SCOOT.

Commands, one JSON object per line:
    {"spawn": {"argv", "env", "cwd", "log", "state", "record", "cgroup", "eof_grace_s"}}   first, exactly once
    {"stop": {"stop_grace_s", "kill_grace_s"}}     SIGTERM everything, SIGKILL after the first, give up after both
        (REST_GRACE_S at most where the engine's first process had ended before; TIDY_S more for what ignores SIGTERM)
    {"refresh": {}}                                record the members of the engine's process group now
Reports:
    {"started": {"pid", "pgid", "start_ticks"}} | {"failed": {"errno", "message"}}
    {"exited": {"code" | "signal", "by_us"}}       the engine's first process has ended
    {"gone": {"clean", "killed", "survivors"}}     after a stop; clean: nothing is left, and the warden exits

The state file (`record` plus what is known of the processes) is written before the engine's first instruction and
removed when nothing is left; scoot.agent.host.reaper reads what crashed agents left behind.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.05
_FIRST_REFRESH_S = 1.0
_LAST_REFRESH_S = 60.0
_MEMBERS = 512
_OOM_SCORE = "500"
"""The kernel, when out of memory, takes an engine before the agent."""

REST_GRACE_S = 1.0
"""Grace of what outlives the engine's first process. Nobody is left to read its answers or to shut it down in order;
what an engine core still does (vLLM's takes ten seconds to find that its server is gone) keeps nothing but its GPU."""

TIDY_S = 0.5
"""How much longer those live that ignore SIGTERM. On purpose do so the processes that tidy up when the others have
ended: killed with them, Python's resource tracker leaves an engine's shared memory behind for good."""

_NO_TIME = float("inf")


def read_stat(pid: int) -> tuple[str, int, int, int] | None:
    """(state, ppid, pgid, start time in clock ticks since boot) of a process, None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib costs megabytes here
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[19])


def descendants(root: int) -> dict[int, tuple[str, int, int, int]]:
    """Every process below `root` (zombies included, `root` not), pid -> read_stat."""
    table = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - as above
        if name.isdigit():
            stat = read_stat(int(name))
            if stat is not None:
                table[int(name)] = stat
    below = {root}
    grew = True
    while grew:
        more = {pid for pid, stat in table.items() if stat[1] in below and pid not in below}
        below |= more
        grew = bool(more)
    below.discard(root)
    return {pid: table[pid] for pid in below}


def ignores_sigterm(pid: int) -> bool:
    """Whether a process has chosen to ignore it; one that is gone has not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - as above
            ignored = int(file.read().rpartition(b")")[2].split()[30])
    except OSError:
        return False
    return bool(ignored >> (signal.SIGTERM - 1) & 1)


def signal_exactly(pid: int, start_ticks: int, number: int) -> None:
    """Signal a process unless its pid was reused since `start_ticks` was read."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        stat = read_stat(pid)
        if stat is not None and stat[3] == start_ticks:
            signal.pidfd_send_signal(fd, number)
    except OSError:
        return
    finally:
        os.close(fd)


def write_atomically(path: str, text: str) -> None:
    """Write a small file so that readers and crashes see all of it or nothing."""
    draft = f"{path}.tmp"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(draft, path)  # noqa: PTH104 - as above


class Warden:
    """One engine and everything below it."""

    def __init__(self) -> None:
        self.spec: dict = {}  # type: ignore[type-arg]  # JSON of the agent's making
        self.pid = 0
        self.start_ticks = 0
        self.exited = False
        self.headless = False
        self.attached = True
        self.stopping = False
        self.killed = False
        self.reported = False
        self.term_until = _NO_TIME
        self.tidy_until = _NO_TIME
        self.kill_until = _NO_TIME
        self.next_refresh = _NO_TIME
        self.refresh_gap_s = _FIRST_REFRESH_S
        self.members: list[list[int]] = []
        self.incoming = b""

    def run(self) -> int:
        """Until nothing is left of the engine; the exit status is always 0."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self.begin_stop(None))
        poll = select.poll()
        poll.register(wake_read, select.POLLIN)
        poll.register(0, select.POLLIN)
        while not (self.reap() and (self.stopping or not self.attached)):
            self.enforce()
            for fd, _ in poll.poll(self.timeout_ms()):
                if fd == wake_read:
                    drain(wake_read)
                elif not self.read_commands(libc):
                    poll.unregister(0)
        self.finish()
        return 0

    def timeout_ms(self) -> int | None:
        """How long nothing has to be done."""
        now = time.monotonic()
        if self.stopping:
            return int(1000 * max(_POLL_S, min(self.term_until - now, 1.0)))
        if self.next_refresh == _NO_TIME:
            return None
        return int(1000 * max(_POLL_S, self.next_refresh - now))

    def read_commands(self, libc: ctypes.CDLL) -> bool:
        """Obey what has arrived; False at end of file."""
        try:
            data = os.read(0, 65536)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            data = b""
        if not data:
            self.attached = False
            self.begin_stop(None)
            return False
        *lines, self.incoming = (self.incoming + data).split(b"\n")
        for line in lines:
            for verb, body in json.loads(line).items():
                if verb == "spawn":
                    self.spawn(body, libc)
                elif verb == "stop":
                    self.begin_stop(body)
                elif verb == "refresh":
                    self.refresh()
        return True

    def spawn(self, spec: dict, libc: ctypes.CDLL) -> None:  # type: ignore[type-arg]  # as self.spec
        """Fork, record, and only then let the child execute the engine."""
        self.spec = spec
        go_read, go_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        warden = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(go_write)
                become_engine(spec, libc, warden, go_read)
            except (OSError, ValueError, TypeError) as error:
                os.write(err_write, f"{getattr(error, 'errno', 0) or 0} {error}".encode())
            finally:
                os._exit(127)
        os.close(go_read)
        os.close(err_write)
        self.pid = pid
        stat = read_stat(pid)
        self.start_ticks = stat[3] if stat else 0
        failure = b""
        try:
            self.members = [[pid, self.start_ticks]]
            self.save()
            os.write(go_write, b"g")
        except OSError as error:
            failure = f"{error.errno or 0} {error}".encode()
        os.close(go_write)
        failure = failure or read_all(err_read)
        os.close(err_read)
        if failure:
            number, _, text = failure.decode(errors="replace").partition(" ")
            self.tell({"failed": {"errno": int(number), "message": text}})
            self.stopping = self.reported = True
            self.term_until = self.tidy_until = self.kill_until = time.monotonic()
            return
        self.next_refresh = time.monotonic() + self.refresh_gap_s
        self.tell({"started": {"pid": pid, "pgid": pid, "start_ticks": self.start_ticks}})

    def reap(self) -> bool:
        """Collect the dead; True when nothing is left."""
        while self.pid:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.pid and not self.exited:
                self.exited = True
                self.headless = not self.stopping
                code = os.waitstatus_to_exitcode(status)
                how = {"code": code} if code >= 0 else {"signal": -code}
                self.tell({"exited": {**how, "by_us": self.stopping}})
        return not self.attached

    def begin_stop(self, body: dict | None) -> None:  # type: ignore[type-arg]  # as self.spec
        """SIGTERM to all; deadlines only ever move closer. None: the agent is gone, or the warden was told to end."""
        now = time.monotonic()
        grace_s = float(body["stop_grace_s"]) if body else float(self.spec.get("eof_grace_s", 2.0))
        if self.headless:
            grace_s = min(grace_s, REST_GRACE_S)
        kill_s = float(body["kill_grace_s"]) if body else 5.0
        self.term_until = min(self.term_until, now + grace_s)
        self.tidy_until = min(self.tidy_until, self.term_until + min(TIDY_S, kill_s / 2))
        self.kill_until = min(self.kill_until, self.term_until + kill_s)
        if not self.stopping:
            self.stopping = True
            self.signal_all(signal.SIGTERM)

    def signal_all(self, number: int, *, spare_tidying: bool = False) -> None:
        """Signal every process below the warden; a stopped one could not act on SIGTERM, so it is continued too.

        `spare_tidying` leaves out those that ignore SIGTERM, unless it is the engine's first process that does.
        """
        for pid, (state, _, _, ticks) in descendants(os.getpid()).items():
            if state != "Z" and not (spare_tidying and pid != self.pid and ignores_sigterm(pid)):
                signal_exactly(pid, ticks, number)
                if state == "T" and number == signal.SIGTERM:
                    signal_exactly(pid, ticks, signal.SIGCONT)

    def enforce(self) -> None:
        """What the time that has passed demands."""
        now = time.monotonic()
        if not self.stopping:
            if now >= self.next_refresh:
                self.refresh()
            return
        if now >= self.term_until and self.pid:
            self.killed = True
            if now >= self.tidy_until:
                kill_cgroup(self.spec.get("cgroup"))
            self.signal_all(signal.SIGKILL, spare_tidying=now < self.tidy_until)
        if now >= self.kill_until and not self.reported:
            self.reported = True
            left = [pid for pid, stat in descendants(os.getpid()).items() if stat[0] != "Z"]
            self.tell({"gone": {"clean": False, "killed": True, "survivors": left}})

    def refresh(self) -> None:
        """Record who belongs to the engine now, for a sweep after agent and warden were both killed."""
        found = descendants(os.getpid())
        members = sorted([pid, stat[3]] for pid, stat in found.items() if stat[0] != "Z")[:_MEMBERS]
        if members != self.members and members:
            self.members = members
            try:
                self.save()
            except OSError:  # the state directory is full or gone: the warden itself still holds the engine
                self.members = []
        self.refresh_gap_s = min(2 * self.refresh_gap_s, _LAST_REFRESH_S)
        self.next_refresh = time.monotonic() + self.refresh_gap_s

    def save(self) -> None:
        """Write the state file, if there is to be one."""
        if self.spec.get("state"):
            record = {**self.spec["record"], "pid": self.pid, "pgid": self.pid, "start_ticks": self.start_ticks}
            write_atomically(self.spec["state"], json.dumps({**record, "members": self.members}))

    def finish(self) -> None:
        """Nothing is left: remove the traces and say so."""
        if self.spec.get("cgroup"):
            try:
                os.rmdir(self.spec["cgroup"])  # noqa: PTH106 - as above
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EBUSY):
                    raise
        if self.spec.get("state"):
            try:  # noqa: SIM105 - contextlib is one import too many
                os.unlink(self.spec["state"])  # noqa: PTH108 - as above
            except FileNotFoundError:
                pass
        self.tell({"gone": {"clean": True, "killed": self.killed, "survivors": []}})
        os.set_blocking(0, False)
        try:
            drain(0)  # what is unread when a socket closes would reset it, and lose the line above
        except OSError:
            return

    def tell(self, report: dict) -> None:  # type: ignore[type-arg]  # as self.spec
        """One report; an agent that is gone does not mind."""
        try:
            os.write(1, json.dumps(report).encode() + b"\n")
        except OSError:
            self.attached = False
            if not self.stopping:
                self.begin_stop(None)


def become_engine(spec: dict, libc: ctypes.CDLL, warden: int, go_read: int) -> None:  # type: ignore[type-arg]  # as above
    """In the forked child: own session, log, cgroup, default signals; then execute. Returns only by raising OSError."""
    os.setsid()
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != warden:
        os._exit(127)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    if os.read(go_read, 1) != b"g":
        os._exit(127)
    if spec.get("cgroup"):
        write_now(f"{spec['cgroup']}/cgroup.procs", "0")
    try:  # noqa: SIM105 - as above
        write_now("/proc/self/oom_score_adj", _OOM_SCORE)
    except OSError:  # forbidden in some sandboxes, and only a preference
        pass
    os.chdir(spec["cwd"])
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.execve(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - a shell is what must not be


def kill_cgroup(path: str | None) -> None:
    """SIGKILL to all of a cgroup at once, where there is one."""
    if path:
        try:
            write_now(f"{path}/cgroup.kill", "1")
        except OSError:  # already removed, or a kernel before 5.14: signals one by one do it
            return


def write_now(path: str, text: str) -> None:
    """Write to a kernel file."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def read_all(fd: int) -> bytes:
    """Everything until end of file."""
    data = b""
    while chunk := os.read(fd, 4096):
        data += chunk
    return data


def drain(fd: int) -> None:
    """Empty a non-blocking pipe."""
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        return


def main() -> int:
    """Run; a bug in the warden must not leave an engine behind."""
    warden = Warden()
    try:
        return warden.run()
    finally:
        kill_cgroup(warden.spec.get("cgroup") if warden.pid else None)
        warden.signal_all(signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main())
