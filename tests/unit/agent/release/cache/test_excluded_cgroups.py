"""Excluded cgroups are not reclaimed from, trained, evicted or swapped out, by any method."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_guests import ABLE, observation, snapshot
from agent_kernel_samples import GUEST, plant

from giveback_agent.policy import actions as act
from giveback_agent.policy import cache_goal
from giveback_agent.policy.observation import GENERATIONS, LISTS, URGENCY_STARVING, Tick
from giveback_agent.release import steps
from giveback_agent.release.cache import cold_cache, ended_cgroups, lru_gen_training
from giveback_agent.release.cache.lru_gen_training import Training
from giveback_agent.settings.table import AgentSettings
from giveback_kernel import files
from giveback_kernel.errors import KernelFileError

MIB = 1 << 20
MOUNTINFO = b"30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,memory_recursiveprot\n"
EXCLUDE = ("db.service", "machine.slice/libpod-*")
LEAVES = ("a.slice/db.service", "a.slice/web.service", "machine.slice/libpod-1.scope/container")


def group(root: Path, path: str, cache_mib: int) -> None:
    stat = f"active_file 0\ninactive_file {cache_mib * MIB}\nfile_dirty 0\nfile_writeback 0\n"
    top = f"/sys/fs/cgroup/{path}".rstrip("/")
    plant(
        root,
        {
            f"{top}/memory.stat": stat.encode(),
            f"{top}/memory.current": f"{cache_mib * MIB}\n".encode(),
            f"{top}/memory.low": b"0\n",
            f"{top}/memory.reclaim": b"",
        },
    )


def lru(*ended: str, cache_mib: int = 100) -> bytes:
    """Return three generations of each live leaf, and ended cgroups with this many bytes."""
    rows = [f" {n:10d} {(3 - n) * 100000:10d} 0 {cache_mib * 256}" for n in range(4)]
    named = [
        *((n + 2, f"/{path}") for n, path in enumerate(LEAVES)),
        *((0, f"/{p}") for p in ended),
    ]
    return "".join(
        "\n".join([f"memcg {number} {path}", " node 0", *rows, ""]) for number, path in named
    ).encode()


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    plant(
        tmp_path,
        {
            **GUEST,
            "/proc/meminfo": GUEST["/proc/meminfo"].replace(b"378780", b"     0"),
            "/proc/self/mountinfo": MOUNTINFO,
            "/sys/kernel/mm/lru_gen/enabled": b"0x0007\n",
            "/sys/kernel/debug/lru_gen": lru(),
        },
    )
    for path in ("", "a.slice", "machine.slice", "machine.slice/libpod-1.scope", *LEAVES):
        group(tmp_path, path, 100)
    return tmp_path


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(files, "write", lambda _r, path, text: found.append((path, text)))
    return found


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []

    def train(_root: str, path: str, _scratch: str, _evict: object, _node: int = 0) -> Training:
        found.append(path)
        return Training(448, True)

    monkeypatch.setattr(lru_gen_training, "train", train)
    return found


def asked(written: list[tuple[str, str]]) -> set[str]:
    """Return the cgroups whose memory.reclaim was written."""
    start, end = "/sys/fs/cgroup", "/memory.reclaim"
    return {path[len(start) : -len(end)] for path, _ in written if path.endswith(end)}


def test_cold_cache_by_generations(
    guest: Path, written: list[tuple[str, str]], trained: list[str]
) -> None:
    for exclude, numbers in (((), {"2", "3", "4"}), (EXCLUDE, {"3"})):
        written.clear()
        trained.clear()
        cold_cache.reclaim_cold(str(guest), GENERATIONS, 1 << 40, "/x", exclude=exclude)
        assert {text.split()[1] for _, text in written} == numbers
        assert len(trained) == len(numbers)


def test_cold_cache_by_lists(
    guest: Path, written: list[tuple[str, str]], trained: list[str]
) -> None:
    cold_cache.reclaim_cold(str(guest), LISTS, 1 << 40, "/x", exclude=EXCLUDE)
    assert asked(written) == {"/a.slice/web.service"}
    assert trained == ["/a.slice/web.service"]


def test_warm_cache_is_taken_leaf_by_leaf_instead_of_from_the_root(
    guest: Path, written: list[tuple[str, str]]
) -> None:
    steps.reclaim_in_chunks(str(guest), 64 * MIB, swap=False)
    assert asked(written) == {""}
    written.clear()
    steps.reclaim_in_chunks(str(guest), 64 * MIB, swap=False, exclude=EXCLUDE)
    assert asked(written) == {"/a.slice/web.service"}
    assert sum(int(text.split()[0]) for _, text in written) == 64 * MIB


def test_all_cache_is_never_dropped(guest: Path, written: list[tuple[str, str]]) -> None:
    for what in (1, 3):
        with pytest.raises(KernelFileError, match=r"giveback\.exclude is set"):
            steps.execute(act.DropCaches(what=what), str(guest), AgentSettings(exclude=EXCLUDE))
    assert written == []
    steps.drop_slab(str(guest))
    assert len(written) == 1
    seen = observation(snapshot(1.0), urgency=URGENCY_STARVING)
    assert cache_goal.may_drop(Tick(seen, AgentSettings(), ABLE))
    assert not cache_goal.may_drop(Tick(seen, AgentSettings(exclude=EXCLUDE), ABLE))


def test_what_ended_is_taken_from_its_live_slice_and_never_from_the_root(
    guest: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = ("machine.slice/past.scope/container", "gone.slice/x.service")
    plant(guest, {"/sys/kernel/debug/lru_gen": lru(*ended)})
    wrote: list[tuple[str, str]] = []
    monkeypatch.setattr(files, "write", lambda _r, path, text: wrote.append((path, text)))
    ended_cgroups.reclaim_ended(str(guest), True, 1 << 40, "/x", exclude=EXCLUDE)
    assert asked(wrote) == {"/machine.slice"}
    assert trained == []
    protected = {path for path, _ in wrote if path.endswith("memory.low")}
    assert f"/sys/fs/cgroup/{LEAVES[2]}/memory.low" in protected
    wrote.clear()
    # If no excluded cgroup has cache, the root is asked for the rest.
    ended_cgroups.reclaim_ended(str(guest), True, 1 << 40, "/x", exclude=("other.service",))
    assert asked(wrote) == {"/machine.slice", ""}
    assert next(path for path, _ in wrote if path.endswith("memory.reclaim")).count("machine.slice")
