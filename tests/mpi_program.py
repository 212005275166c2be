"""For `mpiexec -n 3 python -m mpi4py.futures mpi_program.py FOLDER [TRIALS]`; leaves result.json there.

TRIALS: after so many, a worker is killed, and with it MPI ends the whole job.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from mpi4py.futures import MPIPoolExecutor

from search_setting import After, plain, search
from search_tasks import Diary, by_key, noted, tasks
from tinygrad_cr.search import run_tasks

if __name__ == "__main__":
    root = Path(sys.argv[1])
    diary = Diary(root / "diary")
    with MPIPoolExecutor() as executor:
        found: dict[str, Any] = {"master": os.getpid(), "workers": executor.num_workers}
        results = by_key(run_tasks(tasks(8), partial(noted, diary.folder, 0.05), executor))
        found["squares"] = [rows[0]["square"] for rows in results.values()]
        found["processes"] = [diary.begun(i)[-1] for i in range(8)]
        reporter: Any = False
        if len(sys.argv) > 2:
            reporter = After(int(sys.argv[2]), lambda: os.kill(found["processes"][0], signal.SIGKILL))
        found["rows"] = plain(search(executor, root / "search", reporter=reporter))
    (root / "result.json").write_text(json.dumps(found))
