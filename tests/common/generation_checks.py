"""`GenerationTesterMixin`, check by check.

The source distribution does not carry this mixin, so no test compares these names with the
original; they are those of transformers 5.
"""

from .reasons import Reason

_A = "common/test_answers.py::"
_G = "model/test_generation.py::"
_BATCH = _G + "test_a_batch_generates_what_each_sample_does_alone"
_EVERY_WAY = _G + "test_every_way_generates_from_every_kind_of_batch"
_STEPS = _A + "test_generation_returns_scores_states_and_attentions_of_every_step"
_BEAMS = _G + "test_beams_of_a_batch_are_those_of_each_sample_alone"
_EMBEDS = _G + "test_generation_continues_from_embeddings"
_CACHE = _A + "test_generation_goes_on_from_a_returned_cache"
_GUESS = _A + "test_a_decoder_that_guesses_ahead_changes_no_greedy_answer"
_SAMPLE = _G + "test_several_samples_are_drawn_per_prompt"
_COMPILED = "model/test_modeling.py::test_the_whole_forward_compiles_into_one_graph"
_KEPT = "model/test_modeling.py::test_logits_are_computed_only_where_wanted"

CHECKS: dict[str, str | Reason] = {
    "test_assisted_decoding_matches_greedy_search": _GUESS,
    "test_assisted_decoding_sample": _GUESS,
    "test_beam_sample_generate": _STEPS,
    "test_beam_sample_generate_dict_output": _STEPS,
    "test_beam_search_generate": _BEAMS,
    "test_beam_search_generate_dict_output": _STEPS,
    "test_beam_search_generate_dict_outputs_use_cache": _STEPS,
    "test_custom_4d_attention_mask": _A + "test_a_mask_of_four_dimensions_is_taken_as_it_is",
    "test_eager_matches_fa2_generate": Reason.NEEDS_KERNELS,
    "test_eager_matches_sdpa_generate": (
        _A + "test_attention_implementations_agree_and_can_be_changed_in_a_living_model"
    ),
    "test_flash_attention_2_continue_generate_with_position_ids": Reason.NEEDS_KERNELS,
    "test_flash_attention_2_padding_matches_padding_free_with_position_ids": (Reason.NEEDS_KERNELS),
    "test_flash_attention_2_padding_matches_padding_free_with_position_ids_and_fa_kwargs": (
        Reason.NEEDS_KERNELS
    ),
    "test_forward_with_logits_to_keep": _KEPT,
    "test_generate_compilation_all_outputs": _COMPILED,
    "test_generate_compile_model_forward_fullgraph": _COMPILED,
    "test_generate_continue_from_inputs_embeds": _EMBEDS,
    "test_generate_continue_from_past_key_values": _CACHE,
    "test_generate_from_inputs_embeds": _EMBEDS,
    "test_generate_from_inputs_embeds_with_static_cache": _EMBEDS,
    "test_generate_from_random_inputs_embeds": _G + "test_the_picture_matters",
    "test_generate_methods_with_logits_to_keep": _KEPT,
    "test_generate_with_and_without_position_ids": _BATCH,
    "test_generate_with_quant_cache": Reason.NO_SUCH_LAYER,
    "test_generate_with_static_cache": _BATCH,
    "test_generate_without_input_ids": (
        _A + "test_generation_without_a_prompt_begins_with_the_beginning_of_text"
    ),
    "test_generation_beyond_sliding_window": Reason.NO_SUCH_LAYER,
    "test_greedy_generate": _BATCH,
    "test_greedy_generate_dict_outputs": _STEPS,
    "test_greedy_generate_dict_outputs_use_cache": _STEPS,
    "test_inherits_generation_mixin": _EVERY_WAY,
    "test_left_padding_compatibility": "model/test_decoder.py::test_left_padding_changes_nothing",
    "test_mismatching_num_image_tokens": (
        "model/test_modeling.py::test_placeholders_and_tiles_must_match"
    ),
    "test_model_parallel_beam_search": Reason.NEEDS_GPU,
    "test_past_key_values_format": _CACHE,
    "test_prompt_lookup_decoding_matches_greedy_search": (
        _G + "test_candidates_looked_up_in_the_prompt_change_nothing"
    ),
    "test_sample_generate": _SAMPLE,
    "test_sample_generate_dict_output": _STEPS,
}
