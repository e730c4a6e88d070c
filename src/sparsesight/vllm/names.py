"""Every name of vLLM that the plugin relies on, so that a test can look for them in a vLLM that does not run here.

The plugin uses vLLM's extension points where there are any (models, attention backends, specs of KV caches, scheduler
classes, model states), and wraps methods elsewhere (the front end, the V1 runner).
"""

from __future__ import annotations

# Versions of vLLM in which all of these exist, and with which the plugin was tested.
VERSIONS = ("0.32", "0.33")

# module -> names in it; "Class.member" is a method, field or attribute of a class. A module alone is only imported.
NAMES: dict[str, tuple[str, ...]] = {
    "vllm": ("AsyncEngineArgs", "ModelRegistry", "__version__"),
    # -- front end
    "vllm.engine.arg_utils": (
        "EngineArgs.create_engine_config",
        "EngineArgs.additional_config",
        "EngineArgs.block_size",
        "EngineArgs.max_num_batched_tokens",
        "EngineArgs.model",
        "EngineArgs.revision",
        "EngineArgs.tokenizer",
        "EngineArgs.tokenizer_revision",
        "EngineArgs.trust_remote_code",
    ),
    "vllm.entrypoints.cli.serve": (
        "ServeSubcommand.cmd",
        "ServeSubcommand.subparser_init",
        "ServeSubcommand.validate",
    ),
    "vllm.entrypoints.generate.beam_search.online": ("BeamSearchOnlineMixin.beam_search",),
    "vllm.entrypoints.openai.chat_completion.protocol": (
        "ChatCompletionRequest.to_beam_search_params",
        "ChatCompletionRequest.vllm_xargs",
    ),
    "vllm.entrypoints.openai.completion.protocol": (
        "CompletionRequest.to_beam_search_params",
        "CompletionRequest.vllm_xargs",
    ),
    "vllm.exceptions": ("VLLMError", "VLLMUnprocessableEntityError", "VLLMValidationError"),
    "vllm.logger": ("configure_logging_from_args",),
    "vllm.multimodal": ("MULTIMODAL_REGISTRY",),
    "vllm.multimodal.encoder_budget": ("get_mm_max_toks_per_item",),
    "vllm.multimodal.media.connector": (
        "MediaConnector.load_from_url",
        "MediaConnector.load_from_url_async",
    ),
    "vllm.multimodal.inputs": ("PlaceholderRange.extract_embeds_range",),
    "vllm.renderers.base": ("BaseRenderer.config", "BaseRenderer.mm_processor_cache"),
    "vllm.renderers.online_renderer": ("OnlineRenderer.preprocess_chat", "OnlineRenderer.preprocess_cmpl"),
    "vllm.usage.usage_lib": ("UsageContext",),
    "vllm.utils.argparse_utils": ("FlexibleArgumentParser",),
    "vllm.v1.engine.async_llm": ("AsyncLLM.generate",),
    "vllm.v1.engine.input_processor": ("InputProcessor.process_inputs", "InputProcessor.renderer"),
    # -- configuration
    "vllm.config": ("CUDAGraphMode",),
    "vllm.config.compilation": (
        "CompilationConfig.cudagraph_mode",
        "CompilationConfig.splitting_ops",
        "CompilationConfig.use_inductor_graph_partition",
    ),
    "vllm.platforms": ("current_platform",),
    # -- scheduler
    "vllm.v1.core.sched.async_scheduler": ("AsyncScheduler",),
    "vllm.v1.core.sched.scheduler": (
        "Scheduler._free_request_blocks",
        "Scheduler._try_schedule_encoder_inputs",
        "Scheduler.add_request",
        "Scheduler.encoder_cache_manager",
        "Scheduler.kv_cache_manager",
        "Scheduler.vllm_config",
    ),
    "vllm.v1.core.encoder_cache_manager": (
        "EncoderCacheManager.free_encoder_input",
        "EncoderCacheManager.get_cached_input_ids",
    ),
    "vllm.v1.core.block_pool": ("BlockPool._insert_block_hash", "BlockPool.get_cached_block"),
    "vllm.v1.core.kv_cache_utils": (
        "generate_block_hash_extra_keys",
        "hash_block_tokens",
        "make_block_hash_with_group_id",
    ),
    "vllm.v1.core.kv_cache_manager": (
        "KVCacheManager.allocate_slots",
        "KVCacheManager.block_pool",
        "KVCacheManager.coordinator",
        "KVCacheManager.create_kv_cache_blocks",
        "KVCacheManager.get_computed_blocks",
        "KVCacheManager.truncate_computed_blocks",
    ),
    "vllm.v1.core.single_type_kv_cache_manager": (
        "FullAttentionManager",
        "FullAttentionManager.find_longest_cache_hit",
        "SingleTypeKVCacheManager._has_partial_local_hit",
        "SingleTypeKVCacheManager.allocate_new_blocks",
        "SingleTypeKVCacheManager.get_num_blocks_to_allocate",
        "SingleTypeKVCacheManager.kv_cache_group_id",
        "SingleTypeKVCacheManager.pop_blocks_for_free",
        "SingleTypeKVCacheManager.req_to_blocks",
    ),
    "vllm.v1.kv_cache_interface": ("FullAttentionSpec",),
    "vllm.v1.kv_cache_spec_registry": (
        "KVCacheSpecRegistry._ensure_registered",
        "KVCacheSpecRegistry.register",
    ),
    # -- worker
    "vllm.distributed": ("tensor_model_parallel_all_gather",),
    "vllm.forward_context": (
        "ForwardContext.attn_metadata",
        "ForwardContext.cudagraph_runtime_mode",
        "ForwardContext.skip_compiled",
        "ForwardContext.slot_mapping",
        "get_forward_context",
        "override_forward_context",
    ),
    "vllm.lora.layers.base": ("BaseLayerWithLoRA.punica_wrapper",),
    "vllm.lora.ops.triton_ops.lora_kernel_metadata": ("LoRAKernelMeta.prepare_tensors",),
    "vllm.lora.punica_wrapper.punica_base": (
        "PunicaWrapperBase._token_lora_indices",
        "PunicaWrapperBase._update_prefill_metadata",
        "PunicaWrapperBase.indices_len",
        "PunicaWrapperBase.is_prefill",
        "PunicaWrapperBase.token_lora_indices",
    ),
    "vllm.lora.punica_wrapper.punica_gpu": ("PunicaWrapperGPU.token_mapping_meta",),
    "vllm.v1.attention.backend": (
        "CommonAttentionMetadata.block_table_tensor",
        "CommonAttentionMetadata.max_query_len",
        "CommonAttentionMetadata.num_actual_tokens",
        "CommonAttentionMetadata.num_reqs",
        "CommonAttentionMetadata.positions",
        "CommonAttentionMetadata.query_start_loc",
        "CommonAttentionMetadata.query_start_loc_cpu",
        "CommonAttentionMetadata.seq_lens",
        "CommonAttentionMetadata.seq_lens_cpu_upper_bound",
        "CommonAttentionMetadata.slot_mapping",
        "CommonAttentionMetadata._num_computed_tokens_cache",
        "CommonAttentionMetadata._token_to_req_indices_cache",
        "AttentionMetadataBuilder.build",
        "AttentionMetadataBuilder.build_for_cudagraph_capture",
        "AttentionMetadataBuilder.supports_update_block_table",
        "subclass_attention_backend",
    ),
    "vllm.utils.hashing": ("get_hash_fn_by_name",),
    "vllm.v1.request": (
        "Request._block_hasher",
        "Request.block_hashes",
        "Request.mm_features",
        "Request.all_token_ids",
        "Request.update_block_hashes",
        "RequestStatus.FINISHED_LENGTH_CAPPED",
        "RequestStatus.FINISHED_STOPPED",
    ),
    "vllm.v1.worker.gpu_input_batch": (
        "CachedRequestState.mm_features",
        "InputBatch.block_table",
        "InputBatch.num_computed_tokens_cpu",
        "InputBatch.req_ids",
    ),
    "vllm.v1.worker.block_table": ("BlockTable.block_size", "BlockTable.get_numpy_array"),
    "vllm.v1.worker.gpu_model_runner": (
        "GPUModelRunner._model_forward",
        "GPUModelRunner.input_batch",
        "GPUModelRunner.kv_cache_config",
        "GPUModelRunner.query_start_loc",
        "GPUModelRunner.requests",
    ),
    "vllm.v1.worker.gpu.model_states.default": (
        "DefaultModelState.add_request",
        "DefaultModelState.prepare_attn",
    ),
    "vllm.v1.worker.gpu.model_states.interface": ("ModelState.preprocess_state",),
}
