"""Workloads of the distribution guest at a small scale: a service's requests, and container commands.

podman, systemd-run and chown are stand-ins that run their arguments; real ones are in tests/vm.
"""

from __future__ import annotations

import array
import json
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_lab_guest import bench
from giveback_lab_guest.works import containers, ended, service
from giveback_lab_guest.works.containers import Containers
from giveback_lab_guest.works.service import Service50, Service70

MIB = 1 << 20
RAM = 64 * MIB
# Options begin with a dash; those of systemd-run that have a value here are -M and -p.
SYSTEMD_RUN = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do
    case "$1" in --unit=*) unit=1;; -M|-p) shift;; esac
    shift
done
[ -z "$unit" ] || { "$@" > /dev/null 2>&1 & echo $! > "%s/keeper"; exit 0; }
exec "$@"
"""
PODMAN = """#!/bin/sh
[ "$1" = run ] || exit 0
while [ "$1" != -v ]; do shift; done
cd "${2%:/job}" && shift 3 && exec "$@"
"""


def said_by(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    last: dict[str, float] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return last


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    texts = {
        "systemd-run": SYSTEMD_RUN % folder,
        "podman": PODMAN,
        "chown": "#!/bin/sh\nexit 0\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(bench.__file__).parents[1]))
    monkeypatch.setattr("sys.argv", [str(Path(bench.__file__).parent / "__main__.py")])
    return folder


def do(step: str, work: str, folder: Path) -> int:
    return bench.bench([step, work, str(folder), str(RAM), "1", "2"])


def test_containers_build_and_end_beside_a_service_that_stays(
    programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "work"
    try:
        assert do("run", "containers", folder) == 0
        hot_bytes = said_by(capsys)["hot_bytes"]
        assert 0 < hot_bytes < RAM // 16
        job = Containers(str(folder), RAM, 1, 2)
        for part in job.parts:
            made = sorted(path.name for path in Path(part.folder, "tree").iterdir())
            assert {name.partition(".")[2] for name in made} == {"", "sum", "o"}
            assert all(Path(part.folder, "tree", name).stat().st_size for name in made)
        assert do("reread", "containers", folder) == 0
        assert said_by(capsys)["reread_bytes"] > 0.8 * hot_bytes
        assert do("again", "containers", folder) == 0
        assert said_by(capsys)["again_s"] > 0
        again = [Path(part.folder, "tree/d0.again").exists() for part in job.parts]
        assert again == [True, False, True, False]
    finally:
        keeper = int((programs / "keeper").read_text())
        os.kill(keeper, signal.SIGKILL)


def test_a_program_that_fails_is_an_error_with_its_words(programs: Path) -> None:
    (programs / "podman").write_text("#!/bin/sh\necho no such image >&2\nexit 125\n")
    with pytest.raises(OSError, match=r"podman.*exit code 125: no such image"):
        containers.run(["podman", "run"])


def test_a_service_serves_by_its_schedule_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Service50(str(tmp_path), RAM, 1, 2)
    for _, act in job.phases():
        act()
    assert 0 < job.hot_bytes() < job.percent(service.FILES_PERCENT)
    assert job.prepare_reread()() > 0
    begin_s = time.monotonic()
    for worker in range(2):
        job.serve(worker, until_s=time.monotonic() + 0.3)
    assert do("report", "service-50", tmp_path) == 0
    said = said_by(capsys)
    assert said["requests"] >= 2
    assert 0 < said["p50_s"] <= said["p99_s"]
    assert 0 < said["span_s"] <= time.monotonic() - begin_s


def test_a_busier_service_has_more_requests_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a simulated clock: each request takes 10 ms, so at 70 % one is due every 14 ms."""
    now_s = [0.0]
    monkeypatch.setattr("giveback_lab_guest.works.service.time.monotonic", lambda: now_s[0])

    def rest(seconds: float) -> None:
        now_s[0] += seconds

    monkeypatch.setattr("giveback_lab_guest.works.service.time.sleep", rest)

    def request(*_: object) -> None:
        now_s[0] += 0.010

    counts = []
    for kind in (Service50, Service70):
        job = kind(str(tmp_path), RAM, 1, 1)
        monkeypatch.setattr(job, "request", request)
        monkeypatch.setattr(job, "_request_cpu_s", lambda _: 0.010)
        now_s[0] = 0.0
        job.serve(0, until_s=29.0)
        counts.append(job.report()["requests"])
    assert counts[0] == pytest.approx(29 / 0.020, rel=0.05)
    assert counts[1] == pytest.approx(29 * 0.70 / 0.010, rel=0.05)
    # The first burst comes after 30 s: its requests are all due at once, and so the last one is late.
    now_s[0] = 0.0
    job.serve(0, until_s=40.0)
    burst = job.report()
    assert burst["p99_s"] > 0.010
    assert burst["requests"] > 40 * 0.70 / 0.010 * 0.95


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 100)), max_size=60))
def test_figures_are_of_the_requests(requests: list[tuple[float, float]]) -> None:
    due_s = array.array("d", (due for due, _ in requests))
    end_s = array.array("d", (due + took for due, took in requests))
    said = service.figures(due_s, end_s)
    assert said["requests"] == len(requests)
    if requests:
        latencies = [end - due for due, end in zip(due_s, end_s, strict=True)]
        assert min(latencies) <= said["p50_s"] <= said["p99_s"] <= max(latencies)


def test_the_matrix_counts_pages_of_files_without_reading_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended.make_files(f"{tmp_path}/part/tree/d0", 5 * MIB, 1)
    paths = ended.paths_of(str(tmp_path), "part")
    assert [Path(path).stat().st_size for path in paths] == [ended.FILE_BYTES] * 2
    ended.read_all(paths)
    assert [ended.cached_bytes(path) for path in paths] == [ended.FILE_BYTES] * 2
    assert bench.bench(["ended", "cached", "part", str(tmp_path), "0", "1"]) == 0
    assert said_by(capsys)["bytes"] == 2 * ended.FILE_BYTES
