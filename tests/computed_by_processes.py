"""Steps of training by several processes: what each of them runs, `python -m tests.computed_by_processes DATA CASES`.

CASES is JSON, a list of [family, overrides]. Process 0 prints for each a line of JSON, what `compute` says of it.
"""

import json
import sys
from pathlib import Path

from absl import flags

from s2sjax.processes import distributed, jax_settings
from tests.computation import compute
from tests.tiny import tiny

if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    distributed.start()
    jax_settings.configure_jax()
    for family, overrides in json.loads(sys.argv[2]):
        losses, batches = compute(tiny(Path(sys.argv[1]), family, **overrides))
        print(json.dumps({"losses": losses.tolist(), "batches": batches}), flush=True)
    sys.exit(distributed.finish(0))
