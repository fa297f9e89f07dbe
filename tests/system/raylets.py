"""Three raylets on this machine, ended with standard input. A program of its own: Ray forks, which a process that has
used gRPC (the tests' own) does not survive every time."""

import sys

from potluck.deploy.settings import quiet_ray

quiet_ray()

from ray.cluster_utils import Cluster  # noqa: E402

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
try:
    for _ in range(2):
        cluster.add_node(wait=False, num_cpus=1)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    sys.stdin.read()
finally:
    cluster.shutdown()
