"""The networks that the page offers: by name, loaded at first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from threading import Lock
from typing import Any, NamedTuple

from octvideo.inference import Predictor
from octvideo.models.zoo import list_models, model_cfg, published, warm_start

__all__ = ["DOWNLOADS", "ONE_AT_A_TIME", "Facts", "Networks", "facts", "trained_models"]

ONE_AT_A_TIME = "network"  # Gradio's name of a queue: a predictor computes one thing at a time
DOWNLOADS = "All but the small ones are downloaded at first use."
_KEPT = 4  # loaded networks; those not used for longest go first
_TRAINED_ON = {
    "weizmann": "Weizmann: 90 clips of ten actions, nine persons, one scene. Surveillance cameras and drawn clips "
    "taught it what is none of these.",
    "k400": "Kinetics-400: 400 actions in videos from the web.",
}


class Facts(NamedTuple):
    """Where a network's weights come from."""

    weights: str
    trained_on: str


@cache
def trained_models() -> tuple[str, ...]:
    """Return the names of the networks whose published weights were trained as they are, those that ship first."""
    names = [name for name in list_models() if not warm_start(name, model_cfg(name).OCTAVE.ALPHA)]
    return tuple(sorted(names, key=lambda name: (not _ships(name), not name.startswith("oct_"), name)))


def facts(name: str) -> Facts:
    """Return the facts about the weights of a network: a name of ``trained_models()``, or the name of a file."""
    if name not in trained_models():
        return Facts(name, "Not recorded here; the page of its training run has it.")
    weights = next(iter(published(name).values()))
    place = "ships with octvideo" if _ships(name) else f"{weights.source}, downloaded at first use"
    return Facts(f"{weights.name} ({place})", _TRAINED_ON[weights.tag])


def _ships(name: str) -> bool:
    return not next(iter(published(name).values())).address


class Networks:
    """Predictors by name.

    Args:
        create: makes a predictor from keyword arguments of ``Predictor``, with the backend and the device set.
        first: name of the network that the command line chose.
        chosen: the keyword arguments that choose it.
    """

    def __init__(self, create: Callable[..., Predictor], first: str, chosen: Mapping[str, Any]) -> None:
        self.create, self.first, self._chosen = create, first, chosen
        self._lock = Lock()
        self._load = lru_cache(_KEPT)(self._create)

    def names(self) -> list[str]:
        """Return the names to choose from: the first, and all trained models."""
        return list(dict.fromkeys([self.first, *trained_models()]))

    def predictor(self, name: str, *, camera: bool = False) -> Predictor:
        """Return the predictor of a network. The camera has its own: it does not wait in the queue.

        Raises:
            UserError: the weights cannot be downloaded or read.
        """
        with self._lock:
            return self._load(name, camera)

    def _create(self, name: str, camera: bool) -> Predictor:
        return self.create(**(self._chosen if name == self.first else {"model": name}))
