"""Load checkpoints of octvideo and of other projects, by path or URL."""

from octvideo.models.checkpoints.files import is_url, local_file, read_checkpoint, state_of
from octvideo.models.checkpoints.inflate import inflate
from octvideo.models.checkpoints.load import LoadReport, fit, load_weights

__all__ = ["LoadReport", "fit", "inflate", "is_url", "load_weights", "local_file", "read_checkpoint", "state_of"]
