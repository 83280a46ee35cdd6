"""Tests of one group run in one process of pytest-xdist."""

import pytest


@pytest.mark.xdist_group("together")
def test_groups_reach_the_processes_of_xdist(request):
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("not a process of pytest -n 2 --dist loadgroup")
    # Some versions of pytest ignore the group, so that shared fixtures are built twice.
    assert request.node.nodeid.endswith("@together")
