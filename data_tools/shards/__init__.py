"""Tar shards: planning, writing and indexing."""

from importlib.util import find_spec

from octvideo.errors import UserError

for _module in ("fsspec", "webdataset"):
    if find_spec(_module) is None:
        raise UserError(f"{_module} is not installed: pip install -e '.[shards]'")
