"""Starts a browser at a URL, with a fresh profile and no driver: what it is to do, a page asks its server for (server.py)."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

ENGINES = ("chromium", "firefox", "webkit")
MINI_BROWSERS = [f"/usr/lib/{machine}-linux-gnu/webkit2gtk-4.1/MiniBrowser" for machine in ("x86_64", "aarch64")]
END_SECONDS = 5.0

# No adapter but one in software will be found on most test machines; both engines hide it unless told not to.
CHROMIUM = (
    "--headless=new", "--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-breakpad",
    # A page that was left is gone, and with it what it held; a page out of sight is as fast as one in sight.
    "--disable-features=BackForwardCache", "--disable-background-timer-throttling", "--disable-renderer-backgrounding",
    "--disable-popup-blocking", "--enable-logging=stderr",
)
FIREFOX: dict[str, bool | int | str] = {
    "dom.webgpu.enabled": True,
    "gfx.webgpu.ignore-blocklist": True,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.sessionhistory.max_total_viewers": 0,
    "browser.sessionstore.resume_from_crash": False,
    "dom.disable_open_during_load": False,
    "dom.ipc.processPrelaunch.enabled": False,
    "dom.timeout.enable_budget_timer_throttling": False,
    "devtools.console.stdout.content": True,
    "app.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "http://127.0.0.1:9/",
}


def missing(engine: str) -> str | None:
    """Why `engine` cannot be started here, or None."""
    if engine == "webkit":
        if mini_browser() is None:
            return "WebKitGTK's MiniBrowser is missing (sudo apt-get install webkit2gtk-driver)"
        return None if shutil.which("Xvfb") else "Xvfb is missing (sudo apt-get install xvfb)"
    command, package = {"chromium": ("chromium", "chromium"), "firefox": ("firefox-esr", "firefox-esr")}[engine]
    return None if shutil.which(command) else f"{command} is missing (sudo apt-get install {package})"


def mini_browser() -> str | None:
    return next((path for path in MINI_BROWSERS if os.access(path, os.X_OK)), None)


class Browser:
    """A running browser: its processes, and what they printed."""

    def __init__(self, engine: str, url: str) -> None:
        self.engine = engine
        self._folder = Path(tempfile.mkdtemp(prefix=f"wasmrt-{engine}-"))
        self._log = (self._folder / "log").open("wb")
        self._started: list[subprocess.Popen[bytes]] = []
        self._watchers: list[subprocess.Popen[bytes]] = []
        try:
            self._main = self._start(self._command(engine, url), self._environment(engine))
        except BaseException:
            self.close()
            raise

    def _command(self, engine: str, url: str) -> list[str]:
        profile = self._folder / "profile"
        profile.mkdir()
        if engine == "chromium":
            return ["chromium", *CHROMIUM, f"--user-data-dir={profile}", url]
        if engine == "firefox":
            lines = [f'user_pref("{name}", {_pref(value)});' for name, value in FIREFOX.items()]
            (profile / "user.js").write_text("\n".join(lines))
            return ["firefox-esr", "--headless", "--no-remote", "--profile", str(profile), url]
        return [mini_browser() or "MiniBrowser", "--enable-write-console-messages-to-stdout=true", url]

    def _environment(self, engine: str) -> dict[str, str]:
        home = self._folder / "home"
        home.mkdir()
        environment = os.environ | {
            "HOME": str(home), "XDG_DATA_HOME": str(home / "data"), "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_CONFIG_HOME": str(home / "config"), "NO_AT_BRIDGE": "1", "MOZ_CRASHREPORTER_DISABLE": "1",
        }
        if engine == "webkit":  # it has no headless mode
            environment |= {"DISPLAY": self._start_display(), "GDK_BACKEND": "x11", "LIBGL_ALWAYS_SOFTWARE": "1",
                            "WEBKIT_DISABLE_DMABUF_RENDERER": "1"}
        return environment

    def _start_display(self) -> str:
        """A display of our own: Xvfb takes a number that is free and says which."""
        reading, writing = os.pipe()
        command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1280x900x24", "-nolisten", "tcp"]
        try:
            self._start(command, dict(os.environ), keep=(writing,))
        finally:
            os.close(writing)
        with os.fdopen(reading) as pipe:
            return f":{int(pipe.readline())}"

    def _start(self, command: list[str], environment: dict[str, str], keep: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, env=environment, pass_fds=keep, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._started.append(process)
        # Its input ends with this process, however that does: a test run that is killed leaves no browser behind.
        when_gone = f"read _; kill -9 -{process.pid}; rm -rf {shlex.quote(str(self._folder))}"
        self._watchers.append(subprocess.Popen(["sh", "-c", when_gone], stdin=subprocess.PIPE, start_new_session=True))
        return process

    @property
    def alive(self) -> bool:
        return self._main.poll() is None

    def processes(self) -> list[psutil.Process]:
        """The browser's own and all that it started."""
        try:
            main = psutil.Process(self._main.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def rss(self) -> int:
        """Bytes of memory of all its processes; what several of them share is counted once for each."""
        return sum(_rss(process) for process in self.processes())

    def log(self, lines: int = 30) -> str:
        """The last lines that it printed: in Chromium and Firefox with the console's messages, also those of workers."""
        self._log.flush()
        return "\n".join((self._folder / "log").read_text(errors="replace").splitlines()[-lines:])

    def close(self) -> None:
        """End all of it. Calling it again does nothing."""
        for watcher in self._watchers:
            watcher.kill()
            watcher.communicate()
        self._watchers.clear()
        processes = self.processes() if self._started else []
        for started in reversed(self._started):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGTERM)
        deadline = time.monotonic() + END_SECONDS
        for started in reversed(self._started):
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(max(0.0, deadline - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()
        for process in processes:  # those that had left the group
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=END_SECONDS)
        self._log.close()
        self._started.clear()
        shutil.rmtree(self._folder, ignore_errors=True)  # a file may appear while it goes


@contextlib.contextmanager
def started(engine: str, url: str) -> Iterator[Browser]:
    browser = Browser(engine, url)
    try:
        yield browser
    finally:
        browser.close()


def _pref(value: bool | int | str) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower()


def _rss(process: psutil.Process) -> int:
    try:
        n_bytes: int = process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
    return n_bytes
