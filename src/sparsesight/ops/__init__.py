"""Pure tensor functions: everything the methods compute, with no model, no state and no transformers.

Conventions. Every function is batch-first and maskable: padded entries carry ``False`` in a boolean mask and never
influence another entry. Inputs may be fp16, bf16 or fp32; sums, softmaxes and distances run in fp32, or in fp64 where
they decide between tokens. Nothing here reads a value of an accelerator back to the host, so nothing here waits for one
(except for the SVD in :func:`attention_rank`, for which PyTorch may synchronise).

Axes in the annotations: ``b`` batch, ``n`` sequence rows, ``v`` visual tokens, ``t`` text tokens, ``r`` rater rows,
``k`` keys, ``h`` query heads, ``g`` key-value heads, ``d`` head width, ``c`` hidden width, ``m`` recycled tokens.
"""

from .attention import (
    attention_rank,
    attention_rows,
    head_mean,
    head_sums,
    rank_rule,
    rope_weight,
    select_heads,
    text_raters,
)
from .clips import unlike_mean_ranks
from .coverage import cosine_coverage, coverage_ranks, softmax_coverage
from .diversity import (
    farthest_point_ranks,
    greedy_dpp_map,
    greedy_gaussian_map,
    least_similar_places,
)
from .matching import bipartite_merge, even_target_merge, likeness_variance, nearest_kept, thinned_places
from .merging import Merge, density_peaks_merge
from .points import unit_vectors
from .prediction import predicted_units
from .rows import causal_rows, compact, first_ranked, gather_rows, group_ranks, ranks
from .segments import anchor_merge, frame_segments
from .spacing import apportion, even_runs, evenly_spaced, grid_pool, group_seats

__all__ = [
    "Merge",
    "anchor_merge",
    "apportion",
    "attention_rank",
    "attention_rows",
    "bipartite_merge",
    "causal_rows",
    "compact",
    "cosine_coverage",
    "coverage_ranks",
    "density_peaks_merge",
    "even_runs",
    "even_target_merge",
    "evenly_spaced",
    "farthest_point_ranks",
    "first_ranked",
    "frame_segments",
    "gather_rows",
    "greedy_dpp_map",
    "greedy_gaussian_map",
    "grid_pool",
    "group_ranks",
    "group_seats",
    "head_mean",
    "head_sums",
    "least_similar_places",
    "likeness_variance",
    "nearest_kept",
    "predicted_units",
    "rank_rule",
    "ranks",
    "rope_weight",
    "select_heads",
    "softmax_coverage",
    "text_raters",
    "thinned_places",
    "unit_vectors",
    "unlike_mean_ranks",
]
