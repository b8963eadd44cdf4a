"""The capabilities that a child probed arrive unchanged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.policy.observation import KernelCapabilities
from giveback_agent.release import capabilities

FLAGS = st.booleans()


@given(
    st.builds(
        KernelCapabilities,
        reporting=st.none() | FLAGS,
        order=st.none() | st.integers(-1, 20),
        order_settable=FLAGS,
        reclaim=FLAGS,
        drop_caches=FLAGS,
        compaction=FLAGS,
        cold_method=st.sampled_from(["none", "lists", "limits", "generations"]),
        drain=FLAGS,
        cold_anon=FLAGS,
        fast_reports=FLAGS,
    )
)
def test_what_a_child_found_out_arrives_whole(can: KernelCapabilities) -> None:
    words = capabilities._encoded(can).decode().split()
    assert capabilities._decoded(words) == can
