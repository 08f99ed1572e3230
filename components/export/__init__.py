"""Export: a trained model becomes a folder that Hugging Face's transformers loads unaided."""
