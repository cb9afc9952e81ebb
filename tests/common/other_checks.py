"""The processors', the configurations' and the pipelines' mixins of transformers 5.23."""

from .reasons import Reason

_P = "common/test_processors.py::"
_IMAGES = "model/test_image_processing.py::"
_CONFIGURATION = "model/test_configuration.py::"
_CHAT = "model/test_chat.py::"
_PROCESSING = "model/test_processing.py::"
_ARGUMENTS = _P + "test_arguments_reach_the_tokenizer_flat_and_nested"
_TWICE = _P + "test_an_argument_given_twice_is_an_error"
_DEFAULTS = _P + "test_settings_of_parts_hold_until_a_call_says_otherwise"
_HOMES = _P + "test_no_argument_has_two_homes"
_ALONE = _P + "test_text_alone_makes_no_pixels_and_pictures_alone_are_the_image_processors"
_TEMPLATE = _P + "test_a_chat_template_is_saved_beside_and_loaded_and_goes_nowhere_else"
_PARTS = _P + "test_parts_loaded_one_by_one_make_the_same_processor"
_SAVED = _PROCESSING + "test_saved_and_loaded_processors_are_equal"
_KINDS = _P + "test_one_picture_and_several_come_as_flat_tiles"
_OWN_SETTINGS = _P + "test_settings_of_one_image_processor_are_not_those_of_another"
_EDITED = _IMAGES + "test_edited_settings_survive_saving_and_the_type_has_one_name"
_BACK_ENDS = _IMAGES + "test_edited_settings_survive_saving_and_the_type_has_one_name"

PROCESSOR: dict[str, str | Reason] = {
    "test_apply_chat_template_assistant_mask": (
        _CHAT + "test_the_assistant_mask_covers_answers_and_their_ends_only"
    ),
    "test_apply_chat_template_audio": Reason.NO_AUDIO,
    "test_apply_chat_template_decoded_video": Reason.NO_VIDEO,
    "test_apply_chat_template_image": (
        _CHAT + "test_a_batch_of_conversations_keeps_images_with_their_texts"
    ),
    "test_apply_chat_template_tool_calls_no_content": (
        _CHAT + "test_names_of_arguments_of_a_tool_call_are_escaped_too"
    ),
    "test_apply_chat_template_video": Reason.NO_VIDEO,
    "test_args_overlap_kwargs": _HOMES,
    "test_call_arguments_default_none": _HOMES,
    "test_call_arguments_not_in_attributes": _HOMES,
    "test_call_arguments_not_in_processor_kwargs": _HOMES,
    "test_chat_template_audio_from_video": Reason.NO_AUDIO,
    "test_chat_template_audio_sampling_rate": Reason.NO_AUDIO,
    "test_chat_template_jinja_kwargs": _TEMPLATE,
    "test_chat_template_save_loading": _TEMPLATE,
    "test_chat_template_saving_rejects_path_traversal": _TEMPLATE,
    "test_apply_chat_template_video_frame_sampling": Reason.NO_VIDEO,
    "test_doubly_passed_kwargs": _TWICE,
    "test_flat_kwarg_applied_when_modality_dict_lacks_it": _ARGUMENTS,
    "test_get_num_multimodal_tokens_matches_processor_call": (
        _PROCESSING + "test_serving_engines_are_told_the_same_counts"
    ),
    "test_get_num_multimodal_tokens_matches_processor_call_audio": Reason.NO_AUDIO,
    "test_get_num_multimodal_tokens_matches_processor_call_video": Reason.NO_VIDEO,
    "test_if_input_has_mismatching_tokens_and_mm_data": (
        _PROCESSING + "test_wrong_image_counts_name_the_sample"
    ),
    "test_init_arguments_not_in_class_attributes": _HOMES,
    "test_init_arguments_not_in_processor_kwargs": _HOMES,
    "test_kwargs_overrides_default_subprocessor_kwargs": _DEFAULTS,
    "test_model_input_names": _P + "test_names_of_inputs_are_those_of_the_output",
    "test_no_redundant_default_kwargs": _DEFAULTS,
    "test_overlapping_text_image_kwargs_handling": _TWICE,
    "test_processor_from_and_save_pretrained": _SAVED,
    "test_processor_from_and_save_pretrained_as_nested_dict": _PARTS,
    "test_processor_from_pretrained_vs_from_components": _PARTS,
    "test_processor_text_has_no_visual": _ALONE,
    "test_processor_to_json_string": _PARTS,
    "test_processor_with_multiple_inputs": (
        _PROCESSING + "test_the_images_of_a_text_are_its_sample_however_they_come"
    ),
    "test_replacement_offsets": _P + "test_where_images_stand_in_the_text_is_told_on_request",
    "test_save_load_pretrained_additional_features": (
        _P + "test_settings_given_while_loading_reach_the_part_they_belong_to"
    ),
    "test_structured_kwargs_nested_from_dict": _ARGUMENTS,
    "test_subprocessor_defaults": _ALONE,
    "test_subprocessor_defaults_preserved_by_kwargs": _DEFAULTS,
    "test_tokenizer_decode_defaults": _ALONE,
    "test_unstructured_kwargs": _ARGUMENTS,
    "test_unstructured_kwargs_batched": _ARGUMENTS,
    "test_valid_processor_kwargs_set": _HOMES,
}

IMAGE_PROCESSOR: dict[str, str | Reason] = {
    "test_backends_equivalence": _IMAGES + "test_pixels_are_within_one_step_of_pillow",
    "test_backends_equivalence_batched": _IMAGES + "test_pixels_are_within_one_step_of_pillow",
    "test_call_numpy": _KINDS,
    "test_call_numpy_4_channels": (_IMAGES + "test_transparent_pixels_lie_on_white_in_every_form"),
    "test_call_pil": _KINDS,
    "test_call_pytorch": _KINDS,
    "test_can_compile_torchvision_backend": Reason.NO_SUCH_LAYER,
    "test_cast_dtype_device": _P + "test_pixels_take_any_dtype_they_are_cast_to",
    "test_convert_to_rgb_mixed_input_batch": (_P + "test_colour_modes_may_be_mixed_in_a_batch"),
    "test_fast_image_processor_explicit_none_preserved": _EDITED,
    "test_image_processor_from_and_save_pretrained": _EDITED,
    "test_image_processor_from_dict_has_attributes": _OWN_SETTINGS,
    "test_image_processor_from_dict_with_kwargs_has_attributes": _OWN_SETTINGS,
    "test_image_processor_has_attributes": _OWN_SETTINGS,
    "test_image_processor_preprocess_arguments": (
        _IMAGES + "test_wrong_settings_are_refused_at_once_and_per_call"
    ),
    "test_image_processor_save_load_with_autoimageprocessor": _PARTS,
    "test_image_processor_to_json_file": _PARTS,
    "test_image_processor_to_json_string": _PARTS,
    "test_init_without_params": _OWN_SETTINGS,
    "test_new_models_require_torchvision_backend": Reason.ABOUT_TESTS,
    "test_override_instance_attributes_does_not_affect_other_instances": _OWN_SETTINGS,
    "test_pil_can_run_without_torchvision": (
        "journeys/test_fresh_process.py::test_every_auto_class_knows_mm1"
    ),
    "test_post_process_test_mixin_inheritance": Reason.ABOUT_TESTS,
    "test_save_load_backends": _BACK_ENDS,
    "test_save_load_backends_auto": _BACK_ENDS,
    "test_valid_kwargs_set": _IMAGES + "test_settings_of_one_call_do_not_stay",
}

CONFIGURATION: dict[str, str | Reason] = {
    "create_and_test_config_common_properties": _CONFIGURATION + "test_defaults_are_the_papers",
    "create_and_test_config_to_json_string": _CONFIGURATION + "test_defaults_survive_json",
    "create_and_test_config_to_json_file": _CONFIGURATION + "test_defaults_survive_json",
    "create_and_test_config_from_and_save_pretrained": (
        _CONFIGURATION + "test_auto_config_knows_every_part"
    ),
    "create_and_test_config_from_and_save_pretrained_subfolder": (
        _CONFIGURATION + "test_auto_config_knows_every_part"
    ),
    "create_and_test_config_from_and_save_pretrained_composite": (
        _CONFIGURATION + "test_parts_load_from_the_configuration_of_the_whole"
    ),
    "create_and_test_config_from_pretrained_custom_kwargs": (
        _CONFIGURATION + "test_every_composition_survives_json"
    ),
    "create_and_test_config_with_num_labels": Reason.NO_TASK,
    "check_config_can_be_init_without_params": _CONFIGURATION + "test_defaults_survive_json",
    "check_config_arguments_init": (
        _CONFIGURATION + "test_a_misspelt_field_is_an_error_that_names_the_nearest"
    ),
}

_ANSWERS = "journeys/test_fresh_process.py::test_the_pipeline_answers_about_a_picture"
_OTHER_TASKS = (
    "audio_classification",
    "automatic_speech_recognition",
    "depth_estimation",
    "document_question_answering",
    "fill_mask",
    "image_classification",
    "image_segmentation",
    "mask_generation",
    "object_detection",
    "table_question_answering",
    "text_classification",
    "text_to_audio",
    "token_classification",
    "video_classification",
    "zero_shot",
    "zero_shot_audio_classification",
    "zero_shot_image_classification",
    "zero_shot_object_detection",
)
_OUR_TASKS = {
    "any_to_any": _ANSWERS,
    "image_text_to_text": _ANSWERS,
    "text_generation": "common/test_pipelines.py::test_text_goes_on",
    "feature_extraction": "common/test_pipelines.py::test_features_are_hidden_states",
    "image_feature_extraction": "common/test_pipelines.py::test_features_are_hidden_states",
}
PIPELINE: dict[str, str | Reason] = {
    f"test_pipeline_{task}{precision}": check
    for task, check in {**dict.fromkeys(_OTHER_TASKS, Reason.NO_TASK), **_OUR_TASKS}.items()
    for precision in ("", "_fp16")
}
