"""VMMs are recognised by /proc/PID/exe, whatever argv[0] is, with vendors' prefixes and suffixes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.host.procs import Process
from giveback.vmm.backends.programs import given_name, vmm_of
from giveback.vmm.backends.qemu_args import describe

QEMUS = [
    "qemu-system-x86_64", "qemu-system-i386", "qemu-system-aarch64", "qemu-system-s390x", "qemu-kvm",
    "kvm", "kvm-spice", "qemu-system-x86_64-spice", "qemu-system-x86_64-microvm",
    ".qemu-system-x86_64-wrapped", "..qemu-system-x86_64-wrapped-wrapped", ".qemu-system-x86_64-real",
    "qemu-system-x86_64.real", "qemu-system-x86_64-9.2", "qemu-system-x86_64-snp-experimental",
    "qemu-system-x86_64-headless", "qemu-lite-system-x86_64", "qemu-kvm-1.5.3", "qemu-kvm-rhev",
    "qemu-x86_64-softmmu", "qemu-system-x86_64_custom", "kvm.distrib",
]  # fmt: skip
CLOUDS = ["cloud-hypervisor", "cloud-hypervisor-static", "cloud-hypervisor-v50-static",
          "cloud-hypervisor-v38.0", "cloud-hypervisor-static-aarch64", "cloud-hypervisor-glibc",
          ".cloud-hypervisor-wrapped"]  # fmt: skip
CRACKERS = ["firecracker", "firecracker-v1.12-x86_64", "firecracker-v1.7.0-aarch64",
            "firecracker-v1.10.1_30cbb07", "firecracker-debug", ".firecracker-wrapped"]  # fmt: skip
NONE = [
    "qemu-img", "qemu-nbd", "qemu-io", "qemu-ga", "qemu-storage-daemon", "qemu-bridge-helper",
    "qemu-pr-helper", "qemu-x86_64", "qemu-aarch64-static", "qemu-x86_64-static", "kvm-ok", "kvmtool",
    "kvm_stat", "lkvm", "cloud-hypervisor-remote", "ch-remote", "firecracker-containerd", "jailer",
    "firecracker-ctr", "firecracker-task-driver", "firecrackers", "virtqemud", "my-qemu-system-x86_64",
    "python3.11", "", "bash", "qemu-dm",
]  # fmt: skip
EVERY = {
    **dict.fromkeys(QEMUS, "qemu"),
    **dict.fromkeys(CLOUDS, "cloud-hypervisor"),
    **dict.fromkeys(CRACKERS, "firecracker"),
    **dict.fromkeys(NONE, ""),
}


@pytest.mark.parametrize(("name", "kind"), EVERY.items())
@pytest.mark.parametrize("deleted", ["", " (deleted)"])
def test_the_executable_file_decides(name: str, kind: str, deleted: str) -> None:
    exe = f"/nix/store/abc-x/bin/{name}{deleted}"
    assert vmm_of(Process(7, ("microvm@web", "--id", "a"), exe)) == kind
    assert vmm_of(Process(7, (f"/usr/libexec/{name}", "--id", "a"))) == kind


@pytest.mark.parametrize("option", ["--api-sock", "--config-file=/a", "--no-api"])
def test_an_unknown_suffix_needs_the_vmms_options(option: str) -> None:
    assert vmm_of(Process(7, ("firecracker-acme", option))) == "firecracker"
    assert vmm_of(Process(7, ("firecracker-acme", "--port", "1"))) == ""
    assert vmm_of(Process(7, ("cloud-hypervisor-acme", "--api-socket", "/a"))) == "cloud-hypervisor"
    assert vmm_of(Process(7, ("cloud-hypervisor-remote", "--api-socket", "/a"))) == ""


def test_a_cut_name_of_another_users_process_is_recognised() -> None:
    for name, kind in (("qemu-system-x86", "qemu"), (".qemu-system-x8", "qemu"),
                       ("cloud-hyperviso", "cloud-hypervisor"), ("firecracker", "firecracker"),
                       ("qemu-img", ""), ("kworker/0:1", "")):  # fmt: skip
        assert vmm_of(Process(7, ("microvm@web",), name)) == kind


def test_a_program_that_a_dynamic_loader_runs() -> None:
    exe = "/lib64/ld-linux-x86-64.so.2"
    words = (exe, "--library-path", "/opt/lib", "/opt/bin/qemu-system-x86_64", "-m", "1G")
    assert vmm_of(Process(7, words, exe)) == "qemu"
    assert vmm_of(Process(7, (exe, "/bin/ls", "qemu-kvm"), exe)) == ""
    assert vmm_of(Process(7, words, "/bin/strace")) == ""
    assert describe(Process(7, words, exe), str).ram_bytes == 1 << 30


def test_the_executable_overrides_argv0() -> None:
    assert vmm_of(Process(7, ("firecracker",), "/usr/bin/qemu-system-x86_64")) == "qemu"
    for name in (*QEMUS, *CLOUDS, *CRACKERS):
        assert vmm_of(Process(7, (name, "-m", "1G"), "/usr/bin/sleep")) == ""


@pytest.mark.parametrize(
    ("word", "name"),
    [("microvm@web", "web"), ("/run/x/microvm@web", "web"), ("qemu-system-x86_64", ""), ("@", ""),
     ("microvm@", ""), ("", "")],
)  # fmt: skip
def test_a_name_in_argv0(word: str, name: str) -> None:
    assert given_name(Process(7, (word,), "/usr/bin/qemu-kvm")) == name


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_name_is_parsed(exe: str, argv0: str) -> None:
    vmm_of(Process(7, (argv0,), exe))
    given_name(Process(7, (argv0,), exe))


def test_a_name_that_is_made_to_match_slowly_is_refused() -> None:
    for name in ("firecracker" + "-1" * 100_000 + "!", "qemu" + "-a" * 100_000 + "!",
                 "." * 100_000, "qemu-system-" + "x-" * 100_000 + "!"):  # fmt: skip
        assert vmm_of(Process(7, (name,))) == ""
