"""Every option of vLLM that could change what the plugin relies on was looked at: a newer vLLM's new ones fail here.

That is: attention metadata, the layout of keys, visual inputs, scheduling. As in :mod:`.test_names`, the sources of the
vLLM that is installed are read, and others that are named. An option that is in no table was looked at by nobody.
"""

from __future__ import annotations

import ast
from itertools import chain
from pathlib import Path

import pytest

from .test_names import OURS, source, statements, trees

# Refused by the plugin, alone or together with another option.
REFUSED = {
    "VllmConfig": "kv_transfer_config ec_transfer_config speculative_config aux_output_config",
    "ModelConfig": "enable_prompt_embeds model_impl model_class_overrides multimodal_config",
    "MultiModalConfig": """language_model_only enable_mm_embeds mm_encoder_only mm_encoder_tp_mode
        skip_mm_profiling video_pruning_rate""",
    "CacheConfig": "cache_dtype kv_sharing_fast_prefill prefix_match_unit",
    "SchedulerConfig": "runner_type scheduler_cls disable_hybrid_kv_cache_manager",
    "ParallelConfig": """pipeline_parallel_size data_parallel_size prefill_context_parallel_size
        decode_context_parallel_size""",
    "CompilationConfig": """mode splitting_ops use_inductor_graph_partition cudagraph_mode compile_mm_encoder
        cudagraph_mm_encoder""",
    "AuxOutputConfig": "enable_return_routed_experts",
}

# Read or set by the plugin, or works with it and is tested or follows from what it reads.
SERVED = {
    "VllmConfig": """model_config cache_config parallel_config scheduler_config compilation_config attention_config
        lora_config additional_config quant_config ec_manager_config kv_events_config""",
    "ModelConfig": """model tokenizer revision tokenizer_revision trust_remote_code hf_config hf_text_config
        hf_overrides max_model_len enforce_eager quantization served_model_name dtype runner
        convert disable_cascade_attn""",
    "MultiModalConfig": """limit_per_prompt media_io_kwargs mm_processor_kwargs mm_processor_cache_gb
        mm_processor_cache_type mm_shm_cache_max_object_size_mb mm_encoder_attn_backend mm_encoder_attn_dtype
        allow_missing_mm_embeddings interleave_mm_strings""",
    "CacheConfig": """block_size user_specified_block_size enable_prefix_caching prefix_caching_hash_algo
        hash_block_size cache_hit_alignment_tokens num_gpu_blocks_override kv_cache_memory_bytes kv_cache_layout""",
    "SchedulerConfig": """max_num_batched_tokens max_num_scheduled_tokens long_prefill_token_threshold
        long_prefill_token_threshold_adaptive max_num_seqs max_num_active_seqs enable_chunked_prefill
        max_num_encoder_input_tokens encoder_cache_size disable_chunked_mm_input async_scheduling policy""",
    "ParallelConfig": "tensor_parallel_size enable_expert_parallel worker_cls worker_extension_cls",
    "AttentionConfig": "backend backend_per_kind",
    "CompilationConfig": "static_forward_context cudagraph_capture_sizes max_cudagraph_capture_size",
    "EncoderCacheManagerConfig": "encoder_cache_manager_cls",
    "LoRAConfig": """max_lora_rank max_loras fully_sharded_loras target_modules default_mm_loras
        enable_tower_connector_lora specialize_active_lora""",
}

# Leaves all of it as it is, is derived, or belongs to models and modes that are refused or not served.
BESIDE = {
    "VllmConfig": """device_config load_config offload_config engram_config mamba_config kernel_config watermark_config
        diffusion_config structured_outputs_config observability_config logging_config profiler_config reasoning_config
        instance_id optimization_level performance_mode weight_transfer_config shutdown_timeout watchdog_config""",
    "ModelConfig": """model_weights tokenizer_mode seed is_submodel_config word_embeddings_untied_by_checkpoint
        hf_config_path allowed_local_media_path allowed_media_domains code_revision spec_target_max_model_len
        quantization_config allow_deprecated_quantization return_sampling_mask max_logprobs logprobs_mode
        use_fp64_gumbel enable_trace_replay disable_sliding_window skip_tokenizer_init config_format hf_token
        generation_config override_generation_config enable_sleep_mode sleep_preserve_parameter_names
        sleep_mode_backend sleep_mode_offload_cudagraph enable_nccl_comm_suspend enable_cumem_allocator
        logits_processors io_processor_plugin renderer_num_workers pooler_config limit_mm_per_prompt
        mm_processor_device""",
    "MultiModalConfig": """mm_device_do_normalize mm_hasher_algorithm mm_encoder_fp8_scale_path
        mm_encoder_fp8_scale_save_path mm_encoder_fp8_scale_save_margin video_pruning_method mm_tensor_ipc
        mm_ipc_gpu_memory_gb""",
    "CacheConfig": """DEFAULT_BLOCK_SIZE gpu_memory_utilization is_attention_free sliding_window
        prefix_cache_retention_interval kv_cache_dtype_skip_layers mamba_page_size_padded skip_page_size_padded
        mamba_block_size mamba_cache_dtype mamba_ssm_cache_dtype mamba_cache_mode enable_mamba_shared_prefix_checkpoint
        replayssm_buffer_len use_replayssm use_kda_recoverssm num_gpu_blocks num_cpu_blocks
        effective_attention_block_size kv_cache_size_tokens kv_cache_max_concurrency swa_bounded_replay
        kv_offloading_size kv_offloading_backend _block_size_resolved simple_cpu_offload_num_blocks""",
    "SchedulerConfig": """max_model_len is_encoder_decoder DEFAULT_MAX_NUM_BATCHED_TOKENS
        DEFAULT_MAX_NUM_BATCHED_TOKENS_FOR_BATCHED_DP DEFAULT_MAX_NUM_SEQS max_num_queued_reqs max_num_queued_tokens
        is_multimodal_model scheduler_reserve_full_isl watermark prefill_schedule_interval stream_interval""",
    "ParallelConfig": """data_parallel_size_local data_parallel_rank data_parallel_rank_local data_parallel_master_ip
        data_parallel_rpc_port dp_sync_interval data_parallel_master_port data_parallel_backend
        data_parallel_external_lb data_parallel_hybrid_lb is_moe_model enable_hc_sp enable_batch_sharded_sampling
        enable_ep_weight_filter enable_eplb eplb_config expert_placement_strategy all2all_backend
        max_parallel_loading_workers disable_custom_all_reduce enable_shm_tensor_arena enable_elastic_ep
        elastic_ep_max_dp_size enable_dbo ubatch_size dbo_decode_token_threshold dbo_prefill_token_threshold
        disable_nccl_for_dp_synchronization ray_workers_use_nsight ray_runtime_env placement_group
        distributed_executor_backend master_addr master_port node_rank nnodes numa_bind numa_bind_nodes numa_bind_cpus
        assigned_physical_gpu_ids distributed_timeout_seconds cpu_distributed_timeout_seconds world_size rank
        _data_parallel_master_port_list _coord_store_port dcp_kv_cache_interleave_size dcp_comm_backend dcp_q_replicate
        cp_kv_cache_interleave_size _allow_auto_resolve_cp_interleave_size data_parallel_index _api_process_count
        _api_process_rank enable_fault_tolerance fault_tolerance_config""",
    "AttentionConfig": """minimax_m3_msa_decode_backend flash_attn_version flash_attn_max_num_splits_for_cuda_graph
        tokenspeed_mla_min_split_kv tq_max_kv_splits_for_cuda_graph use_trtllm_attention
        disable_flashinfer_q_quantization mla_prefill_backend use_prefill_query_quantization indexer_kv_dtype
        indexer_sparse_logits hisparse_config
        use_non_causal sparse_mla_force_mqa sparse_mla_prefill_workspace_factor flex_attn_block_m flex_attn_block_n
        flex_attn_q_block_size flex_attn_kv_block_size trtllm_ragged_backend indexer_tp_shard_min_rows
        minimax_m3_indexer_cp""",
    "CompilationConfig": """debug_dump_path cache_dir compile_cache_save_format backend custom_ops ir_enable_torch_wrap
        encoder_cudagraph_token_budgets encoder_cudagraph_max_vision_items_per_batch
        encoder_cudagraph_max_frames_per_batch cudagraph_decoder_replay decoder_replay_cudagraph_capture_sizes
        decoder_replay_trim_threshold compile_sizes compile_ranges_endpoints inductor_compile_config inductor_passes
        cudagraph_num_of_warmups cudagraph_copy_inputs cudagraph_specialize_lora pass_config dynamic_shapes_config
        local_cache_dir fast_moe_cold_start enabled_custom_ops disabled_custom_ops traced_files compilation_time
        encoder_compilation_time static_all_moe_layers _attention_ops""",
    "AuxOutputConfig": "max_bytes",
    "EncoderCacheManagerConfig": "manager_config",
    "LoRAConfig": """max_cpu_loras lora_dtype enable_mixed_moe_lora_format enable_moe_shared_loras
        max_lora_cls_labels""",
}

MODULES = {
    "VllmConfig": "vllm",
    "ModelConfig": "model",
    "MultiModalConfig": "multimodal",
    "CacheConfig": "cache",
    "SchedulerConfig": "scheduler",
    "ParallelConfig": "parallel",
    "AttentionConfig": "attention",
    "CompilationConfig": "compilation",
    "AuxOutputConfig": "aux_output",
    "EncoderCacheManagerConfig": "ec_manager_config",
    "LoRAConfig": "lora",
}


def fields(path: Path, name: str) -> set[str]:
    (found,) = (x for x in statements(path) if isinstance(x, ast.ClassDef) and x.name == name)
    declared = (x.target for x in found.body if isinstance(x, ast.AnnAssign))
    return {x.id for x in declared if isinstance(x, ast.Name)}


@pytest.mark.vllm(sources=True)
@pytest.mark.skipif(not trees(), reason="vLLM is not installed")
@pytest.mark.parametrize("name", MODULES)
def test_every_option_was_looked_at(name: str) -> None:
    known = set(" ".join(table.get(name, "") for table in (REFUSED, SERVED, BESIDE)).split())
    if name == "ModelConfig":  # hands them on
        known |= set(" ".join(table["MultiModalConfig"] for table in (REFUSED, SERVED, BESIDE)).split())
    for tree in trees():
        path = source(tree, f"vllm.config.{MODULES[name]}")
        assert path is not None, f"{tree}: vllm.config.{MODULES[name]} is gone"
        new = fields(path, name) - known
        assert not new, f"{tree}: {name} has options that nobody looked at: {', '.join(sorted(new))}"


def test_what_is_refused_is_in_the_code() -> None:
    text = (OURS / "validation.py").read_text("utf-8")
    missing = [name for name in chain(*(x.split() for x in REFUSED.values())) if name not in text]
    assert not missing, ", ".join(missing)


def test_no_option_has_two_verdicts() -> None:
    for name in MODULES:
        named = " ".join(table.get(name, "") for table in (REFUSED, SERVED, BESIDE)).split()
        assert len(named) == len(set(named)), name
