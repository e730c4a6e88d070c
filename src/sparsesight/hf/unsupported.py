"""What cannot be pruned by nature, and why: model families by their ``model_type``, decoder layers by their type."""

from __future__ import annotations

_CROSS = "pictures enter by cross-attention, so the decoder's sequence has no visual tokens"
_SEQ2SEQ = (
    "an encoder-decoder has its visual tokens in the encoder, which the decoder reads by cross-attention"
)
_QUERIES = (
    "a Q-Former has already made few tokens of a picture, and generate() hands the language model no ids; "
    "pass the language model and visual_mask=... to prune it all the same"
)
_MASKED = "a mask instead of placeholder ids tells where its visual tokens are; pass its text model and visual_mask=..."

_RETRIEVAL = (
    "it answers with an embedding of every token, those of pictures too, so that none can be dropped; pool the "
    "embeddings instead"
)

FAMILIES = {
    "blip": _CROSS,
    "blip-2": _QUERIES,
    "colmodernvbert": _RETRIEVAL,
    "colpali": _RETRIEVAL,
    "colqwen2": _RETRIEVAL,
    "diffusion_gemma": "it refines its whole answer by diffusion, over visual tokens only in an encoder's cache",
    "embedding_gemma2": _RETRIEVAL,
    "evolla": "it reads proteins, which enter by cross-attention, and no pictures",
    "florence2": _SEQ2SEQ,
    "git": "its decoder itself puts a picture's tokens before the text, and no placeholder ids stand for them",
    "idefics": _CROSS,
    "instructblip": _QUERIES,
    "instructblipvideo": _QUERIES,
    "kosmos-2": _MASKED,
    "kosmos-2.5": _MASKED,
    "mllama": _CROSS,
    "modernvbert": _RETRIEVAL,
    "neomme": _RETRIEVAL,
    "pi0": "it makes a robot's actions with a second model that reads the first one's cache",
    "pix2struct": _SEQ2SEQ,
    "pp_formulanet": _SEQ2SEQ,
    "t5gemma2": _SEQ2SEQ,
    "udop": _SEQ2SEQ,
    "vision-encoder-decoder": _SEQ2SEQ,
}

_PICKED = "which keys a query sees is picked by their place in the cache, and pruning moves them"
LAYERS = {
    "hybrid": "attention biases are counted over cache places, which pruning moves",
    "hybrid_sliding": "attention biases are counted over cache places, which pruning moves",
    "indexed_attention": _PICKED,
    "minimax_m3_sparse": _PICKED,
    "qwen_sparse_attention": _PICKED,
    "reference_sliding_attention": "a window over generated tokens alone needs a cache of its own",
}
