"""The public names of the room are the ones it lists."""

import subprocess
import sys

import foretell.routers


def test_every_public_name_is_listed_once():
    public = [name for name in vars(foretell.routers) if not name.startswith("_")]
    assert sorted(public) == sorted(foretell.routers.__all__)


def test_importing_routers_brings_no_heavy_library():
    code = "import foretell.routers, sys; print(*{'sklearn', 'scipy', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
