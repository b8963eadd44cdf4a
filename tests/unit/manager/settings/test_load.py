"""The manager's settings: all of a file, or an error that names everything wrong in it."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as unhurried
from hypothesis import strategies as st

from giveback.errors import InputError
from giveback.manager.settings import load, vm_patterns
from giveback.manager.settings.load import DaemonSettings, VmSettings
from giveback.manager.settings.values import MemoryMark, mark_of, size_of, span_of

ROOT = Path(__file__).parents[4]
MIB, GIB = 1 << 20, 1 << 30
NOBODY = {"HOME": "/home/ada", "XDG_RUNTIME_DIR": "/run/user/7"}


def read(text: str) -> DaemonSettings:
    return load.from_bytes(text.encode(), "a.toml", environ={}, uid=0)


def wrong(text: str) -> str:
    with pytest.raises(InputError) as caught:
        read(text)
    return str(caught.value)


# --- where they come from


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    found = load.load(environ=home, uid=7)
    assert found.source == "defaults"
    assert found.arbiter == load.ArbiterSettings()
    assert found.for_vm("any") == VmSettings()
    assert (found.cgroup, found.log_level, found.metrics_listen) == (None, "info", "")


def test_root_and_a_user_have_their_own_places() -> None:
    root = load.from_bytes(b"", "x", environ={}, uid=0)
    assert str(root.socket) == "/run/giveback-daemon/api.sock"
    assert str(root.history) == "/var/lib/giveback-daemon/history.db"
    assert str(load.default_path({}, 0)) == "/etc/giveback/giveback.toml"
    user = load.from_bytes(b"", "x", environ=NOBODY, uid=7)
    assert str(user.socket) == "/run/user/7/giveback-daemon/api.sock"
    assert str(user.state) == "/home/ada/.local/state/giveback-daemon"
    assert str(load.default_path(NOBODY, 7)) == "/home/ada/.config/giveback/giveback.toml"


def test_what_systemd_gives_the_unit_comes_before_that() -> None:
    given = NOBODY | {"RUNTIME_DIRECTORY": "/run/a:/run/b", "STATE_DIRECTORY": "/var/lib/a"}
    unit = load.from_bytes(b"", "x", environ=given, uid=7)
    assert (str(unit.socket), str(unit.state)) == ("/run/a/api.sock", "/var/lib/a")


def test_relative_folders_of_the_environment_are_passed_over() -> None:
    odd = {"HOME": "/h", "XDG_RUNTIME_DIR": "run", "XDG_STATE_HOME": "x", "STATE_DIRECTORY": "y"}
    found = load.from_bytes(b"", "x", environ=odd, uid=7)
    assert str(found.socket) == "/run/user/7/giveback-daemon/api.sock"
    assert str(found.state) == "/h/.local/state/giveback-daemon"


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no.toml: there is no such settings file"):
        load.load(tmp_path / "no.toml")
    with pytest.raises(InputError, match="directory"):
        load.load(tmp_path)


def test_the_default_file_is_read_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "giveback" / "giveback.toml"
    path.parent.mkdir()
    path.write_text('[daemon]\nlog_level = "debug"\n')
    found = load.load(environ={"XDG_CONFIG_HOME": str(tmp_path)}, uid=7)
    assert (found.log_level, found.source) == ("debug", str(path))


# --- what they say


def test_a_whole_file() -> None:
    found = read(
        """
        [host]
        cgroup = "/sys/fs/cgroup/vms.slice"
        short = "12.5%"
        calm = "20 %"
        horizon = "1m"
        calm_for = "90s"
        [daemon]
        socket = "/srv/api.sock"
        socket_group = "root"
        state = "/srv/state"
        metrics_listen = "127.0.0.1:9835"
        log_level = "warning"
        [history]
        path = "/srv/h.db"
        limit = "1.5G"
        [access]
        write = ["root"]
        read = ["@0", "65534"]
        [vm."ci-*"]
        floor = "512 MiB"
        weight = 2
        balloon = true
        virtio_mem = true
        ignore = false
        """
    )
    assert found.cgroup == "/sys/fs/cgroup/vms.slice"
    assert (found.arbiter.short.fraction, found.arbiter.calm.fraction) == (0.125, 0.2)
    assert (found.arbiter.horizon_s, found.arbiter.calm_for_s) == (60.0, 90.0)
    assert (str(found.socket), found.socket_group) == ("/srv/api.sock", "root")
    assert (str(found.history), found.history_limit_bytes) == ("/srv/h.db", 3 * GIB // 2)
    assert found.metrics_listen == "127.0.0.1:9835"
    assert found.access.reader_gids == {0}
    assert found.access.reader_uids == {65534}
    assert found.access.writer_uids == {0}
    assert found.for_vm("ci-7") == VmSettings(512 * MIB, 2.0, balloon=True, virtio_mem=True)
    assert found.for_vm("db") == VmSettings()


def test_no_history_may_be_kept() -> None:
    assert read("[history]\nkeep = false").history is None


def test_a_mark_may_be_a_size() -> None:
    found = read('[host]\nshort = "4G"\ncalm = "6G"')
    assert (found.arbiter.short.of(64 * GIB), found.arbiter.calm.of(64 * GIB)) == (
        4 * GIB,
        6 * GIB,
    )
    assert MemoryMark(least_bytes=4 * GIB).of(2 * GIB) == GIB
    assert MemoryMark(fraction=0.1, least_bytes=GIB, most_bytes=2 * GIB).of(64 * GIB) == 2 * GIB


# --- which table speaks of a VM


def test_the_more_specific_pattern_wins_key_by_key() -> None:
    found = read(
        """
        [vm."*"]
        weight = 3
        floor = "1G"
        [vm."ci-*"]
        floor = "2G"
        [vm.ci-db]
        balloon = true
        """
    )
    assert found.for_vm("web") == VmSettings(GIB, 3.0)
    assert found.for_vm("ci-1") == VmSettings(2 * GIB, 3.0)
    assert found.for_vm("ci-db") == VmSettings(2 * GIB, 3.0, balloon=True)


def test_of_two_as_specific_the_later_wins() -> None:
    first, second = '[vm."a*"]\nweight = 1\n', '[vm."*a"]\nweight = 2\n'
    assert read(first + second).for_vm("a").weight == 2
    assert read(second + first).for_vm("a").weight == 1


def test_case_counts_and_odd_names_match_nothing_by_accident() -> None:
    found = read('[vm."CI-[0-9]"]\nignore = true')
    assert found.for_vm("CI-7").ignore
    assert not any(found.for_vm(name).ignore for name in ("ci-7", "CI-x", "CI-77", "", "\n", "[a"))


@pytest.mark.parametrize(
    ("less", "more"),
    [("*", "a*"), ("a*", "ab*"), ("a*b*", "a*b"), ("???", "a??"), ("[ab]*", "ab*"), ("a*", "a")],
)
def test_what_is_more_specific(less: str, more: str) -> None:
    assert vm_patterns.specificity(less) < vm_patterns.specificity(more)


@unhurried(deadline=None)
@given(st.text(max_size=12), st.text(max_size=12))
def test_any_text_is_a_pattern(pattern: str, name: str) -> None:
    vm_patterns.specificity(pattern)
    assert vm_patterns.matches("*", name)
    vm_patterns.matches(pattern, name)


# --- what is refused


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[host]\nshrt = "1%"', "host.shrt: there is no such setting; did you mean short?"),
        ("[zoo]\na = 1", "zoo: there is no such setting; there are: host, daemon, history"),
        ('[vm."a*"]\nflor = 1', 'vm."a*".flor: there is no such setting; did you mean floor?'),
        ("[vm.a]\nfloor = 4", "vm.a.floor: must be a size with its unit, as text"),
        ('[vm.a]\nfloor = "4"', "vm.a.floor: must be a size with its unit"),
        ('[vm.a]\nbaloon = "yes"', "did you mean balloon?"),
        ('[vm.a]\nballoon = "yes"', "vm.a.balloon: must be true or false, not 'yes'"),
        ("[vm.a]\nweight = -1", "vm.a.weight: must be greater than or equal to 0.01, not -1"),
        ("[vm.a]\nweight = nan", "vm.a.weight: must be a number, not nan"),
        ("[vm.a]\nweight = true", "vm.a.weight: must be a number, not true"),
        ('vm = "x"', "vm: must be a table, not 'x'"),
        ("[vm]\na = 3", "vm.a: must be a table, not 3"),
        ("[host]\nshort = 10", 'host.short: must be a part of memory up to "50%", or a size'),
        ('[host]\nshort = "60%"', "host.short: must be a part"),
        ('[host]\nshort = "20%"', "host.calm: 15% must be more than host.short, which is 20%"),
        ('[host]\nshort = "4G"\ncalm = "4G"', "host.calm: 4.0 GiB must be more than"),
        ("[host]\nhorizon = 30", 'host.horizon: must be a time with its unit, as text, from "1s"'),
        ('[host]\nhorizon = "11m"', 'host.horizon: at most "10m"'),
        ('[host]\nhorizon = "0s"', "host.horizon: must be a time"),
        ('[host]\ncgroup = "vms"', "host.cgroup: must be an absolute path, as text, not 'vms'"),
        ('[daemon]\nlog_level = "loud"', "'debug', 'info', 'warning' or 'error', not 'loud'"),
        ('[daemon]\nmetrics_listen = "9835"', "daemon.metrics_listen: '9835' is not ADDRESS:PORT"),
        ('[daemon]\nmetrics_listen = "a:70000"', "is not ADDRESS:PORT"),
        ('[daemon]\nmetrics_listen = "localhost:9835"', "is not ADDRESS:PORT"),
        ('[daemon]\nmetrics_listen = "0.0.0.0:9835"', "'0.0.0.0:9835': only loopback"),
        (
            '[daemon]\nsocket_group = "no-such-x"',
            "daemon.socket_group: group 'no-such-x' does not exist",
        ),
        ('[history]\nlimit = "1M"', "history.limit: at least 8M"),
        ('[access]\nread = "a"', "access.read: must be a list of text"),
        ("[access]\nread = [3]", "access.read[0]: must be text, not 3"),
        (
            '[access]\nwrite = ["no-such-user-x"]',
            "access.write[0]: user 'no-such-user-x' does not exist",
        ),
        ('[access]\nwrite = [""]', "access.write[0]: user '' does not exist"),
        ('[access]\nread = ["root", "@{x}"]', "access.read[1]: group '{x}' does not exist"),
        ("[host", "a.toml: not valid TOML: "),
        ("a = 1\na = 2", "a.toml: not valid TOML: "),
    ],
)
def test_what_is_wrong_is_named_by_its_full_key(text: str, says: str) -> None:
    assert says in wrong(text)
    assert wrong(text).startswith("a.toml: ")


def test_everything_wrong_is_said_at_once() -> None:
    said = wrong('[host]\nshort = 1\nlong = 2\n[vm.a]\nfloor = 3\n[daemon]\nlog_level = "x"')
    assert said.startswith("a.toml: 4 settings are wrong:\n  ")
    assert len(said.splitlines()) == 5


def test_what_a_start_would_refuse_is_said_with_the_rest() -> None:
    said = wrong(
        '[host]\nshort = "30%"\nhorizon = "1h"\n[history]\nlimit = "1K"\n[vm.a]\nfloor = 3\n'
        '[daemon]\nmetrics_listen = "1"\nsocket_group = "no-x"\n[access]\nread = ["no-x", "no-y"]'
    )
    assert [line.split(": ")[0].strip() for line in said.splitlines()[1:]] == [
        "host.horizon", "daemon.socket_group", "daemon.metrics_listen", "history.limit",
        "access.read[0]", "access.read[1]", "vm.a.floor",
    ]  # fmt: skip
    assert "host.calm: 15% must be more" in wrong('[host]\nshort = "30%"\n[vm.a]\nfloor = 3')


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="byte 4 is not UTF-8"):
        load.from_bytes(b"a = \xff", "f")
    with pytest.raises(InputError, match="longer than"):
        load.from_bytes(b"#" * (load.FILE_LIMIT_BYTES + 1), "f")
    with pytest.raises(InputError, match="not valid TOML"):
        load.from_bytes(b"a = " + b"[" * 5000, "f")


def test_foreign_text_in_an_error_is_made_safe() -> None:
    assert "\x1b" not in wrong('[vm."\\u001b[2J"]\nflor = 1')
    assert len(wrong("[host]\n" + "\n".join(f"k{n} = 1" for n in range(500)))) < 20_000


@unhurried(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_settings_or_an_error(data: bytes) -> None:
    try:
        load.from_bytes(data, "f", environ={}, uid=0)
    except InputError as error:
        said = str(error)
    else:
        said = "f: "
    assert said.startswith("f: ")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@unhurried(deadline=None)
@given(VALUES)
def test_a_value_of_any_kind_is_one_or_is_refused_with_what_is_allowed(value: object) -> None:
    for read_value in (size_of, span_of, mark_of):
        try:
            said = repr(str(read_value(value)))
        except ValueError as error:
            said = str(error)
        assert said
        assert "\n" not in said


@unhurried(deadline=None)
@given(st.integers(0, 1 << 40), st.sampled_from("KMGT"))
def test_sizes_are_powers_of_1024(number: int, unit: str) -> None:
    power = 10 * (1 + "KMGT".index(unit))
    if number << power < 1 << 57:
        for text in (f"{number}{unit}", f"{number}{unit}B", f"{number} {unit.lower()}iB"):
            assert size_of(text) == number << power


# --- the example and the table for users


EXAMPLE = ROOT / "src/giveback/manager/data/giveback.toml"


def test_the_example_says_the_defaults_and_is_valid() -> None:
    text = EXAMPLE.read_text()
    plain = read(text)
    assert plain.vms == {}
    assert plain.arbiter == load.ArbiterSettings()
    uncommented = re.sub(r"(?m)^#(?=[a-z_\[])", "", text)
    shown = read(uncommented)
    assert shown.vms
    assert shown.log_level == "info"
    assert shown.arbiter.short.fraction == load.ArbiterSettings().short.fraction
    assert shown.arbiter.calm.fraction == load.ArbiterSettings().calm.fraction
    assert shown.arbiter.horizon_s == load.ArbiterSettings().horizon_s
    assert shown.arbiter.calm_for_s == load.ArbiterSettings().calm_for_s
    assert (
        shown.history_limit_bytes
        == DaemonSettings.__dataclass_fields__["history_limit_bytes"].default
    )
    assert (shown.socket, shown.state) == (plain.socket, plain.state)


def test_every_setting_has_its_row_and_its_example() -> None:
    table = (ROOT / "docs/daemon-settings.md").read_text()
    example = EXAMPLE.read_text()
    for section, model in {
        "host": load._HostTable,
        "daemon": load._DaemonTable,
        "history": load._HistoryTable,
        "access": load._AccessTable,
        "usage": load._UsageTable,
        "vm": load._VmTable,
    }.items():
        for spec in fields(model):
            key = f'vm."PATTERN".{spec.name}' if section == "vm" else f"{section}.{spec.name}"
            assert f"| `{key}` |" in table, key
            assert re.search(rf"(?m)^#?{spec.name} = ", example), key
    rows = re.findall(r"(?m)^\| `([a-z]+\.\S+)` \|", table)
    assert len(rows) == len(set(rows)) == 27
    assert os.access(EXAMPLE, os.R_OK)


def test_marks_are_compared_also_where_another_key_is_wrong() -> None:
    with pytest.raises(InputError) as caught:
        load.from_bytes(b'[host]\nshort = "20%"\ncalm = "5%"\nhorizon = "never"\n', "x")
    assert "host.horizon" in str(caught.value)
    assert "host.calm: 5% must be more than host.short, which is 20%" in str(caught.value)
    with pytest.raises(InputError) as caught:
        load.from_bytes(b'[host]\ncalm = "5%"\n', "x")
    assert str(caught.value).count("host.calm") == 1


def test_a_calm_host_may_have_cold_cache_returned() -> None:
    assert load.from_bytes(b"", "x").arbiter.on_calm == "keep"
    assert load.from_bytes(b'[host]\non_calm = "cold"\n', "x").arbiter.on_calm == "cold"
    with pytest.raises(InputError, match=r"host\.on_calm: must be 'keep' or 'cold'"):
        load.from_bytes(b'[host]\non_calm = "hot"\n', "x")


@pytest.mark.parametrize(
    "key", ["vm.web.floor", "history.keep", "nothing.of.ours", "metrics_listen"]
)
@pytest.mark.parametrize("number", ["9" * 4300, "9" * 4301, "9" * 200_000, "0x" + "f" * 200_000])
def test_a_number_of_any_length_is_refused_in_words(key: str, number: str) -> None:
    assert len(wrong(f"{key} = {number}\n")) < 1000


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match="not a regular file"):
            load.load(path)
