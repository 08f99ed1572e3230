"""Mistral's own v3 tokenizer, from mistral-common, as `tokenizer.json`."""

from pathlib import Path

from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers


def save_mistral_tokenizer(folder: Path, *, legacy: bool = False) -> None:
    """Save it the way Hugging Face converts such models.

    Args:
        folder: Where to.
        legacy: Put the word boundary before a text by a normaliser, as older conversions do, not by a pre-tokenizer.
    """
    pieces = MistralTokenizer.v3().instruct_tokenizer.tokenizer
    vocabulary = {pieces.id_to_piece(number): number for number in range(pieces.n_words)}
    score = pieces._model.GetScore
    merges = []
    for piece in sorted(vocabulary, key=lambda piece: -score(vocabulary[piece])):
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in splits if pair[0] in vocabulary and pair[1] in vocabulary]
        merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    control = [pieces.id_to_piece(number) for number in range(14)]
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in control])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
