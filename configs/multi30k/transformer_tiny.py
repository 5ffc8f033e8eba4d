from s2sjax.experiment import base_config


def get_config(argument: str = ""):
    config = base_config(model="transformer")
    config.data.format = "text"
    config.data.source = "{split}.en"
    config.data.target = "{split}.de"
    config.data.validation = "val"
    config.data.test = "test_2016_flickr"
    config.tokenizer.kind = "bpe"
    config.tokenizer.vocab_size = 8000
    config.train.precision = "bfloat16_products"
    return config
