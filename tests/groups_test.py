"""That tests which belong together run in one process."""

import pytest


@pytest.mark.xdist_group("together")
def test_groups_reach_the_processes_of_xdist(request):
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("not a process of pytest -n 2 --dist loadgroup")
    # Some versions of pytest take no notice of the name that xdist gives; all is made twice then.
    assert request.node.nodeid.endswith("@together")
