"""Compaction on request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import plant

from giveback_kernel import compaction
from giveback_kernel.errors import KernelFileError

if TYPE_CHECKING:
    from pathlib import Path


def test_all_memory(tmp_path: Path) -> None:
    assert not compaction.is_available(str(tmp_path))
    assert not compaction.is_permitted(str(tmp_path))
    root = plant(tmp_path, {compaction.PATH: b""})
    assert compaction.is_available(root)
    assert compaction.is_permitted(root)
    compaction.compact_all(root)
    assert (tmp_path / compaction.PATH.lstrip("/")).read_bytes() == b"1"


def test_one_node(tmp_path: Path) -> None:
    root = plant(tmp_path, {compaction.node_path(1): b""})
    (tmp_path / "sys/devices/system/node/node0").mkdir()
    assert compaction.nodes(root) == (0, 1)
    assert not compaction.node_is_available(root, 0)
    assert compaction.node_is_available(root, 1)
    compaction.compact_node(root, 1)
    assert (tmp_path / compaction.node_path(1).lstrip("/")).read_bytes() == b"1"
    with pytest.raises(KernelFileError, match="node0/compact"):
        compaction.compact_node(root, 0)


def test_only_nodes_are_nodes(tmp_path: Path) -> None:
    names = ["node10", "node2", "node", "nodeX", "node²", "online", "node123456", "memory3"]
    for name in names:
        (tmp_path / "sys/devices/system/node" / name).mkdir(parents=True)
    assert compaction.nodes(str(tmp_path)) == (2, 10)


def test_no_nodes_at_all(tmp_path: Path) -> None:
    assert compaction.nodes(str(tmp_path)) == ()


def test_a_kernel_without_compaction_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KernelFileError, match="compact_memory"):
        compaction.compact_all(str(tmp_path))
