"""Vision-language models behind an OpenAI-compatible server, as captioner and as voter."""
