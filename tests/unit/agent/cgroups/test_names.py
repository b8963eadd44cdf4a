"""The service or container of a cgroup, by its path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.cgroups.names import CONTAINER, SERVICE, folder_name, unescaped, unit_of

ID = "0123456789abcdef" * 4
SHORT = ID[:12]
USER = "/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    ("path", "unit", "kind", "name"),
    [
        ("/system.slice/ssh.service", "", SERVICE, "ssh.service"),
        ("/system.slice/ssh.service/below", "/system.slice/ssh.service", SERVICE, "ssh.service"),
        (f"/machine.slice/libpod-{ID}.scope", "", CONTAINER, f"podman {SHORT}"),
        (
            f"{USER}/user.slice/libpod-{ID}.scope/container",
            f"{USER}/user.slice/libpod-{ID}.scope",
            CONTAINER,
            f"podman {SHORT}",
        ),
        (f"{USER}/app.slice/x.service", "", SERVICE, "x.service"),
        ("/user.slice/user-1000.slice/session-3.scope", "", SERVICE, "session-3.scope"),
        (f"/system.slice/docker-{ID}.scope", "", CONTAINER, f"docker {SHORT}"),
        (f"/docker/{ID}", "", CONTAINER, f"docker {SHORT}"),
        (f"/libpod_parent/libpod-{ID}", "", CONTAINER, f"podman {SHORT}"),
        (f"/s.slice/web.service/libpod-payload-{ID}", "/s.slice/web.service", SERVICE, "web.service"),
        (
            f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx.slice/cri-containerd-{ID}.scope",
            "",
            CONTAINER,
            f"containerd {SHORT}",
        ),
        (f"/kubepods/burstable/pod12ab/{ID}", "", CONTAINER, f"pod {SHORT}"),
        (f"/kubepods.slice/crio-{ID}.scope", "", CONTAINER, f"cri-o {SHORT}"),
        (f"/machine.slice/libpod-conmon-{ID}.scope", "", SERVICE, f"libpod-conmon-{SHORT}.scope"),
        ("/lxc.payload.web", "", CONTAINER, "lxc web"),
        ("/lxc/web/init.scope", "/lxc/web", CONTAINER, "lxc web"),
        ("/machine.slice/systemd-nspawn@web.service", "", CONTAINER, "machine web"),
        (r"/machine.slice/machine-qemu\x2d1\x2dweb.scope", "", CONTAINER, "machine qemu-1-web"),
    ],
)  # fmt: skip
def test_units_of_systemd_and_of_container_engines(
    path: str, unit: str, kind: str, name: str
) -> None:
    found = unit_of(path)
    assert found is not None
    assert (found.path, found.kind, found.name) == (unit or path, kind, name)


@pytest.mark.parametrize(
    "path",
    ["/", "", "/system.slice", USER, f"{USER}/app.slice", "/docker", "/kubepods/burstable", "/lxc"],
)
def test_what_only_holds_others_is_no_unit(path: str) -> None:
    assert unit_of(path) is None


def test_a_name_that_is_nearly_a_containers_is_not_one() -> None:
    for name in (f"libpod-{ID[1:]}.scope", f"libpod-{ID[1:]}g.scope", f"other-{ID}.scope"):
        found = unit_of(f"/machine.slice/{name}")
        assert found is not None
        assert (found.kind, found.id) == (SERVICE, "")


def test_a_folder_is_named_by_the_end_of_its_path() -> None:
    assert folder_name("/a/b.slice/") == "b.slice"
    assert folder_name("/") == "the root cgroup"


@given(st.text(max_size=200))
def test_no_path_makes_it_fail(path: str) -> None:
    found = unit_of(path)
    assert found is None or found.path.strip("/") in "/".join(p for p in path.split("/") if p)
    assert isinstance(unescaped(path), str)
