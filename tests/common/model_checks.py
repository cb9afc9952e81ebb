"""`ModelTesterMixin` of transformers 5.23, check by check."""

from .reasons import Reason

_W = "common/test_weights.py::"
_A = "common/test_answers.py::"
_CHECKPOINTING = _A + "test_every_parameter_learns_with_and_without_activation_checkpointing"
_IMPLEMENTATIONS = _A + "test_attention_implementations_agree_and_can_be_changed_in_a_living_model"
_PARTS_ATTEND = _A + "test_each_part_can_attend_in_its_own_way"
_FEATURES = _A + "test_image_features_bring_the_states_of_the_tower"
_STATES = _A + "test_hidden_states_are_one_more_than_layers_and_attentions_as_many"
_MISMATCHED = _W + "test_shapes_that_differ_are_an_error_or_new_on_request"
_RESIZED = _W + "test_a_resized_vocabulary_keeps_its_rows_and_learns"
_MISSING = _W + "test_weights_missing_from_a_checkpoint_are_those_of_a_new_model"
_DEVICES = _W + "test_loading_heeds_the_device_around_it_and_refuses_meta"
_ROUTERS = _A + "test_router_logits_come_once_per_sparse_layer_by_argument_and_by_configuration"
_ROPE = _A + "test_rescaled_positions_change_long_answers"
_COMPILED = (
    "training/test_compile.py::test_a_compiled_training_step_has_the_same_loss_and_gradients"
)

_NO_FLASH = dict.fromkeys(
    (
        "test_flash_attn_2_can_compile_with_attention_mask_None_without_graph_break",
        "test_flash_attn_2_can_dispatch_composite_models",
        "test_flash_attn_2_fp32_ln",
        "test_flash_attn_2_from_config",
        "test_flash_attn_2_inference_equivalence",
        "test_flash_attn_2_inference_equivalence_right_padding",
        "test_flash_attn_3_can_dispatch_composite_models",
        "test_flash_attn_3_from_config",
        "test_flash_attn_3_inference_equivalence",
        "test_flash_attn_3_inference_equivalence_right_padding",
        "test_flash_attn_4_can_dispatch_composite_models",
        "test_flash_attn_4_from_config",
        "test_flash_attn_4_inference_equivalence",
        "test_flash_attn_4_inference_equivalence_right_padding",
        "test_flash_attn_kernels_inference_equivalence",
        "test_flash_attn_kernels_mps_inference_equivalence",
        "test_kernels_can_load_without_crashing",
    ),
    Reason.NEEDS_KERNELS,
)
_NO_GPU = dict.fromkeys(
    (
        "test_cpu_offload",
        "test_disk_offload_bin",
        "test_disk_offload_safetensors",
        "test_model_parallelism",
        "test_sdpa_can_compile_dynamic",
        "test_sdpa_can_dispatch_on_flash",
    ),
    Reason.NEEDS_GPU,
)
_NO_DEEPSPEED = dict.fromkeys(
    (
        "test_resize_embeddings_untied_with_deepspeed",
        "test_resize_embeddings_untied_with_deepspeed_multi_gpu",
        "test_resize_tokens_embeddings_with_deepspeed",
        "test_resize_tokens_embeddings_with_deepspeed_multi_gpu",
    ),
    Reason.NEEDS_DEEPSPEED,
)
_OTHER_SENSES = {
    **dict.fromkeys(
        (
            "test_get_audio_features_attentions",
            "test_get_audio_features_hidden_states",
            "test_get_audio_features_output",
        ),
        Reason.NO_AUDIO,
    ),
    **dict.fromkeys(
        (
            "test_get_video_features_attentions",
            "test_get_video_features_hidden_states",
            "test_get_video_features_output",
            "test_get_video_features_pooler_output",
        ),
        Reason.NO_VIDEO,
    ),
    **dict.fromkeys(
        (
            "test_get_text_features_attentions",
            "test_get_text_features_hidden_states",
            "test_get_text_features_output",
        ),
        Reason.NO_TEXT_FEATURES,
    ),
}
_ABSENT = {
    **dict.fromkeys(
        (
            "test_feed_forward_chunking",
            "test_model_rope_with_partial_rotation",
            "test_problem_types",
            "test_resize_position_vector_embeddings",
            "test_sliding_window_mask",
            "test_vision_axial_rope",
        ),
        Reason.NO_SUCH_LAYER,
    ),
    **dict.fromkeys(
        (
            "test_generation_tester_mixin_inheritance",
            "test_model_is_small",
            "test_num_layers_is_small",
        ),
        Reason.ABOUT_TESTS,
    ),
    "test_can_load_from_already_mapped_keys": Reason.NO_RENAMING,
    "test_reverse_loading_mapping": Reason.NO_RENAMING,
    "test_encoder_decoder_loss_no_double_shift": Reason.NO_ENCODER_DECODER,
    "test_keep_in_fp32_modules": Reason.NO_FP32_MODULES,
    "test_keep_in_fp32_modules_exist": Reason.NO_FP32_MODULES,
}
_WEIGHTS = {
    "test_all_tensors_are_parameter_or_buffer": (
        _W + "test_every_tensor_is_a_parameter_or_a_buffer"
    ),
    "test_base_model_prefix_loads_base_weights": (
        _W + "test_a_checkpoint_of_the_model_loads_into_the_model_with_a_head_and_back"
    ),
    "test_bc_torch_dtype": _W + "test_the_dtype_is_set_everywhere_by_either_name",
    "test_can_be_initialized_on_meta": _W + "test_it_can_be_made_without_memory",
    "test_can_init_all_missing_weights": _MISSING,
    "test_can_load_ignoring_mismatched_shapes": _MISMATCHED,
    "test_can_load_with_device_context_manager": _DEVICES,
    "test_can_load_with_global_device_set": _DEVICES,
    "test_can_use_safetensors": "hub/test_publish.py::test_only_safetensors_and_code_are_written",
    "test_cannot_load_with_meta_device_context_manager": _DEVICES,
    "test_correct_missing_keys": _W + "test_keys_that_lack_are_named_and_only_those",
    "test_from_pretrained_no_checkpoint": (
        _W + "test_a_configuration_and_a_state_dict_are_a_checkpoint"
    ),
    "test_init_weights_can_init_buffers": (
        "model/test_composition.py::test_buffers_are_the_same_after_loading"
    ),
    "test_load_contiguous_weights": (_W + "test_loaded_weights_are_contiguous_whatever_was_saved"),
    "test_load_save_without_tied_weights": (
        _W + "test_saved_twice_and_loaded_twice_it_answers_as_before"
    ),
    "test_load_with_mismatched_shapes": _MISMATCHED,
    "test_model_base_model_prefix": _W + "test_names_that_tools_go_by_are_right",
    "test_model_get_set_embeddings": _W + "test_embeddings_are_found_and_replaced",
    "test_model_main_input_name": _W + "test_names_that_tools_go_by_are_right",
    "test_model_weights_reload_no_missing_tied_weights": (
        _W + "test_tied_weights_are_one_tensor_saved_once"
    ),
    "test_resize_embeddings_untied": _RESIZED,
    "test_resize_embeddings_untied_no_reinit_on_post_init": (
        _W + "test_initialising_again_leaves_a_resized_head_alone"
    ),
    "test_resize_tokens_embeddings": _RESIZED,
    "test_save_load": _W + "test_saved_twice_and_loaded_twice_it_answers_as_before",
    "test_save_load_keys_to_ignore_on_save": (_W + "test_tied_weights_are_one_tensor_saved_once"),
    "test_tied_head_has_a_tp_plan_entry": (
        _W + "test_every_entry_of_a_plan_for_several_devices_names_a_module"
    ),
    "test_tied_weights_keys": _W + "test_tied_weights_are_one_tensor_saved_once",
    "test_torch_save_load": _W + "test_a_state_dict_carries_everything",
    "test_tp_plan_matches_params": (
        _W + "test_every_entry_of_a_plan_for_several_devices_names_a_module"
    ),
}
_ANSWERS = {
    "test_attention_outputs": _STATES,
    "test_attn_implementation_composite_models": _PARTS_ATTEND,
    "test_batching_equivalence": _A + "test_a_batch_answers_as_its_rows_do",
    "test_can_capture_specific_layers_hidden_states": _STATES,
    "test_can_set_attention_dynamically": _IMPLEMENTATIONS,
    "test_can_set_attention_dynamically_composite_model": _PARTS_ATTEND,
    "test_capture_outputs_decorator": _STATES,
    "test_causal_lm_loss_honors_shift_labels": (
        _A + "test_shifted_labels_give_the_loss_of_plain_ones"
    ),
    "test_config_attn_implementation_setter": _IMPLEMENTATIONS,
    "test_determinism": _A + "test_the_same_inputs_give_the_same_answer",
    "test_eager_matches_batched_and_grouped_inference": (
        "model/test_moe.py::test_every_implementation_computes_the_definition"
    ),
    "test_eager_matches_sdpa_inference": _IMPLEMENTATIONS,
    "test_enable_input_require_grads": (
        _A + "test_inputs_can_be_made_to_ask_for_gradients_and_let_go_again"
    ),
    "test_enable_input_require_grads_with_gradient_checkpointing": _CHECKPOINTING,
    "test_flex_attention_with_grads": (
        "model/test_packed_attention.py"
        "::test_packed_logits_equal_those_of_each_document_alone_on_flex"
    ),
    "test_format_of_can_record_outputs": _STATES,
    "test_get_image_features_attentions": _FEATURES,
    "test_get_image_features_hidden_states": _FEATURES,
    "test_get_image_features_output": _FEATURES,
    "test_get_image_features_pooler_output": _FEATURES,
    "test_gradient_checkpointing_backward_compatibility": _CHECKPOINTING,
    "test_gradient_checkpointing_enable_disable": (
        _A + "test_activation_checkpointing_can_be_switched_on_and_off_again"
    ),
    "test_hidden_states_output": _STATES,
    "test_inputs_embeds": _A + "test_embeddings_in_place_of_tokens_give_the_same_answer",
    "test_inputs_embeds_matches_input_ids": (
        _A + "test_embeddings_in_place_of_tokens_give_the_same_answer"
    ),
    "test_internal_model_config_and_subconfig_are_same": (
        _A + "test_parts_and_whole_share_one_configuration"
    ),
    "test_model_forward_default_config_values": (
        _A + "test_defaults_left_out_and_given_as_none_are_the_same"
    ),
    "test_model_outputs_equivalence": (_A + "test_a_tuple_holds_what_the_named_output_holds"),
    "test_model_rope_scaling_frequencies": _ROPE,
    "test_model_rope_scaling_from_config": _ROPE,
    "test_moe_models_record_router_logits": _ROUTERS,
    "test_output_router_logits_from_config": _ROUTERS,
    "test_peft_gradient_checkpointing_enable_disable": (
        "model/test_gradients.py::test_adapters_train_wherever_they_are"
    ),
    "test_retain_grad_hidden_states_attentions": (
        _A + "test_gradients_of_hidden_states_and_attentions_can_be_kept"
    ),
    "test_sdpa_can_dispatch_composite_models": _PARTS_ATTEND,
    "test_sdpa_can_dispatch_non_composite_models": _IMPLEMENTATIONS,
    "test_torch_compile_for_training": _COMPILED,
    "test_training": _CHECKPOINTING,
    "test_training_gradient_checkpointing": _CHECKPOINTING,
    "test_training_gradient_checkpointing_use_reentrant_false": _CHECKPOINTING,
    "test_training_gradient_checkpointing_use_reentrant_true": _CHECKPOINTING,
}

CHECKS: dict[str, str | Reason] = {
    **_NO_FLASH,
    **_NO_GPU,
    **_NO_DEEPSPEED,
    **_OTHER_SENSES,
    **_ABSENT,
    **_WEIGHTS,
    **_ANSWERS,
}
