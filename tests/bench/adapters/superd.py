"""superd.

What may still change is all in the first half of this file: the configuration
(DAEMON, SERVICE), the words of the command line (ARGV, CLIENT) and the socket.
"""

import glob
import json
import os
import re
import time
import urllib.parse

from .base import Adapter

DAEMON = """\
[daemon]
run-dir = %(run)s
log = "none"
crash-reports = false
"""

SERVICE = """
[service.%(name)s]
command = %(command)s
restart = "always"
restart-delay = "1ms"
max-delay = "1ms"
crash-loop = false
output = %(output)s
stop = [{ signal = "TERM", wait = %(grace)s }]
"""

# With s.log; as supervisord's, 10 files of 1 MB beside the one that is written.
FILE = '{ file = %s, max-size = 1000000, keep = 10 }'
ARGV = ["--foreground", "--config", "%(config)s"]
CLIENT = ["--socket", "%(socket)s"]
CONFIG = "superd.toml"
RUN_DIR = "run"
SOCKET = "superd.sock"                           # below RUN_DIR


def toml(value):
    """A string or a list of strings; JSON's form of both is valid TOML."""
    return json.dumps(value)


def duration(seconds):
    return "%ds" % seconds if seconds == int(seconds) else "%dms" % (seconds * 1000)


class Superd(Adapter):
    name = "superd"
    programs = {"superd": ("BENCH_SUPERD", "superd"),
                "superctl": ("BENCH_SUPERCTL", "superctl")}
    restart_note = "restart-delay=1ms, max-delay=1ms, crash-loop=false"
    grace_note = "stop = TERM, wait 1s; then KILL of the tree"
    log_note = "output = { file }, 10 files of 1 MB, and the ring in its own memory"
    notes = "one multi-call binary"

    @classmethod
    def locate(cls):
        # A link, a hard link or a copy: one program on a real system, so its
        # size counts once. Two different builds count as two.
        found = super().locate()
        cls.runtime_programs = None
        cls.notes = "superd and superctl are two programs"
        if cls._same(found["superd"], found["superctl"]):
            cls.runtime_programs = ["superd"]
            cls.notes = "one multi-call binary"
        return found

    @staticmethod
    def _same(a, b):
        if os.path.samefile(a, b):
            return True
        if os.path.getsize(a) != os.path.getsize(b):
            return False
        with open(a, "rb") as f, open(b, "rb") as g:
            return f.read() == g.read()

    @classmethod
    def version(cls):
        text = cls._output(cls.locate()["superd"], "--version")
        found = re.match(r"superd (\S+)", text)
        return found.group(1) if found else ""

    @staticmethod
    def _forget_groups():
        """Removes the empty cgroups of earlier rounds: a killed superd leaves them to its
        successor, which a benchmark never starts, and with thousands of them the kernel
        makes new ones more slowly."""
        for root in glob.glob("/sys/fs/cgroup/superd.*") + glob.glob("/sys/fs/cgroup/*/superd.*"):
            run_dir = urllib.parse.unquote(os.path.basename(root)[len("superd."):])
            if os.path.exists(run_dir):
                continue
            for group in glob.glob(glob.escape(root) + "/*.service") + [root]:
                try:
                    os.rmdir(group)
                except OSError:
                    pass                             # somebody is in it
        # The kernel takes them apart later, which is not superd's work either.
        for stat in glob.glob("/sys/fs/cgroup/cgroup.stat") + glob.glob("/sys/fs/cgroup/*/cgroup.stat"):
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                with open(stat) as f:
                    if "nr_dying_descendants 0" in f.read().splitlines():
                        break
                time.sleep(0.01)

    def configure(self):
        self._forget_groups()
        # Root's superd refuses what others can write.
        os.makedirs(self.path(RUN_DIR), mode=0o755, exist_ok=True)
        os.chmod(self.path(RUN_DIR), 0o755)
        text = DAEMON % {"run": toml(self.path(RUN_DIR))}
        for s in self.services:
            text += SERVICE % {"name": s.name, "command": toml(s.argv),
                               "output": FILE % toml(self.path(s.name + ".log")) if s.log
                               else toml("null"),
                               "grace": toml(duration(self.grace or 10))}
        self.write(CONFIG, text)

    def _words(self, words):
        return [w % {"config": self.path(CONFIG), "dir": self.dir,
                     "socket": self.path(RUN_DIR, SOCKET)} for w in words]

    def argv(self):
        return [self.bin["superd"]] + self._words(ARGV)

    def _ctl(self, *words):
        return [self.bin["superctl"]] + self._words(CLIENT) + list(words)

    def stop_cmd(self, name):
        return self._ctl("stop", name)

    def start_cmd(self, name):
        return self._ctl("start", name)

    def status_cmd(self, name):
        return self._ctl("status", name)

    def status_all_cmd(self):
        return self._ctl("status")

    # Shutdown: SIGTERM, the default; `superctl shutdown` asks for the same.
