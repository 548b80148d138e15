"""Which layers become octave: the network's own code, run with pairs until nothing stands against them.

Each run is dry, on an example without values where that is possible. Convolutions write pairs, and
:mod:`octvideo.octave.dispatch` reports what meets them. A convolution writes a tensor in the next run where its pair

- meets a full-size tensor, as in a sum with the stem's output;
- is written to by way of a merged copy (``part = y[:, :4]; part += 1``);
- is taken only by layers that lead to the final resolution, where it would be merged.

A module whose code cannot run with pairs is given tensors.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from octvideo.octave._probe import is_channelwise_norm, is_elementwise
from octvideo.octave.dispatch import Observer, observed, pools_in_step
from octvideo.octave.functional import downsample
from octvideo.octave.layers import merge
from octvideo.octave.pair import OctaveTensor, split_channels
from octvideo.octave.plan import ConvPlan, Plan
from octvideo.octave.segments import Segments, split_segments

__all__ = ["Planner", "fresh", "shared_layers"]

_POOLS = (nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d)


class Zone(NamedTuple):
    """Pairs begin at maps of the height ``entry`` and end above the height ``final``."""

    entry: int
    final: int


class OddMapError(ValueError):
    """Without a high group a pair does not know its size when that is odd."""


class Planner(Observer):
    """Finds the plan of a network.

    Attributes:
        merged: where pairs are merged, with the share of low channels.
        reasons: why the other convolutions stay vanilla.

    Args:
        network: a copy of it, which is run.
        inputs: its arguments, on the device of ``network``.
        alpha, multiple: as in :func:`octvideo.octave.split_channels`.
        modes: those in which the network runs on the inputs: True is training.
        shared: layers that have a second name, or a tensor that another layer has too.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: tuple[Any, ...],
        alpha: float,
        multiple: int,
        *,
        modes: Sequence[bool],
        shared: Set[str],
    ) -> None:
        self.network, self.inputs, self.modes = network, inputs, modes
        self._alpha, self._multiple = alpha, multiple
        self._modules = dict(network.named_modules())
        self._attached = {name for name, layer in self._modules.items() if _is_attached(layer)}
        # Tensors of a norm with a second owner would be other tensors than those that the owner has.
        self._norms = {
            name
            for name, layer in self._modules.items()
            if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d))
            and name not in shared | self._attached
            and is_channelwise_norm(layer, 4 if isinstance(layer, nn.BatchNorm2d) else 5)
        }
        self._zone = self._find_zone()
        self._plain: set[str] = set()  # convolutions and concatenations that write tensors
        self._vanilla: set[str] = set()  # convolutions of which two calls want different things
        self._maps: set[str] = set()
        self._merges: set[str] = set()

    def find(self) -> Plan:
        """Run the network until the plan stands.

        Raises:
            ValueError: ``alpha`` is 1 and a map has an odd size.
        """
        while not self._run():
            pass
        convs = {name: self._ends(name, *channels) for name, channels in self._convs.items()}
        return Plan(self._multiple, convs, self._segments, self._maps, self._pools | self._merges)

    def _ends(self, name: str, read: Segments | None, written: Segments | None) -> ConvPlan:
        conv: Any = self._modules[name]
        nominal = [
            (split_channels(width, self._alpha, self._multiple),) for width in (conv.in_channels, conv.out_channels)
        ]
        usual = read in (None, nominal[0]) and written in (None, nominal[1])
        return ConvPlan(
            alpha_in=0.0 if read is None else self._alpha if usual else _share(read),
            alpha_out=0.0 if written is None else self._alpha,
            in_segments=None if usual else read,
        )

    def refuse(self, name: str) -> None:
        """Keep pairs away from a module: it is given tensors, or, where it makes them, its convolutions write them.

        Raises:
            ValueError: the module has no pair.
        """
        while True:
            within = {conv for conv in self._convs if conv.startswith(f"{name}." if name else "")} - self._plain
            if name in self._with_pairs and name not in self._merges:
                self._merges.add(name)
                return
            if within:
                self._plain |= within
                return
            if not name:
                raise ValueError("the network does not run on its example input")
            name = name.rpartition(".")[0]

    def _find_zone(self) -> Zone:
        heights: list[tuple[int, bool]] = []
        hooks = []
        for layer in self._modules.values():
            if isinstance(layer, (nn.Conv2d, nn.Conv3d)):

                def note(layer: Any, args: tuple[Any, ...], y: Tensor) -> None:
                    # Behind global pooling there are no maps, as in squeeze-and-excitation.
                    if not (args and isinstance(args[0], Tensor) and tuple(args[0].shape[-2:]) == (1, 1)):
                        heights.append((y.shape[-2], max(layer.dilation[-2:]) > 1))

                hooks.append(layer.register_forward_hook(note))
        with torch.no_grad():
            self.network.eval()(*fresh(self.inputs))
        for hook in hooks:
            hook.remove()
        tops = [x.shape[-2] for x in pytree.tree_leaves(self.inputs) if isinstance(x, Tensor) and x.dim() in (4, 5)]
        top = max(tops, default=1)
        final = min((height for height, _ in heights), default=top)
        # Four stages in the end at most; the stem, and the layer that ends it, stay as they are.
        entry = max(-(-top // 4), min(-(-top // 2), 8 * final))
        # A dilated trunk stops early: there is room for pairs in its final maps.
        dilated = any(dilated for height, dilated in heights if height == final)
        return Zone(entry, 0 if dilated else final)

    def _run(self) -> bool:
        """Run once with pairs; return whether the plan stands."""
        # Channels of the pairs that a convolution reads and writes; None is a tensor.
        self._convs: dict[str, tuple[Segments | None, Segments | None]] = {}
        self._segments: dict[str, Segments] = {}  # of the norms' pairs
        self._pools: set[str] = set()  # those that are given merged tensors
        self.merged: dict[str, float] = {}
        self.reasons: dict[str, str] = {}
        self._stack: list[str] = []
        self._held: list[Any] = []
        self._joins: Counter[str] = Counter()  # concatenations in each module
        self._seen: dict[str, tuple[Segments | None, Segments | None]] = {}
        self._with_pairs: set[str] = set()
        self._read: set[str] = set()
        self._ended: set[str] = set()
        self._clashed: set[str] = set()
        self._copies: list[tuple[Tensor, int, OctaveTensor]] = []
        hooks = []
        for name, layer in self._modules.items():
            enter, leave = self._hooks(name)
            hooks.append(layer.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.append(layer.register_forward_hook(leave))
        before = len(self._vanilla)
        try:
            with torch.no_grad(), observed(self), _functions_refuse_pairs():
                for mode in self.modes:
                    self._joins.clear()
                    self.network.train(mode)(*fresh(self.inputs))
        except OddMapError:
            raise
        except Exception:  # the network's own code, which may raise anything
            self._refuse_at_fault(self._stack[-1])
            return False
        finally:
            for hook in hooks:
                hook.remove()
        for copied, version, pair in self._copies:
            if copied._version != version:
                self._clashed.update(pair.sources)
        fewer = self._clashed or (self._ended - self._read)
        self._plain |= fewer
        return not fewer and before == len(self._vanilla)

    def _refuse_at_fault(self, name: str) -> None:
        """Keep pairs from the module that raised; it is called for each group where that gives the same."""
        if name in self._with_pairs and name not in self._maps | self._merges and _is_map(self._modules[name]):
            kind = type(self._modules[name])
            self._maps |= {other for other, layer in self._modules.items() if type(layer) is kind and _is_map(layer)}
        else:
            self.refuse(name)

    def _hooks(self, name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return the hooks before and after a module.

        Layers that can be exchanged run on the merged tensor, and the hook afterwards makes the pair.
        """
        kind = self._kind(name)

        def enter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self._stack.append(name)
            self._held.append(None)
            pairs = [x for x in (*args, *kwargs.values()) if isinstance(x, OctaveTensor)]
            if pairs:
                self._with_pairs.add(name)
            if pairs and name in self._merges:
                self._note_merge(name, pairs)
                return _merge_all(args), _merge_all(kwargs)
            values = [*args, *kwargs.values()]
            if kind is None or len(values) != 1 or not isinstance(values[0], (Tensor, OctaveTensor)):
                return None
            self._held[-1] = values[0]
            return _merge_all(args), _merge_all(kwargs)

        def leave(layer: nn.Module, args: tuple[Any, ...], y: Any) -> Any:
            self._stack.pop()
            x = self._held.pop()
            return y if x is None or kind is None else kind(name, layer, x, y)

        return enter, leave

    def _kind(self, name: str) -> Callable[[str, Any, Any, Tensor], Any] | None:
        layer = self._modules[name]
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            return self._convolved
        if name in self._norms:
            return self._normed
        if isinstance(layer, _POOLS):
            return self._pooled
        return self._mapped if name in self._maps else None

    def _convolved(self, name: str, conv: Any, x: Tensor | OctaveTensor, y: Tensor) -> Any:
        reason, inside = self._unfit(name, conv), self._inside(x, y)
        pair = x if isinstance(x, OctaveTensor) else None
        reads = pair is not None and not reason
        if pair is not None and _is_depthwise(conv):
            reads = reads and inside
        elif pair is not None and conv.groups > 1:
            reads = reads and len(pair.segments) == 1 and not any(width % conv.groups for width in pair.segments[0])
        if pair is not None and reads:
            self.reads([pair])
        elif pair is not None:
            self._note_merge(name, [pair], ends=_is_depthwise(conv) and not reason and self._is_final(y))
        written: Segments | None = None
        sources: Collection[str] = frozenset({name})
        if _is_depthwise(conv):
            if pair is not None and reads:
                factor = conv.out_channels // conv.in_channels
                written = tuple((high * factor, low * factor) for high, low in pair.segments)
                sources = pair.sources
        elif inside and not reason and name not in self._plain:
            widths = split_channels(conv.out_channels, self._alpha, self._multiple)
            written = (widths,) if widths[1] else None
        self._enter_conv(name, pair.segments if pair is not None and reads else None, written, reason, inside)
        if written is None:
            return y
        high, low = split_segments(y, written, 1)
        if not high.shape[1] and any(edge % 2 for edge in y.shape[-2:]):
            raise OddMapError(
                f"with alpha=1 there is no high group, so the map of {y.shape[-2]} x {y.shape[-1]} behind {name} would "
                "come out even in size: choose alpha below 1, or an example_input with even maps"
            )
        return OctaveTensor(high if high.shape[1] else None, downsample(low), written, sources)

    def _enter_conv(
        self, name: str, read: Segments | None, written: Segments | None, reason: str, inside: bool
    ) -> None:
        """Put a convolution into the plan; two calls must want the same."""
        if self._seen.setdefault(name, (read, written)) != (read, written):
            self._vanilla.add(name)
        if read is not None or written is not None:
            self._convs[name] = read, written
        elif not reason:
            entry, final = self._zone
            reason = (
                "its output meets full-size tensors, or only leads to the final resolution"
                if inside
                else f"it is outside the heights from {entry} down to more than {final}"
            )
        self.reasons[name] = reason

    def _inside(self, x: Tensor | OctaveTensor, y: Tensor) -> bool:
        return x.shape[-2] <= self._zone.entry and y.shape[-2] > self._zone.final

    def _is_final(self, y: Tensor) -> bool:
        return y.shape[-2] <= self._zone.final

    def _unfit(self, name: str, conv: Any) -> str:
        """Return why an octave convolution cannot take the layer's place; empty if it can."""
        if name in self._vanilla:
            return "its calls differ"
        if not _is_convolution(conv):
            return f"{type(conv).__name__} computes something else than a convolution"
        if name in self._attached:
            return "hooks or parametrizations are attached to it"
        if conv.padding_mode != "zeros":
            return f"its padding mode is {conv.padding_mode}"
        spatial = list(zip(*_geometry(conv), strict=True))[-2:]
        if not all(2 * p == d * (k - 1) for k, _, p, d in spatial):
            return "its padding does not keep the size"
        if tuple(s for _, s, _, _ in spatial) not in ((1, 1), (2, 2)):
            return "its stride is neither 1 nor 2"
        widths = [split_channels(c, self._alpha, self._multiple) for c in (conv.in_channels, conv.out_channels)]
        if not _is_depthwise(conv) and any(width % conv.groups for pair in widths for width in pair):
            return "its groups do not divide the high and low channels"
        return ""

    def _normed(self, name: str, norm: nn.Module, x: Tensor | OctaveTensor, y: Tensor) -> Any:
        segments = x.segments if isinstance(x, OctaveTensor) else None
        if self._seen.setdefault(name, (segments, None)) != (segments, None):
            self._norms.discard(name)
            self._vanilla.add(name)
        if not isinstance(x, OctaveTensor) or segments is None:
            return y
        self._segments[name] = segments
        return x.map(torch.clone)

    def _pooled(self, name: str, pool: Any, x: Tensor | OctaveTensor, y: Any) -> Any:
        """Pool each group within the zone, else the merged map."""
        if not isinstance(x, OctaveTensor):
            return y
        dilation, indices = getattr(pool, "dilation", 1), getattr(pool, "return_indices", False)
        in_step = not indices and pools_in_step(pool.kernel_size, pool.stride, pool.padding, dilation)
        if not in_step or not self._inside(x, y):
            self._pools.add(name)
            self._note_merge(name, [x], ends=in_step and self._is_final(y))
            return y
        high, low = split_segments(y, x.segments, 1)
        return OctaveTensor(high if high.shape[1] else None, downsample(low), x.segments, x.sources)

    def _mapped(self, name: str, layer: nn.Module, x: Tensor | OctaveTensor, y: Tensor) -> Any:
        return x.map(torch.clone) if isinstance(x, OctaveTensor) else y

    def _note_merge(self, name: str, pairs: Iterable[OctaveTensor], *, ends: bool = False) -> None:
        """Note that pairs are merged; ``ends``: by a layer that leads out of the zone."""
        for pair in pairs:
            if pair.low is not None:
                if ends:
                    self._ended.update(pair.sources)
                else:
                    self._read.update(pair.sources)
                self.merged[name] = pair.low.shape[1] / pair.channels

    def reads(self, pairs: Iterable[OctaveTensor]) -> None:
        self._read = self._read.union(*(pair.sources for pair in pairs))

    def clashes(self, pairs: Iterable[OctaveTensor]) -> None:
        self._clashed = self._clashed.union(*(pair.sources for pair in pairs))

    def merges(self, function: Any, pairs: Iterable[OctaveTensor], merged: list[Tensor]) -> None:
        place = f"{self._stack[-1]}.{function.__name__}".lstrip(".")
        self._note_merge(place, pairs, ends="cat" in function.__name__)
        self._copies += [(copied, copied._version, pair) for copied, pair in zip(merged, pairs)]

    def concatenates(self, pairs: list[OctaveTensor]) -> frozenset[str] | None:
        self._joins[self._stack[-1]] += 1
        name = f"{self._stack[-1]} concatenation {self._joins[self._stack[-1]]}"
        if name in self._plain:
            return None
        self.reads(pairs)
        return frozenset({name})


@contextmanager
def _functions_refuse_pairs() -> Iterator[None]:
    """Let functions with their own gradient raise on pairs: they would compute, and lose the gradient."""
    apply = torch.autograd.Function.__dict__["apply"]  # the classmethod, not bound to a class

    def checked(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(x, OctaveTensor) for x in (*args, *kwargs.values())):
            raise TypeError(f"{cls.__name__} takes tensors")
        return apply.__get__(None, cls)(*args, **kwargs)

    torch.autograd.Function.apply = classmethod(checked)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        torch.autograd.Function.apply = apply  # type: ignore[method-assign]


def _share(segments: Segments) -> float:
    high, low = (sum(widths) for widths in zip(*segments))
    return low / (high + low)


def _is_map(layer: nn.Module) -> bool:
    """Without tensors, and elementwise in both modes."""
    if next(iter((*layer.parameters(), *layer.buffers())), None) is not None:
        return False
    copies = [copy.deepcopy(layer).train(mode) for mode in (True, False)]
    return all(is_elementwise(twin, dims) for twin in copies for dims in (4, 5))


def fresh(inputs: Any) -> Any:
    """Return the same tensors in new lists: a network may write into the list that it is given."""
    return pytree.tree_map(lambda x: x, inputs)


def _merge_all(value: Any) -> Any:
    return pytree.tree_map(
        lambda x: merge(x) if isinstance(x, OctaveTensor) else x,
        value,
        is_leaf=lambda x: isinstance(x, OctaveTensor),
    )


def shared_layers(root: nn.Module) -> set[str]:
    """Return the layers that have a second name, or a tensor that another layer has too."""
    owners: dict[int, list[str]] = {}
    for name, layer in root.named_modules(remove_duplicate=False):
        for tensor in (*layer._parameters.values(), *layer._buffers.values()):
            if tensor is not None:
                owners.setdefault(id(tensor), []).append(name)
    return {name for names in owners.values() if len(names) > 1 for name in names}


def _is_attached(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or parametrize.is_parametrized(layer))


def _is_depthwise(conv: Any) -> bool:
    return bool(conv.groups > 1 and conv.groups == conv.in_channels)


def _is_convolution(layer: nn.Module) -> bool:
    """A vanilla one: a subclass may add arguments (torchvision's do), but not compute anything else."""
    return any(
        isinstance(layer, kind) and type(layer).forward is kind.forward and type(layer)._conv_forward is conv
        for kind, conv in ((nn.Conv2d, nn.Conv2d._conv_forward), (nn.Conv3d, nn.Conv3d._conv_forward))
    )


def _geometry(layer: Any) -> tuple[tuple[int, ...], ...]:
    """Kernel, stride, padding and dilation."""
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    if layer.padding == "same":
        # Only the sum of both sides counts for what is asked here.
        return kernel, stride, tuple(d * (k - 1) / 2 for k, d in zip(kernel, dilation, strict=True)), dilation
    return kernel, stride, (0,) * len(kernel) if layer.padding == "valid" else layer.padding, dilation
