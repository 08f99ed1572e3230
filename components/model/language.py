"""The language model: megatron-core's GPTModel, run on packed sequences."""

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor

from components.data.packing import IGNORED_LABEL
from components.errors import StageError
from components.model.attention import PackedLayout
from components.model.config import LanguageConfig
from components.model.layer_specs import block_submodules
from components.model.recompute import Recompute
from components.model.rotary import stretched
from components.model.transformer_config import BuildSettings, language_transformer_config


class LanguageModel(GPTModel):
    """GPTModel with its steps apart: pictures enter between embedding and layers, and logits are computed where needed.

    Args:
        architecture: The language model.
        settings: How it is built.
        hidden_dropout: Dropout of embedding and residual branches.
        attention_dropout: Dropout of the attention weights.
        recompute: What the backward pass computes again, to save memory.
    """

    def __init__(
        self,
        architecture: LanguageConfig,
        settings: BuildSettings,
        *,
        hidden_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        recompute: Recompute = "none",
    ) -> None:
        super().__init__(
            config=language_transformer_config(
                architecture,
                settings,
                hidden_dropout=hidden_dropout,
                attention_dropout=attention_dropout,
            ),
            transformer_layer_spec=block_submodules(
                settings.backend,
                architecture.num_layers,
                AttnMaskType.causal,
                recompute,
                qk_norm=architecture.qk_norm,
            ),
            vocab_size=architecture.padded_vocabulary_size,
            max_sequence_length=architecture.max_position_embeddings,
            parallel_output=True,
            share_embeddings_and_output_weights=architecture.tied_embeddings,
            position_embedding_type="rope",
            rotary_base=architecture.rotary_base,
        )
        self.architecture = architecture
        self.backend = settings.backend
        if architecture.rotary_scaling is not None:
            self.rotary_pos_emb.inv_freq = stretched(self.rotary_pos_emb.inv_freq, architecture.rotary_scaling)
        # On a GPU the usual gradient of a look-up adds in no fixed order: a run that goes on would not equal one that was
        # never stopped. This one sorts first.
        self.embedding.word_embeddings.deterministic_mode = settings.device.type == "cuda"

    def embed(self, tokens: Tensor) -> Tensor:
        """Look tokens [T] up; return [T, 1, hidden]."""
        embedded: Tensor = self.embedding(input_ids=tokens[None], position_ids=None)
        return embedded

    def run_packed(self, embedded: Tensor, positions: Tensor, layout: PackedLayout) -> Tensor:
        """Run the layers over a packed sequence.

        Args:
            embedded: [T, 1, hidden].
            positions: int64 [T], position of every token within its sample.
            layout: The samples' boundaries.

        Returns:
            [T, hidden], after the final norm.

        Raises:
            StageError: A sample is longer than the model's positions.
        """
        longest = layout.max_seqlen_q
        if longest > self.architecture.max_position_embeddings:
            raise StageError(
                f"A sample has {longest} tokens, the language model was made for at most "
                f"{self.architecture.max_position_embeddings} (max_position_embeddings). Shorten the sequence length."
            )
        angles = self.rotary_angles(longest)
        # The fused kernel restarts at every sample by itself; the plain one takes the angle of every token.
        return self._run(embedded, angles if self.backend == "transformer_engine" else angles[positions], layout)

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute this rank's logits.

        Args:
            hidden: [..., hidden].

        Returns:
            [..., padded vocabulary / tensor-parallel size]; padded rows are minus infinity, so that they neither win
            nor take any probability.
        """
        tied = self.share_embeddings_and_output_weights
        weight = self.shared_embedding_or_output_weight() if tied else None
        logits: Tensor = self.output_layer(hidden, weight=weight)[0]
        rows = logits.shape[-1]
        first_padded = self.architecture.vocabulary_size - rows * parallel_state.get_tensor_model_parallel_rank()
        if first_padded < rows:
            # In place: nothing in the output layer's backward reads its output.
            logits[..., max(first_padded, 0) :] = float("-inf")
        return logits

    def token_losses(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Compute the cross entropy per token over the vocabulary of all tensor-parallel ranks.

        Args:
            hidden: [T, hidden].
            labels: int64 [T], -100 where there is nothing to learn; logits are computed only elsewhere.

        Returns:
            float32 [T], zero where the label is -100.
        """
        places = (labels != IGNORED_LABEL).nonzero().flatten()
        if places.numel() == 0:
            # Zero, but with a graph, so that a batch without answers can go through backward like any other.
            return hidden.sum(dim=-1).float() * 0.0
        logits = self.logits(hidden[places]).float()
        losses: Tensor = tensor_parallel.vocab_parallel_cross_entropy(logits, labels[places])
        return losses.new_zeros(labels.shape[0]).index_copy(0, places, losses)

    def rotary_angles(self, length: int) -> Tensor:
        """Return the angles of positions 0..length-1, float32 [length, 1, 1, head width]."""
        # The module's own forward would move the frequencies to the current CUDA device, wherever the model lies.
        angles = self.rotary_pos_emb.get_freqs_non_repeated(length)
        return torch.cat([angles, angles], dim=-1)[:, None, None, :]

    def _run(self, embedded: Tensor, angles: Tensor, layout: PackedLayout) -> Tensor:
        hidden: Tensor = self.decoder(
            hidden_states=embedded, attention_mask=None, rotary_pos_emb=angles, packed_seq_params=layout
        )
        return hidden.squeeze(1)
