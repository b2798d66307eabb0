"""How the built-in model is made: its world, its offline corpus, its tokenizer, its training."""
