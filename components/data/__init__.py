"""What a sample is: prompt formats, tokenizer, image preprocessing, packing, and the energon-backed loader."""
