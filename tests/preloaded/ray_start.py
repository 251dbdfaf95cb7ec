"""`ray start`, given its options, whose node has ready workers and none of the services that nobody asks."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ray.scripts.scripts import cli

from orchestrator.adapters.ray_internals import without_idle_services
from tests.preloaded.processes import ready_ray_workers

with without_idle_services(), ready_ray_workers():
    cli(["start", *sys.argv[1:]])
