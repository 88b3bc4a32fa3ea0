"""The paper's claims in miniature: makes data, trains a grid of variants, evaluates, writes tables. Stands on top."""
