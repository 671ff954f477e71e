"""tools/setup.py: what is installed through the system's packages, and when that is not asked for."""

import os
import sys

import pytest

from tools import setup

INSTALL = [("apt-get", "update", "-q"), ("apt-get", "install", "-q", "-y", "mesa-vulkan-drivers")]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A Linux machine with apt-get, run as root, without a GPU; `ran` is what it was told to do, all with success."""

    class Machine:
        drivers = tmp_path / "icd.d"
        programs = ["apt-get"]  # noqa: RUF012  a class for each test
        ran = []  # noqa: RUF012  a class for each test
        fails = "nothing"

    def run(*command, quiet=False):
        Machine.ran.append(command)
        return Machine.fails not in command

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(setup, "VULKAN_DRIVERS", (tmp_path / "none", Machine.drivers))
    monkeypatch.setattr(setup, "LIBRARIES", tmp_path / "lib")
    monkeypatch.setattr(setup, "has_adapter", lambda: False)
    monkeypatch.setattr(setup, "run", run)
    monkeypatch.setattr(setup.shutil, "which", lambda name: f"/usr/bin/{name}" if name in Machine.programs else None)
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    return Machine


def test_software_vulkan_is_installed_where_nothing_computes_shaders(machine, capsys):
    setup.software_vulkan()
    assert machine.ran == INSTALL
    assert "sudo" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["lvp_icd.x86_64.json", "lvp_icd.json"])
def test_nothing_is_done_where_it_is_there(machine, capsys, name):
    machine.drivers.mkdir()
    (machine.drivers / name).touch()
    setup.software_vulkan()
    assert (machine.ran, capsys.readouterr().err) == ([], "")


def test_nothing_is_done_where_there_is_a_gpu(machine, monkeypatch, capsys):
    monkeypatch.setattr(setup, "has_adapter", lambda: True)
    setup.software_vulkan()
    assert (machine.ran, capsys.readouterr().err) == ([], "")


def test_nothing_is_done_where_the_system_has_an_interface_of_its_own(machine, monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "darwin")
    setup.software_vulkan()
    assert (machine.ran, capsys.readouterr().err) == ([], "")


def test_another_drivers_file_is_not_enough(machine):
    machine.drivers.mkdir()
    (machine.drivers / "radeon_icd.x86_64.json").touch()
    setup.software_vulkan()
    assert machine.ran == INSTALL


@pytest.mark.parametrize("lacks", ["root", "apt-get"])
def test_without_permission_it_says_how_and_goes_on(machine, monkeypatch, capsys, lacks):
    if lacks == "root":
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
    else:
        machine.programs.remove("apt-get")
    setup.software_vulkan()
    err = capsys.readouterr().err
    assert machine.ran == []
    assert err.count("\n") == 1
    assert err.endswith("sudo apt-get install mesa-vulkan-drivers\n")


@pytest.mark.parametrize("step", ["update", "install"])
def test_a_failed_installation_stops_nothing(machine, capsys, step):
    machine.fails = step
    setup.software_vulkan()
    assert capsys.readouterr().err.endswith("sudo apt-get install mesa-vulkan-drivers\n")


def installed(machine):
    """Which packages apt-get was asked for, after it had updated its index once."""
    assert machine.ran[0] == INSTALL[0]
    assert all(command[:-1] == INSTALL[1][:-1] for command in machine.ran[1:])
    return [command[-1] for command in machine.ran[1:]]


ALL = ["npm", "chromium", "firefox-esr", "webkit2gtk-driver", "xvfb"]


@pytest.fixture
def only_browsers(monkeypatch):
    monkeypatch.setattr(setup, "install", lambda kind: None)
    monkeypatch.setattr(setup, "software_vulkan", lambda: None)


@pytest.mark.usefixtures("only_browsers")
def test_tests_get_the_browsers(machine, capsys):
    setup.main("test")
    assert installed(machine) == ALL
    assert "sudo" not in capsys.readouterr().err


@pytest.mark.usefixtures("only_browsers")
def test_what_is_there_is_not_installed(machine, tmp_path, capsys):
    """The browser of WebKitGTK is no program on the PATH; its folder is named after the machine."""
    machine.programs += ["npm", "firefox-esr", "Xvfb"]
    browser = tmp_path / "lib" / "riscv64-linux-gnu" / "webkit2gtk-4.1" / "MiniBrowser"
    browser.parent.mkdir(parents=True)
    browser.touch()
    setup.main("test")
    assert installed(machine) == ["chromium"]
    machine.ran.clear()
    capsys.readouterr()
    machine.programs.append("chromium")
    setup.main("test")
    assert (machine.ran, capsys.readouterr().err) == ([], "")


@pytest.mark.usefixtures("only_browsers")
def test_a_browser_that_the_system_does_not_have_keeps_out_no_other(machine, capsys):
    machine.fails = "firefox-esr"  # as Ubuntu
    setup.main("test")
    assert installed(machine) == ALL
    assert capsys.readouterr().err.endswith("sudo apt-get install firefox-esr\n")


@pytest.mark.usefixtures("only_browsers")
def test_browsers_are_named_where_they_cannot_be_installed(machine, monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    setup.main("test")
    err = capsys.readouterr().err
    assert machine.ran == []
    assert err.count("\n") == 1
    assert err.endswith(f"sudo apt-get install {' '.join(ALL)}\n")


@pytest.mark.usefixtures("only_browsers")
def test_elsewhere_browsers_are_not_asked_for(machine, monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "darwin")
    setup.main("test")
    assert (machine.ran, capsys.readouterr().err) == ([], "")


@pytest.mark.usefixtures("only_browsers")
def test_the_page_wants_npm_alone(machine):
    setup.main("web")
    assert installed(machine) == ["npm"]


def test_only_tests_want_a_gpu_and_the_demo_wants_nothing(machine, monkeypatch):
    wanted = []
    monkeypatch.setattr(setup, "install", wanted.append)
    monkeypatch.setattr(setup, "software_vulkan", lambda: wanted.append("vulkan"))
    setup.main("demo")
    assert machine.ran == []
    setup.main("web")
    setup.main("test")
    assert wanted == ["demo", "web", "test", "vulkan"]


@pytest.mark.parametrize(("there", "wanted"), [("test", ""), ("web", "test"), ("demo", "web test"), ("", "demo web test")])
def test_a_larger_set_up_will_do_for_a_smaller(tmp_path, monkeypatch, there, wanted):
    """there: what was set up before; wanted: the kinds that pip is then called for."""
    monkeypatch.setattr(setup, "VENV", tmp_path)
    monkeypatch.setattr(setup, "usable", lambda: True)
    monkeypatch.setattr(setup, "kernels_are_current", lambda: True)
    pips = []
    monkeypatch.setattr(setup, "pip", lambda *arguments: pips.append(arguments))
    asked = []
    for kind in setup.EXTRAS:
        for stamp in tmp_path.glob("*.stamp"):
            stamp.unlink()
        if there:
            (tmp_path / f"wasmrt-{there}.stamp").write_text(setup.fingerprint())
        setup.install(kind)
        if pips:
            asked.append(kind)
            assert pips.pop() == ("install", "--editable", f".{setup.EXTRAS[kind]}")
    assert asked == wanted.split()


def test_whether_there_is_an_adapter_is_what_the_device_says(gpu):
    """Where the tests of the device run, set-up has nothing to do."""
    assert setup.has_adapter()
