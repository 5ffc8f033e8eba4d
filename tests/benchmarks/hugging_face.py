"""Hugging Face models with the parameters of ours, for comparisons of search on the same weights.

    .venv/bin/python -m pip install torch transformers      # no dependencies of the project

Each computes what ours computes with these configs, sizes aside:

    marian   transformer.Config(norm="post", norm_epsilon=1e-5, positions="learned", mlp="swish")
    gpt2     causal_lm.Config(norm_epsilon=1e-5, positions="learned", mlp="gelu_tanh", scale_embeddings=False)
    llama    causal_lm.Config(norm_kind="rms", positions="rotary", mlp="swiglu", biases=False, tied=False,
             scale_embeddings=False)

Positions of Marian are learned here, since Hugging Face's Marian reads them from a table. It fills that with sinusoids
of frequencies 10000 ** (-i / n), n half the width; ours, tensor2tensor's, are 10000 ** (-i / (n - 1)).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from s2sjax.vocabulary import BOS, EOS, PAD

Params = Mapping[str, Any]


def marian(params: Params, *, heads: int) -> transformers.MarianMTModel:
    """The encoder-decoder, source, target and output embeddings tied."""
    encoder, decoder, table = params["encoder"], params["decoder"], params["target_embedding"]["table"]
    (vocab, width), hidden = table.shape, encoder["layers_0"]["mlp"]["up"]["kernel"].shape[1]
    config = transformers.MarianConfig(
        vocab_size=vocab, d_model=width, max_position_embeddings=len(encoder["positions"]["learned"]["table"]),
        encoder_layers=_depth(encoder), encoder_ffn_dim=hidden, encoder_attention_heads=heads,
        decoder_layers=_depth(decoder), decoder_ffn_dim=hidden, decoder_attention_heads=heads,
        activation_function="swish", scale_embedding=True, dropout=0.0, pad_token_id=PAD, eos_token_id=EOS,
        decoder_start_token_id=BOS, forced_eos_token_id=None,
    )  # fmt: skip
    flat: dict[str, Tensor] = {
        name: _tensor(table)
        for name in ("model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head")
    }
    for side, stack in (("encoder", encoder), ("decoder", decoder)):
        flat[f"model.{side}.embed_positions"] = _tensor(stack["positions"]["learned"]["table"])
        for number, layer in _layers(stack):
            name = f"model.{side}.layers.{number}"
            pairs = {"self_attn": layer["attention"], "encoder_attn": layer.get("cross_attention", {})}
            for theirs, attention in pairs.items():
                for ours, short in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "out")):
                    if attention:
                        flat |= _dense(f"{name}.{theirs}.{short}_proj", attention[ours])
            flat |= _dense(f"{name}.fc1", layer["mlp"]["up"]) | _dense(f"{name}.fc2", layer["mlp"]["down"])
            flat |= _norm(f"{name}.self_attn_layer_norm", layer["around_attention"])
            flat |= _norm(f"{name}.final_layer_norm", layer["around_mlp"])
            if "around_cross" in layer:
                flat |= _norm(f"{name}.encoder_attn_layer_norm", layer["around_cross"])
    model = transformers.MarianMTModel(config)
    return _loaded(model, flat, final_logits_bias=model.final_logits_bias)


def gpt2(params: Params, *, heads: int) -> transformers.GPT2LMHeadModel:
    """The language model of 2019, embedding and output tied."""
    decoder, table = params["decoder"], params["target_embedding"]["table"]
    positions = decoder["positions"]["learned"]["table"]
    config = transformers.GPT2Config(
        vocab_size=len(table), n_embd=table.shape[1], n_positions=len(positions), n_layer=_depth(decoder), n_head=heads,
        n_inner=decoder["layers_0"]["mlp"]["up"]["kernel"].shape[1], activation_function="gelu_new", resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    flat = {"transformer.wte": _tensor(table), "lm_head": _tensor(table), "transformer.wpe": _tensor(positions)}
    flat |= _scale_and_bias("transformer.ln_f", decoder["norm"])
    for number, layer in _layers(decoder):
        name, attention = f"transformer.h.{number}", layer["attention"]
        query_key_value = [attention[part] for part in ("query", "key", "value")]
        flat |= _conv(f"{name}.attn.c_attn", query_key_value) | _conv(f"{name}.attn.c_proj", [attention["output"]])
        flat |= _conv(f"{name}.mlp.c_fc", [layer["mlp"]["up"]]) | _conv(f"{name}.mlp.c_proj", [layer["mlp"]["down"]])
        flat |= _norm(f"{name}.ln_1", layer["around_attention"]) | _norm(f"{name}.ln_2", layer["around_mlp"])
    return _loaded(transformers.GPT2LMHeadModel(config), flat)


def llama(params: Params, *, heads: int, kv_heads: int) -> transformers.LlamaForCausalLM:
    """The language model of 2023: RMS normalisation, rotary positions, SwiGLU, grouped queries."""
    decoder, table = params["decoder"], params["target_embedding"]["table"]
    config = transformers.LlamaConfig(
        vocab_size=len(table), hidden_size=table.shape[1], num_hidden_layers=_depth(decoder), num_attention_heads=heads,
        num_key_value_heads=kv_heads, intermediate_size=decoder["layers_0"]["mlp"]["up"]["kernel"].shape[1],
        rms_norm_eps=1e-6, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, tie_word_embeddings=False,
    )  # fmt: skip
    flat = {"model.embed_tokens": _tensor(table), "lm_head": _tensor(params["projection"]["kernel"]).T}
    flat |= _scale_and_bias("model.norm", decoder["norm"])
    for number, layer in _layers(decoder):
        name = f"model.layers.{number}"
        for ours, short in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")):
            flat |= _dense(f"{name}.self_attn.{short}_proj", layer["attention"][ours])
        for part in ("gate", "up", "down"):
            flat |= _dense(f"{name}.mlp.{part}_proj", layer["mlp"][part])
        flat |= _norm(f"{name}.input_layernorm", layer["around_attention"])
        flat |= _norm(f"{name}.post_attention_layernorm", layer["around_mlp"])
    return _loaded(transformers.LlamaForCausalLM(config), flat)


def _loaded(model, flat: Mapping[str, Tensor], **own: Tensor):
    """The model with these parameters, all of them; those without a suffix are weights."""
    suffixed = {name if name.endswith((".weight", ".bias")) else f"{name}.weight": x for name, x in flat.items()}
    model.load_state_dict({**suffixed, **own})
    return model.eval()


def _depth(stack: Params) -> int:
    return sum(key.startswith("layers_") for key in stack)


def _layers(stack: Params) -> Iterable[tuple[int, Params]]:
    return ((number, stack[f"layers_{number}"]) for number in range(_depth(stack)))


def _tensor(x: Any) -> Tensor:
    return torch.from_numpy(np.array(x, np.float32))


def _dense(name: str, layer: Params) -> dict[str, Tensor]:
    """A kernel [in, out] is a weight [out, in] of `torch.nn.Linear`."""
    bias = {f"{name}.bias": _tensor(layer["bias"])} if "bias" in layer else {}
    return {f"{name}.weight": _tensor(layer["kernel"]).T.contiguous(), **bias}


def _conv(name: str, layers: list[Params]) -> dict[str, Tensor]:
    """GPT-2's layers keep [in, out], and stack several along the outputs."""
    return {
        f"{name}.weight": torch.cat([_tensor(layer["kernel"]) for layer in layers], dim=1),
        f"{name}.bias": torch.cat([_tensor(layer["bias"]) for layer in layers]),
    }


def _norm(name: str, around: Params) -> dict[str, Tensor]:
    return _scale_and_bias(name, around["norm"])


def _scale_and_bias(name: str, norm: Params) -> dict[str, Tensor]:
    bias = {f"{name}.bias": _tensor(norm["bias"])} if "bias" in norm else {}
    return {f"{name}.weight": _tensor(norm["scale"]), **bias}
