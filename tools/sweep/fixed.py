"""The part of the sweep that runs as a Rust test, with what the references gave.

`right` must give the reference's vectors. `right-or-refused` may end with an error. `refused` must.
"""

import edits
from edits import Edit, drop_keys, set_keys

RIGHT, EITHER, REFUSED = "right", "right-or-refused", "refused"
F32 = ("qwen3-f32", "qwen2-f32", "llama-f32")
HEAD_DIM = {"qwen3-f32": 16, "qwen2-f32": 8, "llama-f32": 16}

# By the name of the edit; the others may be refused.
MUST_BE_RIGHT = {
    "window in the last layer", "window in every layer", "layer_types sliding, window in use",
    "is_causal false", "use_bidirectional_attention", "gte's auto_map",
    "window in no layer", "window as long as texts", "window null", "window by default", "window not in use",
    "layer_types full", "is_causal true", "partial_rotary_factor 1", "original at the top",
    "rope_scaling empty", "rope_scaling default", "rope_scaling linear", "rope_scaling dynamic",
    "rope_scaling llama3", "rope_scaling yarn", "rope_scaling yarn-type", "rope_scaling yarn-type-default",
    "rope_scaling yarn-no-original", "rope_scaling yarn-truncate-false", "rope_scaling yarn-factor-null",
    "rope_scaling yarn-attention-factor", "rope_scaling yarn-mscale", "rope_scaling yarn-mscales",
    "rope_scaling yarn-mscale-all-dim", "rope_scaling yarn-betas", "rope_scaling longrope",
    "rope_parameters yarn", "rope_parameters linear", "theta nested alone",
}
MUST_BE_REFUSED = {
    "layer_types unknown", "layer_types too few", "window of 0", "rope_scaling unheard-of",
    "linear.weight added", "score.weight added", "model.norm.bias added",
    "model.layers.0.self_attn.sinks added", "model.layers.7.input_layernorm.weight added",
    "model.layers.0.self_attn.q_proj.lora_A.weight added", "model.layers.0.input_layernorm.bias added",
    "model.norm.weight: drop", "model.norm.weight: rename", "model.norm.weight: i32",
    "model.norm.weight: shape", "model.layers.1.mlp.up_proj.weight: drop",
}
TENSORS = ("model.norm.weight", "model.layers.1.mlp.up_proj.weight")


def must(name: str) -> str:
    if name in MUST_BE_REFUSED:
        return REFUSED
    return RIGHT if name in MUST_BE_RIGHT else EITHER


def cases():
    """Base, edit and what must become of it."""
    for base in F32:
        found = [Edit("nothing")] + edits.attention(2)
        if base == "qwen3-f32":
            found += edits.positions(HEAD_DIM[base])
        else:
            found += [edit for edit in edits.positions(HEAD_DIM[base])
                      if edit.name.split()[-1] in ("yarn", "llama3", "yarn-truncate-false", "alone", "theta")]
        for edit in found + edits.further_keys() + edits.of_tensors(list(TENSORS)):
            # Llama's windows are refused, and gte's code is Qwen2's alone.
            unfit = base == "llama-f32" and "window" in edit.name and "layer_types sliding" in edit.name
            unfit |= "auto_map" in edit.name and "gte" in edit.name and base != "qwen2-f32"
            # Another family's parts, where the edit turns on what this one has not.
            if not unfit and not (edit.name.startswith(("model.", "lm_head", "visual")) and "added" in edit.name
                                  and edit.name not in MUST_BE_REFUSED):
                named = RIGHT if edit.name == "nothing" else must(edit.name)
                # No Llama has windows, so whatever this says about them has no effect.
                is_llamas = base == "llama-f32" and edit.name == "window of 0"
                yield base, edit, RIGHT if is_llamas else named
    yield "qwen3-f32", Edit("head_dim dropped", drop_keys("head_dim")), EITHER
    yield "llama-f32", Edit("no kv heads", set_keys(num_key_value_heads=None)), EITHER
