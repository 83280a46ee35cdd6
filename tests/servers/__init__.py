"""Servers on this machine that stand for cloud services, for tests.

The fixtures `gcs` and `s3` of `tests/conftest.py` start fake-gcs-server and moto on first use, once
per test process. All requests go through a `proxy.Proxy`, which records them and injects faults.
"""

from tests.servers.buckets import Buckets, start_gcs, start_s3

__all__ = ["Buckets", "start_gcs", "start_s3"]
