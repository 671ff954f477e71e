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
        ran = []  # noqa: RUF012  a class for each test
        fails = "nothing"

    def run(*command, quiet=False):
        Machine.ran.append(command)
        return Machine.fails not in command

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(setup, "VULKAN_DRIVERS", (tmp_path / "none", Machine.drivers))
    monkeypatch.setattr(setup, "has_adapter", lambda: False)
    monkeypatch.setattr(setup, "run", run)
    monkeypatch.setattr(setup.shutil, "which", lambda name: f"/usr/bin/{name}")
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
        monkeypatch.setattr(setup.shutil, "which", lambda name: None)
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


def test_only_tests_want_it(monkeypatch):
    wanted = []
    monkeypatch.setattr(setup, "install", wanted.append)
    monkeypatch.setattr(setup, "software_vulkan", lambda: wanted.append("vulkan"))
    setup.main("demo")
    setup.main("test")
    assert wanted == ["demo", "test", "vulkan"]


def test_whether_there_is_an_adapter_is_what_the_device_says(gpu):
    """Where the tests of the device run, set-up has nothing to do."""
    assert setup.has_adapter()
