"""The worked examples of CONTRIBUTING.md: each is a module that imports, with a test that passes."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from giveback_lab.bench.strategy import Strategy

if TYPE_CHECKING:
    from types import ModuleType

TOP = Path(__file__).parents[3]
BLOCK = re.compile(r"^```python\n# (?P<path>\S+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = {
    match["path"]: match["code"] for match in BLOCK.finditer((TOP / "CONTRIBUTING.md").read_text())
}


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Every example, imported under the name that it would have in the tree."""
    imported = {}
    for path, code in EXAMPLES.items():
        name = path.removeprefix("src/").removesuffix(".py").replace("/", ".")
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        if path.startswith("src/"):
            package, _, last = name.rpartition(".")
            monkeypatch.setitem(sys.modules, name, module)
            monkeypatch.setattr(importlib.import_module(package), last, module, raising=False)
        spec.loader.exec_module(module)
        imported[file.name] = module
    return imported


def test_the_tests_of_the_examples_pass(examples: dict[str, ModuleType], tmp_path: Path) -> None:
    ran = 0
    for module in examples.values():
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("test_"):
                function(
                    **({"tmp_path": tmp_path} if inspect.signature(function).parameters else {})
                )
                ran += 1
    assert ran == 4


def test_the_command_has_what_the_command_line_needs(examples: dict[str, ModuleType]) -> None:
    command = examples["count.py"]
    parser = argparse.ArgumentParser()
    command.prepare_parser(parser)
    assert parser.parse_args(["--backend", "qemu"]).backend == "qemu"
    assert command.HELP
    assert inspect.signature(command.run).parameters.keys() == {"args"}


def test_the_strategy_is_one(examples: dict[str, ModuleType]) -> None:
    strategy = examples["swappy.py"].SWAPPY
    assert isinstance(strategy, Strategy)
    assert inspect.iscoroutinefunction(strategy.start)


def test_every_folder_of_an_example_exists() -> None:
    assert len(EXAMPLES) == 6
    for path in EXAMPLES:
        assert (TOP / path).parent.is_dir()
        assert not (TOP / path).exists()
