"""Pruning inside one vLLM model: hooks on its decoder, and the attention metadata of every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..core.budget import BEFORE
from ..errors import SparseSightError
from .adapters import Adapters
from .cached_keys import CachedKeys
from .drafts import LayerStates
from .layer_attention import LayerFacts, Seen, check_layer
from .metadata import StageRows, stage_metadata
from .planner import Planner, RequestPlan
from .prefill import Prefill, together
from .ranks import check_ranks
from .stats import Tally
from .step_plan import Step, StepPlan, check_allocated, plan_step

Hook = Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]


@dataclass
class Active:
    """A step that prunes, while it runs."""

    plan: StepPlan
    prefills: list[Prefill]
    tables: list[Tensor | None]  # block table that the pruning layer of each stage reads, [r, width]
    done: int = 0  # stages passed
    read: Tensor | None = None  # of the vision tower, for each row of the input
    rows: Tensor | None = None  # row of the input of every row that is left, [n]
    positions: Tensor | None = None  # [n], or [axes, n]
    length: int = 0  # rows of the input, padding included
    seen: tuple[Tensor, Tensor] | None = None  # query and key of the pruning layer


@dataclass
class Pruner:
    """Owns what pruning adds to a model. State of a step lives in ``active``, and ends with it."""

    planner: Planner
    decoder: Any  # has `layers` and `norm`
    keep_trace: bool = False
    compare_ranks: bool = False  # whether tensor-parallel ranks compare the rows that they keep
    tally: Tally = field(default_factory=Tally)
    trace: list[Prefill] = field(default_factory=list)  # of all prompts, with ``keep_trace``
    read: Tensor | None = None  # of the vision tower, for each row of the coming step [n, read_width]
    read_width: int = 0  # 0: the method reads none
    told: bool = True  # whether the model runner has told of the step before
    active: Active | None = None
    hooks: list[tuple[nn.Module, Hook]] = field(default_factory=list)
    handles: list[RemovableHandle] = field(default_factory=list)  # of the hooks, while a step prunes

    def __post_init__(self) -> None:
        self.stages = self.planner.stages
        self.adapters, self.states = Adapters(self.decoder), LayerStates(self.decoder)
        self.num_layers = len(self.decoder.layers)
        for layer in self.decoder.layers:
            check_layer(layer)
        # Of each stage's pruning layer; before the first layer there is none.
        attentions = [None if i == BEFORE else self.decoder.layers[i].self_attn for i in self.stages]
        self.facts = tuple(None if x is None else LayerFacts.of(x) for x in attentions)
        self.cached = tuple(None if x is None else CachedKeys(x.attn) for x in attentions)
        self.gather = LayerFacts.of(self.decoder.layers[0].self_attn).gather
        # Names of the attention layers after each stage, as vLLM keys its metadata.
        self.names: list[list[str]] = [[] for _ in self.stages]
        for i, layer in enumerate(self.decoder.layers):
            segment = sum(stage < i for stage in self.stages)
            if segment:
                self.names[segment - 1].append(layer.self_attn.attn.layer_name)

    def install(self, give_backend: Callable[[nn.Module, int], None]) -> None:
        """Give the decoder's layers their backends. Hooks are on them only while a step prunes: others pay nothing.

        ``give_backend(attention, stage)`` gives a layer the backend of its stage, -1 before the first.
        """
        layers = self.decoder.layers
        self.hooks.append((layers[0], self._enter_first))
        for i, layer in enumerate(layers):
            segment = sum(stage < i for stage in self.stages)
            give_backend(layer.self_attn.attn, segment - 1)
            if segment:
                self.hooks.append((layer, self._enter))
            if i in self.stages:
                self.hooks.append((layer.self_attn.attn, self._observe))

    # -- around a step ----------------------------------------------------------------------------------------

    def plan_of(self, name: str, places: Iterable[Any], ids: Any, length: int, params: Any) -> RequestPlan:
        """What is pruned of a request; see :meth:`Planner.request_plan`."""
        plan = self.planner.request_plan(places, ids, length, getattr(params, "extra_args", None))
        self.tally.count_request(plan, name)
        return plan

    def passes(self, plans: Iterable[RequestPlan], recorded: bool = False) -> bool:
        """Whether the coming step is as it is without sparsesight: nothing is pruned of any of its requests.

        ``recorded``: whether it replays a graph that reads the tables of the stages, which are written then as well.
        """
        if recorded or any(plan.regions for plan in plans):
            return False
        self.told = True
        return True

    def note(self) -> None:
        """A step has been embedded.

        Raises:
            SparseSightError: if the step before passed without :meth:`begin`, as then nothing would ever be pruned.
        """
        if not self.told:
            raise SparseSightError(
                "the model runner does not call sparsesight: another plugin replaced it, or it is not one of vLLM's"
            )
        self.told = False

    def begin(self, step: Step, names: Callable[[int], str], context: Any, recorded: bool = False) -> None:
        """Plan a step, and give the layers after each stage their metadata.

        Args:
            step: its requests.
            names: of requests, for what is logged.
            context: vLLM's forward context, changed here.
            recorded: whether the step may replay a graph in which attention is recorded. It reads the tables of the
                stages, whatever the step's requests are.
        """
        self.end()
        self.told = True
        plan = plan_step(step, len(self.stages), self.planner.block_size)
        check_allocated(plan, names)
        self.tally.count_step(plan.prompts, names)
        if not plan.changes and not recorded:
            return
        attention, slots = dict(context.attn_metadata), dict(context.slot_mapping)
        made: dict[tuple[int, int], tuple[Any, Tensor]] = {}
        read: dict[int, StageRows] = {}
        for s, layer_names in enumerate(self.names):
            for name in layer_names:
                dense = context.attn_metadata[name]
                common = dense.sparsesight_common
                if (s, id(dense)) not in made:
                    builder = dense.sparsesight_builders[s]
                    if id(dense) not in read:
                        block = builder.kv_cache_spec.block_size
                        read[id(dense)] = dense.sparsesight_tables.of(common, plan, block)
                    given = stage_metadata(common, read[id(dense)], s, plan)
                    made[s, id(dense)] = builder.build_stage(given), given.slot_mapping
                attention[name], slots[name] = made[s, id(dense)]
        if plan.prompts:
            tables: list[Tensor | None] = []
            for s, stage in enumerate(self.stages):
                if stage == BEFORE:
                    tables.append(None)
                    continue
                dense = context.attn_metadata[self.decoder.layers[stage].self_attn.attn.layer_name]
                own = read[id(dense)].tables[s - 1] if s else dense.sparsesight_common.block_table_tensor
                tables.append(own)
            self._activate(plan, tables)
        context.attn_metadata, context.slot_mapping = attention, slots

    def rehearse(self, step: Step) -> None:
        """Let the coming forward, of which the cache holds nothing and stores nothing, prune as this step does."""
        self.end()
        self.told = True
        plan = plan_step(step, len(self.stages), self.planner.block_size)
        nothing = torch.zeros(len(step.query), 0, dtype=torch.int64)
        if self.read_width:
            self.read = torch.zeros(int(step.query.sum()), self.read_width, device=self._device)
        self._activate(plan, [nothing] * len(self.stages))

    def _activate(self, plan: StepPlan, tables: list[Tensor | None]) -> None:
        """Let the coming forward prune; ``tables`` as :class:`Active` has them."""
        device, clips = self._device, self.planner.frames
        groups = [
            Prefill.of(own, self.stages, device, clips, self.keep_trace) for own in together(plan.prompts)
        ]
        self.active, self.read = Active(plan, groups, tables, read=self.read), None
        self.handles = [module.register_forward_pre_hook(hook) for module, hook in self.hooks]
        self.handles.append(self.decoder.norm.register_forward_hook(self._leave))
        self.states.begin()

    @property
    def _device(self) -> torch.device:
        device: torch.device = next(self.decoder.parameters()).device
        return device

    def end(self) -> None:
        """Forget the step, also one that failed."""
        while self.handles:
            self.handles.pop().remove()
        self.adapters.restore()
        self.states.end()
        self.active = None

    # -- hooks ------------------------------------------------------------------------------------------------

    def _enter_first(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        assert self.active is not None
        positions, hidden = args[0], args[1]
        self.active.positions, self.active.length = positions, hidden.shape[0]
        for prefill in self.active.prefills:
            prefill.rate(hidden, positions, self.active.read)

    def _observe(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        assert self.active is not None
        self.active.seen = (args[0], args[1])

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        active = self.active
        assert active is not None
        hidden, residual = args[1], args[2]
        if active.done < len(self.stages) and module is self.decoder.layers[self.stages[active.done] + 1]:
            hidden, residual = self._prune(active, hidden, residual)
        return (active.positions, hidden, residual, *args[3:])

    def _leave(
        self, module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Back to the length of the input; rows of dropped tokens are zero, and nobody samples from them."""
        active = self.active
        assert active is not None and active.rows is not None
        normed, residual = output
        return normed.new_zeros(active.length, normed.shape[1]).index_copy_(0, active.rows, normed), residual

    def _prune(self, active: Active, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What enters the layer, shortened; nothing is added to ``hidden`` before the first layer."""
        index, query = active.done, active.plan.query
        before = active.plan.query[index - 1] if index else active.plan.step.query
        start = np.cumsum(before) - before
        assert active.positions is not None
        # All rows of the step, then those that are left of each group of prompts; `take` puts them into their order.
        found = [torch.arange(int(before.sum()), device=hidden.device)]
        place = [np.arange(a, a + n) for a, n in zip(start, before, strict=True)]
        merged: list[tuple[NDArray[np.int64], Tensor, Tensor]] = []
        width = len(found[0])
        for prefill in active.prefills:
            members = [one.request for one in prefill.prompts]
            firsts = [int(start[r]) for r in members]
            rows, is_merged, tokens = prefill.select(
                index, firsts, hidden, residual, active.positions, self._seen(active, prefill, index)
            )
            found.append(rows)
            for r in members:
                place[r] = np.arange(width, width + query[index, r])
                width += int(query[index, r])
            if any(any(counts[index].merged) for counts in prefill.counts):
                new = np.cumsum(query[index]) - query[index]
                places = np.concatenate([np.arange(new[r], new[r] + query[index, r]) for r in members])
                merged.append((places, is_merged, tokens))
        if width != (have := sum(map(len, found))):  # sizes are the host's: nothing is waited for
            raise SparseSightError(f"stage {index}: {have} rows remain, but {width} were planned")
        take = torch.from_numpy(np.concatenate(place)).to(hidden.device, non_blocking=True)
        rows = torch.cat(found)[take]
        if self.compare_ranks:
            check_ranks(rows, index, self.gather)
        self.adapters.keep(rows)
        hidden, residual = hidden[rows], None if residual is None else residual[rows]
        for places, is_merged, tokens in merged:
            at = torch.from_numpy(places).to(hidden.device, non_blocking=True)
            hidden[at] = torch.where(is_merged[:, None], tokens.to(hidden.dtype), hidden[at])
            if residual is not None:
                residual[at] = residual[at].masked_fill(is_merged[:, None], 0)
        active.positions = active.positions[..., rows]
        active.rows = rows if active.rows is None else active.rows[rows]
        self.states.keep(active.rows)
        active.seen, active.done = None, index + 1
        if self.keep_trace and active.done == len(self.stages):
            self.trace += active.prefills
        return hidden, residual

    def _seen(self, active: Active, prefill: Prefill, index: int) -> Seen | None:
        """What the attention of a stage's pruning layer was given, with the keys that it holds of earlier steps."""
        facts, cached, table = self.facts[index], self.cached[index], active.tables[index]
        if active.seen is None or facts is None or cached is None or table is None:
            return None
        query, key = active.seen
        earlier: list[Tensor | None] = []
        for one in prefill.prompts:
            count = one.computed - int(active.plan.removed[index - 1, one.request] if index else 0)
            earlier.append(cached.read(table[one.request], count, key.dtype) if count else None)
        return Seen(query, key, facts, earlier)
