"""Files that ship with the package."""

import pytest

from tests import conftest
from wasmrt import resources
from wasmrt.errors import DeviceError, SourceError


def test_kernels_are_found_where_the_build_puts_them(tmp_path, monkeypatch):
    from tools import build_kernels

    monkeypatch.setattr(resources, "PACKAGE", tmp_path / "wasmrt")
    for b in build_kernels.BUILDS:
        build_kernels.write(tmp_path / build_kernels.OUTPUTS / f"{b.name}.wasm", b.name.encode())
        assert resources.kernels(b.name).read_bytes() == b.name.encode()


def test_missing_kernels_come_with_the_command_that_builds_them(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "PACKAGE", tmp_path)
    with pytest.raises(DeviceError) as caught:
        resources.kernels("wasm32")
    path = tmp_path / "device" / "wasm" / "wasm32.wasm"
    assert str(caught.value) == (
        f"the wasm32 kernels are not in this installation ({path}); build them with: python tools/build_kernels.py"
    )


def test_a_missing_model(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "DATA", tmp_path)
    with pytest.raises(SourceError, match="the demo model is not in this installation"):
        resources.demo_model()


def test_tests_that_need_kernels_skip_or_fail_without_them(tmp_path, monkeypatch):
    """Visibly either way: as a skip with its reason, or as a failure where WASMRT_REQUIRE names them."""
    monkeypatch.setattr(resources, "PACKAGE", tmp_path)
    why = conftest.missing_for_cpu()
    assert "build them with: python tools/build_kernels.py" in why
    monkeypatch.setattr(conftest, "REQUIRED", {"reference"})
    with pytest.raises(pytest.skip.Exception, match="build them with"):
        conftest.skip_or_fail("cpu", why)
    monkeypatch.setattr(conftest, "REQUIRED", {"reference", "cpu"})
    with pytest.raises(pytest.fail.Exception, match="WASMRT_REQUIRE names 'cpu', but the wasm32 kernels are not"):
        conftest.skip_or_fail("cpu", why)
