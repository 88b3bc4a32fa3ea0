"""A vision-language model of a few thousand weights that always says one thing, for an independent server to serve."""


def build_tiny_vlm(folder, reply):
    """LLaVA with a byte-level tokenizer. Its language part is a chain: after the prompt's last space comes ``reply`` as
    one token, then the end; the attention and the feed-forward add nothing. The vision part is random, but runs."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    tokens = ["<pad>", "<s>", "</s>", "<unk>", "<image>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    said = "".join(dict(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(reply)))
    tokens.append(said)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    template = (
        "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
        "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}"
        "{% endfor %}{% endif %}\n{% endfor %}assistant: "
    )
    side = {"height": 28, "width": 28}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=side), tokenizer=tokenizer,
        patch_size=14, vision_feature_select_strategy="default", chat_template=template, num_additional_image_tokens=1,
    )  # fmt: skip
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
                              image_size=28, patch_size=14)  # fmt: skip
    width = -(-len(tokens) // 4) * 4
    text = LlamaConfig(vocab_size=len(tokens), hidden_size=width, intermediate_size=16, num_hidden_layers=1,
                       num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=8192, pad_token_id=0,
                       bos_token_id=1, eos_token_id=2)  # fmt: skip
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision, text_config=text, image_token_index=4, image_token_id=4, vision_feature_layer=-1
        )
    )
    weights = model.state_dict()
    with torch.no_grad():
        for name, weight in weights.items():
            if name.endswith(("o_proj.weight", "down_proj.weight")) and "vision" not in name:
                weight.zero_()
            elif name.endswith("embed_tokens.weight"):
                weight.copy_(torch.eye(len(tokens), width))
            elif name.endswith("lm_head.weight"):
                weight.zero_()
                weight[vocabulary[said], vocabulary["Ġ"]] = 1
                weight[2, vocabulary[said]] = 1
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
