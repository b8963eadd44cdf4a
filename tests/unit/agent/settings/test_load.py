"""Settings: the layers, the source of each value, and that no file can do harm."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import giveback_agent
from giveback_agent.commands import config
from giveback_agent.errors import UsageError
from giveback_agent.settings import table, unknown_keys
from giveback_agent.settings.load import COMMAND_LINE, CONF_PATH, DEFAULT, Loaded, load, parse_value
from giveback_agent.settings.table import TABLE, WSL_MODES, AgentSettings, Setting
from giveback_agent.wsl.detect import Drive, WslHost

DOC = Path(__file__).parents[4] / "docs" / "settings.md"
PROFILE = "/mnt/c/Users/me"
WSLCONFIG = f"{PROFILE}/.wslconfig"
HOST = WslHost("5.15-microsoft-standard-WSL2", ("kernel release",), drives=(Drive("C", "/mnt/c"),))


def put(root: Path, path: str, content: str | bytes) -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def load_conf(root: Path, text: str) -> Loaded:
    put(root, CONF_PATH, text)
    return load(str(root), [])


@st.composite
def good_values(draw: st.DrawFn, setting: Setting, key: str) -> str:
    """A value that `key` takes, in one of the spellings it may have."""
    if setting.kind == "bool":
        return draw(st.sampled_from(["1", "0", "true", "FALSE", "True"]))
    if setting.kind == "enum":
        word = draw(st.sampled_from(table.choices(key)))
        return draw(st.sampled_from([word, word.upper(), word.lower()]))
    if setting.kind == "patterns":
        return draw(st.sampled_from(["none", "a.service", "a.service, machine.slice/libpod-*"]))
    number = draw(st.integers(setting.low, setting.high))
    spelt = (str(number), str(number) if setting.kind == "size" else hex(number))
    return draw(st.sampled_from(spelt))


def test_the_table_covers_every_field_once_with_a_default_that_is_valid() -> None:
    assert [s.field for s in TABLE] == list(AgentSettings._fields)
    keys = [key.lower() for s in TABLE for key in s.keys]
    assert len(set(keys)) == len(keys)
    for setting in TABLE:
        default = getattr(AgentSettings(), setting.field)
        text = table.format_value(setting, default)
        assert parse_value(setting, setting.keys[0], text) == default


def test_the_page_in_docs_and_the_table_agree() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in DOC.read_text().splitlines()
        if line.startswith("| `")
    ]
    expected = [
        [
            ", ".join(f"`{key}`" for key in setting.keys),
            f"`{table.format_value(setting, getattr(AgentSettings(), setting.field))}`",
            valid_in_words(setting),
            setting.reason,
        ]
        for setting in TABLE
    ]
    assert rows == expected


def valid_in_words(setting: Setting) -> str:
    if setting.kind == "enum":
        return ", ".join(f"`{c}`" for c in table.choices(setting.keys[0]))
    if setting.kind == "bool":
        return "`true`, `false`"
    if setting.kind == "patterns":
        return "names or paths of cgroups between commas, with `*` and `?`"
    return "a size" if setting.kind == "size" else f"{setting.low} to {setting.high}"


def test_nothing_set_is_all_default(tmp_path: Path) -> None:
    loaded = load(str(tmp_path), [])
    assert loaded.settings == AgentSettings()
    assert set(loaded.sources.values()) == {DEFAULT}
    assert loaded.warnings == ()
    assert loaded.files == ((CONF_PATH, "not there"),)


@given(st.data())
def test_the_highest_layer_with_a_good_value_counts(data: st.DataObject) -> None:
    setting = data.draw(st.sampled_from(TABLE))
    key = data.draw(st.sampled_from(setting.keys))
    texts = [
        data.draw(st.none() | st.just("anything") | good_values(setting, key)) for _ in range(2)
    ]
    override = data.draw(st.none() | good_values(setting, key))
    section, _, name = key.partition(".")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        put(root, f"{PROFILE}/kept", "")
        for path, text in zip((WSLCONFIG, CONF_PATH), texts, strict=True):
            if text is not None:
                put(root, path, f"[{section}]\n{name} = {text}\n")
        loaded = load(folder, [] if override is None else [f"{key}={override}"], HOST)
    effective, source = getattr(AgentSettings(), setting.field), DEFAULT
    layers = (f"{WSLCONFIG}:2", f"{CONF_PATH}:2", COMMAND_LINE)
    for text, where in zip((*texts, override), layers, strict=True):
        value = None if text is None else parse_value(setting, key, text)
        if value is not None:
            effective, source = value, where
    assert getattr(loaded.settings, setting.field) == effective
    assert loaded.sources.pop(setting.field) == source
    assert set(loaded.sources.values()) == {DEFAULT}


@given(st.binary(max_size=300))
def test_no_file_can_make_it_fail_or_leave_the_valid_range(data: bytes) -> None:
    prefixed = b"[giveback]\nmode=gradual\n" + data
    with tempfile.TemporaryDirectory() as folder:
        for content in (data, prefixed):
            put(Path(folder), CONF_PATH, content)
            loaded = load(folder, [])
            for setting in TABLE:
                text = table.format_value(setting, getattr(loaded.settings, setting.field))
                assert parse_value(setting, setting.keys[0], text) is not None


@pytest.mark.parametrize("bad", ["/", "a//b", "..", "x" * 201, ",".join(["a"] * 33)])
def test_a_bad_pattern_names_its_key_and_line(tmp_path: Path, bad: str) -> None:
    put(tmp_path, CONF_PATH, f"[giveback]\nexclude = {bad}\n")
    loaded = load(str(tmp_path), [])
    assert loaded.settings.exclude == ()
    assert len(loaded.warnings) == 1
    assert loaded.warnings[0].startswith("Invalid patterns '")
    assert f"for key 'giveback.exclude' in {CONF_PATH}:2" in loaded.warnings[0]


def test_wslconfig_is_not_read_outside_wsl(tmp_path: Path) -> None:
    put(tmp_path, WSLCONFIG, "[experimental]\nautoMemoryReclaim=gradual\n")
    assert load(str(tmp_path), [], None).settings.mode == "adaptive"
    assert load(str(tmp_path), [], HOST).settings.mode == "gradual"


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        (
            "[experimental]\nautoMemoryReclaim=true",
            (
                "Invalid value 'true' for config key 'experimental.autoMemoryReclaim' in {}:2 "
                "(Valid values: Disabled, DropCache, Gradual)"
            ),
        ),
        (
            "[experimental]\nautoMemoryReclaim=adaptive",
            (
                "Invalid value 'adaptive' for config key 'experimental.autoMemoryReclaim' in {}:2 "
                "(Valid values: Disabled, DropCache, Gradual)"
            ),
        ),
        (
            "[giveback]\nMode=",
            (
                "Invalid value '' for config key 'giveback.Mode' in {}:2 "
                "(Valid values: adaptive, disabled, dropcache, gradual)"
            ),
        ),
        (
            "[giveback]\ndryRun=yes",
            "Invalid boolean value 'yes' for key 'giveback.dryRun' in {}:2",
        ),
        (
            "[giveback]\nidleWindow=10s",
            "Invalid integer value '10s' for key 'giveback.idleWindow' in {}:2",
        ),
        (
            "[giveback]\nidleBusyPercent=101",
            (
                "Invalid integer value '101' for key 'giveback.idleBusyPercent' in {}:2 "
                "(Valid values: 1 to 100)"
            ),
        ),
        (
            "[giveback]\ncacheFloor=1 GB",
            "Invalid memory string '1 GB' for entry 'giveback.cacheFloor' in {}:2",
        ),
        (
            "[giveback]\nidleWindw=10",
            "Unknown key 'giveback.idleWindw' in {}:2: did you mean 'giveback.idleWindow'?",
        ),
        (
            "[wsl2]\nautoMemoryReclaim=gradual",
            (
                "Unknown key 'wsl2.autoMemoryReclaim' in {}:2: "
                "'autoMemoryReclaim' belongs in section [experimental]"
            ),
        ),
        (
            "[experimental]\npageReporting=false",
            (
                "Unknown key 'experimental.pageReporting' in {}:2: "
                "'pageReporting' belongs in section [giveback] or [wsl2]"
            ),
        ),
        (
            "\nmemory=4GB",
            "Unknown key 'memory' in {}:2: 'memory' belongs in section [wsl2]",
        ),
        (
            "[boot]\nsystemd=true",
            (
                "Unknown key 'boot.systemd' in {}:2: "
                "section [boot] belongs in the distribution's /etc/wsl.conf"
            ),
        ),
        ("[wsl2]\nxyzzy=1", "Unknown key 'wsl2.xyzzy' in {}:2"),
        ("[giveback]\nmode", "Expected '=' in {}:2"),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_changes_nothing(
    tmp_path: Path, line: str, warning: str
) -> None:
    loaded = load_conf(tmp_path, line)
    assert loaded.warnings == (warning.format(CONF_PATH),)
    assert loaded.settings == AgentSettings()
    assert set(loaded.sources.values()) == {DEFAULT}


def test_the_first_of_duplicates_counts_even_if_it_is_bad(tmp_path: Path) -> None:
    loaded = load_conf(tmp_path, "[giveback]\nmode=bad\nmode=gradual\n")
    assert loaded.settings.mode == "adaptive"
    assert [w.partition(" in ")[0] for w in loaded.warnings] == [
        "Duplicated config key 'giveback.mode'",
        "Invalid value 'bad' for config key 'giveback.mode'",
    ]


@pytest.mark.parametrize("swapped", [False, True])
def test_our_mode_beats_wsls_in_the_same_file(tmp_path: Path, swapped: bool) -> None:
    lines = ["[experimental]\nautoMemoryReclaim=disabled\n", "[giveback]\nmode=adaptive\n"]
    loaded = load_conf(tmp_path, "".join(reversed(lines) if swapped else lines))
    assert loaded.settings.mode == "adaptive"
    assert loaded.sources["mode"].startswith(CONF_PATH)
    assert loaded.warnings == ()


@pytest.mark.parametrize("mode", WSL_MODES)
def test_wsls_modes_under_their_names(tmp_path: Path, mode: str) -> None:
    put(tmp_path, WSLCONFIG, f"[Experimental]\nAUTOMEMORYRECLAIM={mode}\n")
    loaded = load(str(tmp_path), [], HOST)
    assert loaded.settings.mode == mode.lower()
    assert loaded.sources["mode"] == f"{WSLCONFIG}:2"


def test_every_real_wsl_key_is_silently_fine(tmp_path: Path) -> None:
    lines = []
    for section, keys in unknown_keys.WSL_KEYS.items():
        lines += [f"[{section}]", *(f"{key}=Disabled" for key in keys.split())]
    put(tmp_path, WSLCONFIG, "\n".join(lines))
    assert load(str(tmp_path), [], HOST).warnings == ()


def test_the_keys_of_2019_are_honoured_with_a_note(tmp_path: Path) -> None:
    put(tmp_path, WSLCONFIG, "[wsl2]\npageReporting=false\nidleThreshold=0\n")
    loaded = load(str(tmp_path), [], HOST)
    assert loaded.settings.page_reporting is False
    assert loaded.settings.idle_threshold == 0
    assert len(loaded.warnings) == 2
    assert all("WSL itself ignores this key" in w for w in loaded.warnings)


def test_an_unreadable_or_enormous_conf_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "etc/giveback.conf").mkdir(parents=True)
    loaded = load(str(tmp_path), [])
    assert loaded.settings == AgentSettings()
    assert "Failed to open config file" in loaded.warnings[0]
    assert "Is a directory" in loaded.warnings[0]
    (tmp_path / "etc/giveback.conf").rmdir()
    loaded = load_conf(tmp_path, "[giveback]\nmode=gradual\n" + "#" * (1 << 20))
    assert loaded.settings == AgentSettings()
    assert "longer than" in loaded.warnings[0]


def test_overrides_may_leave_the_section_out_and_the_last_counts(tmp_path: Path) -> None:
    put(tmp_path, CONF_PATH, "[giveback]\nmode=disabled\nswap=true\n")
    loaded = load(str(tmp_path), ["giveback.mode=gradual", " cacheFloor =1GB", "MODE=dropcache"])
    assert loaded.settings.mode == "dropcache"
    assert loaded.settings.cache_floor_bytes == 1 << 30
    assert loaded.sources["mode"] == loaded.sources["cache_floor_bytes"] == COMMAND_LINE
    assert loaded.sources["swap"] == f"{CONF_PATH}:3"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("mode", "section.key=value"),
        ("giveback.dryRun=ture", "Invalid boolean value 'ture' for key 'giveback.dryRun'"),
        ("giveback.mood=gradual", "did you mean 'giveback.mode'?"),
        ("wsl2.memory=4GB", "Unknown setting 'wsl2.memory' on the command line"),
        ("lowestReportOrder=16", "(Valid values: 0 to 15)"),
        ("\x1b[31m=1", "\\x1b"),
    ],
)
def test_a_bad_override_is_refused_by_name(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(str(tmp_path), [override])
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


@given(st.text(max_size=40))
def test_any_override_is_taken_or_refused(override: str) -> None:
    try:
        said = str(load("/nonexistent", [override]).sources.values())
        assert COMMAND_LINE in said
    except UsageError as error:
        said = str(error)
    assert said.isprintable()


words = st.text("abcd", max_size=6)


@given(words, words, words)
def test_the_edit_distance_is_a_metric(one: str, two: str, three: str) -> None:
    distance = unknown_keys.distance
    assert (distance(one, two) == 0) is (one == two)
    assert distance(one, two) == distance(two, one)
    assert distance(one, three) <= distance(one, two) + distance(two, three)
    assert abs(len(one) - len(two)) <= distance(one, two) <= max(len(one), len(two))


@given(st.sampled_from([k for s in TABLE for k in s.keys]), st.data())
def test_one_slip_in_a_key_is_recognised(key: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(key) - 1))
    slipped = key[:at] + data.draw(st.sampled_from(["", "x", key[at] * 2])) + key[at + 1 :]
    assert unknown_keys.nearest(slipped, [k for s in TABLE for k in s.keys]) == key


def run_config(capsys: pytest.CaptureFixture[str], root: Path, *argv: str) -> str:
    parser = argparse.ArgumentParser()
    config.prepare_parser(parser)
    args = parser.parse_args(argv, argparse.Namespace(root=str(root), set=["swap=true"]))
    assert config.run(args) == 0
    return capsys.readouterr().out


def test_config_shows_value_source_and_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, CONF_PATH, "[giveback]\ncacheFloor=1GB\nmode=bad\n")
    lines = [line.split() for line in run_config(capsys, tmp_path).splitlines()]
    assert ["giveback.cacheFloor", "1GB", f"{CONF_PATH}:2"] in lines
    assert ["giveback.swap", "true", "command", "line"] in lines
    assert ["giveback.mode", "adaptive", "default"] in lines
    assert ["WSL", "2:", "no"] in lines
    assert any(line[:2] == ["Invalid", "value"] for line in lines)


def test_config_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "/proc/sys/kernel/osrelease", "5.15.0-microsoft-standard-WSL2\n")
    shown = json.loads(run_config(capsys, tmp_path, "--json"))
    assert shown["settings"]["giveback.swap"] == {"value": True, "source": COMMAND_LINE}
    assert shown["settings"]["giveback.cacheFloor"] == {"value": 64 << 20, "source": DEFAULT}
    assert [f["path"] for f in shown["files"]] == [".wslconfig", CONF_PATH]
    assert shown["wsl2"]["release"] == "5.15.0-microsoft-standard-WSL2"


def test_the_service_pays_for_no_heavy_import() -> None:
    heavy = "dataclasses typing argparse json re pathlib inspect enum logging subprocess signal"
    code = (
        f"import sys; sys.path.insert(0, {str(Path(giveback_agent.__file__).parents[1])!r})\n"
        "from giveback_agent.settings import load as settings\nfrom giveback_agent.wsl import detect as wsl\n"
        "assert settings.detect_wsl('/nonexistent') is None\n"
        "settings.load('/nonexistent', ['mode=gradual'], wsl.WslHost('r', ('e',)))\n"
        f"print(sorted(set(sys.modules) & set({heavy.split()!r})))"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
