"""The walk down a cgroup tree: figures, bounds, and containers' names from root's files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from agent_kernel_samples import GUEST, plant

from giveback_agent.cgroups import container_names, rows, survey, table
from giveback_agent.host_link.memory_event import memory_report
from giveback_kernel.memcg_usage import MemcgUsage

MIB = 1 << 20
ID = "0123456789abcdef" * 4
MOUNTS = b"30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,memory_recursiveprot\n"


def stat(anon: int = 0, file: int = 0) -> bytes:
    """Return a memory.stat with these MiB; its cache is cold."""
    return f"anon {anon * MIB}\nfile {file * MIB}\nkernel 0\ninactive_file {file * MIB}\n".encode()


def tree(root: Path, cgroups: dict[str, bytes], **more: bytes) -> str:
    planted = {f"/sys/fs/cgroup{path}/memory.stat": data for path, data in cgroups.items()}
    return plant(root, {**GUEST, "/proc/self/mountinfo": MOUNTS, **planted, **more})


GUESTS = {
    "/system.slice": stat(60, 50),
    "/system.slice/db.service": stat(50, 10),
    "/system.slice/db.service/inner": stat(50, 10),
    "/machine.slice": stat(10, 200),
    f"/machine.slice/libpod-{ID}.scope": stat(10, 120),
    f"/machine.slice/libpod-{ID}.scope/container": stat(10, 120),
}
LRU = (
    f"memcg     7 /system.slice/db.service\n node     0\n         1       5000       10        20 \n"
    f"memcg     0 /machine.slice/past.service\n node     0\n         1       5000        0      {70 * 256} \n"
).encode()


def amounts(found: survey.Survey) -> dict[tuple[str, str], tuple[int, int]]:
    return {
        (row.kind, row.name): (row.usage.anon_bytes // MIB, row.usage.cache_bytes // MIB)
        for row in found.rows
    }


def test_each_service_and_container_has_its_own_and_what_ended_is_named(tmp_path: Path) -> None:
    found = survey.survey(tree(tmp_path, GUESTS, **{"/sys/kernel/debug/lru_gen": LRU}))
    said = amounts(found)
    assert said["service", "db.service"] == (50, 10)
    assert said["container", "podman 0123456789ab"] == (10, 120)
    assert said["ended", "past.service"] == (0, 70)
    assert said["slice", "machine.slice"] == (0, 10)
    assert said["slice", "system.slice"] == (10, 40)
    total = survey.total_usage(str(tmp_path))
    for name in ("anon_bytes", "cache_bytes", "shared_bytes", "kernel_bytes"):
        assert sum(getattr(row.usage, name) for row in found.rows) == getattr(total, name)
    assert (found.cgroups, found.is_whole, found.why) == (2, True, "")


def test_without_lru_gen_the_count_of_dying_cgroups_tells(tmp_path: Path) -> None:
    dying = {
        f"/sys/fs/cgroup{path}/cgroup.stat": f"nr_descendants 2\nnr_dying_descendants {n}\n".encode()
        for path, n in (("", 4), ("/machine.slice", 3), (f"/machine.slice/libpod-{ID}.scope", 1))
    }
    said = amounts(survey.survey(tree(tmp_path, GUESTS, **dying)))
    assert said["ended", "2 in machine.slice"] == (0, 80)
    assert said["slice", "system.slice"] == (10, 40)


def test_time_bounds_the_walk_and_what_is_not_split_is_still_counted(tmp_path: Path) -> None:
    ticks = iter(range(10_000))
    found = survey.survey(tree(tmp_path, GUESTS), clock=lambda: float(next(ticks)), budget_s=3)
    assert not found.is_whole
    total = survey.total_usage(str(tmp_path))
    assert sum(row.usage.anon_bytes for row in found.rows) == total.anon_bytes
    assert "for lack of time" in table.lines(found)[-1]
    assert not [row for row in found.rows if row.kind == rows.ENDED]


def test_the_number_of_reads_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {f"/system.slice/{n}.service": stat(1) for n in range(40)} | {"/system.slice": stat(40)}
    root = tree(tmp_path, many)
    assert survey.survey(root).cgroups == 40
    monkeypatch.setattr(survey, "READS_LIMIT", 10)
    found = survey.survey(root)
    assert found.cgroups == 9
    assert not found.is_whole
    monkeypatch.setattr(survey, "ENTRIES_LIMIT", 5)
    assert not survey.survey(root).is_whole


def test_a_guest_without_cgroup_v2_says_so(tmp_path: Path) -> None:
    root = plant(tmp_path, {**GUEST, "/proc/self/mountinfo": b""})
    assert survey.survey(root).why == "no cgroup v2 is mounted here"
    assert table.lines(survey.survey(root)) == ["services  not known: no cgroup v2 is mounted here"]
    assert "cgroup" in survey.survey(tree(tmp_path, {})).why
    assert survey.survey(str(tmp_path / "none")).why


def test_containers_have_the_names_that_people_gave_them(tmp_path: Path) -> None:
    podman = [{"id": ID, "names": ["web", "other"]}, {"id": "b" * 64, "names": []}, 7, {"id": 3}]
    tree(
        tmp_path,
        {**GUESTS, f"/system.slice/docker-{'d' * 64}.scope": stat(5)},
        **{
            container_names.PODMAN_FILES[0]: json.dumps(podman).encode(),
            f"{container_names.DOCKER_FOLDER}/{'d' * 64}/config.v2.json": b'{"Name": "/db\\u001b[2J"}',
        },
    )
    said = amounts(survey.survey(str(tmp_path)))
    assert ("container", "podman web") in said
    shown = table.lines(survey.survey(str(tmp_path)))
    assert any("docker db\\x1b[2J" in line for line in shown)
    assert all(line.isprintable() and len(line) <= 80 for line in shown)


def test_pods_are_named_by_their_logs(tmp_path: Path) -> None:
    log = f"{container_names.PODS_FOLDER}/web-1_default_nginx-{ID}.log"
    root = plant(tmp_path, {log: b"", f"{container_names.PODS_FOLDER}/nonsense": b""})
    assert container_names.names(root, frozenset([ID])) == {ID: "web-1/nginx"}
    assert container_names.names(root, frozenset(["e" * 64])) == {}


@pytest.mark.parametrize("kind", ["link", "pipe", "long", "nonsense", "folder", "deep"])
def test_no_file_of_an_engine_makes_it_wait_or_fail(kind: str, tmp_path: Path) -> None:
    path = tmp_path / container_names.PODMAN_FILES[0].lstrip("/")
    path.parent.mkdir(parents=True)
    good = json.dumps([{"id": ID, "names": ["web"]}])
    if kind == "link":
        (tmp_path / "elsewhere").write_text(good)
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        text = {"long": good + " " * container_names.FILE_LIMIT_BYTES, "nonsense": '{"a'}
        path.write_text(text.get(kind, "[" * 100_000))
    assert container_names.names(str(tmp_path), frozenset([ID])) == {}


def test_the_host_gets_rows_only_where_it_asks(tmp_path: Path) -> None:
    root = tree(tmp_path, GUESTS)
    assert "cgroups" not in memory_report(root)
    lines = memory_report(root, cgroups=True)["cgroups"]
    assert isinstance(lines, list)
    assert any(line.startswith("container\t") for line in lines)
    assert len(lines[0].split("\t")) == 3 + len(MemcgUsage._fields)
