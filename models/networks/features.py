"""The feature network: a small VGG-BLSTM phone recogniser, and the distance of its maps.

The distance of its maps between a frame and its decoded copy is a term of F (Liu et al. 2020, sec.
4.2). The convolutions follow the VGG front end of end-to-end recognisers (Simonyan & Zisserman
2015; Hori et al. 2017): two stages of two 3 x 3 convolutions with 2 x 2 max pooling between. The
first has stride 2, so that the BLSTM runs at a quarter of the hop rate. It is trained on the phones
of transcripts or of TIMIT's labels by CTC, together with an attention decoder that is not stored
(Kim, Hori & Watanabe 2017; `models.training.features`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from codec.errors import BadInput
from codec.signal.analysis import N_MELS
from models.description import WEIGHTS, read_description
from models.model import halved, tensors_of, widened
from models.networks.common import SignalDistance
from models.phones import PHONES, TIMIT_PHONES
from models.stored import loading, read_arrays, sizes

BLANK = 0  # class 0 is CTC's blank; class k is phone k - 1 of the set
SUBSAMPLING = 4  # hops for each step of the output
MAX_FILE_BYTES = 16 << 20
_DROPOUT, _CONTEXT_DROPOUT = 0.2, 0.1


@dataclass(frozen=True)
class FeatureShape:
    """Sizes of the network; stored with its weights."""

    mels: int = N_MELS
    widths: tuple[int, ...] = (32, 64)
    projection: int = 256
    hidden: int = 192
    layers: int = 3

    def __post_init__(self) -> None:
        sizes = (self.mels, *self.widths, self.projection, self.hidden, self.layers)
        if len(self.widths) != 2 or not all(0 < size <= 1024 for size in sizes):
            raise ValueError("sizes of the feature network are out of range")


class Stage(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation and ReLU."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, inputs, T, M] -> [B, width, T / stride, M / stride]."""
        x = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(x)))


class PhoneRecogniser(nn.Module):
    """Log-mel columns to phone probabilities, and the convolution maps on the way.

    phones: the set, `PHONES` or `TIMIT_PHONES`, which are as many.
    """

    def __init__(self, shape: FeatureShape | None = None, phones: tuple[str, ...] = PHONES) -> None:
        super().__init__()
        self.shape = shape = shape or FeatureShape()
        self.phones = phones
        first, second = shape.widths
        self.stages = nn.ModuleList((Stage(1, first, 2), Stage(first, second, 1)))
        for number, width in enumerate(shape.widths):
            # Mean square of each channel's deviation over training speech.
            self.register_buffer(f"spread_{number}", torch.ones(width))
        bands = shape.mels // (2 * SUBSAMPLING)
        self.project = nn.Linear(shape.widths[-1] * bands, shape.projection)
        self.recurrent = nn.LSTM(
            shape.projection, shape.hidden, shape.layers, batch_first=True, bidirectional=True,
            dropout=_DROPOUT if shape.layers > 1 else 0.0,
        )  # fmt: skip
        self.leave = nn.Linear(2 * shape.hidden, len(phones) + 1)

    def begin_with(self, other: PhoneRecogniser) -> None:
        """Take the weights of a network of this shape, but perhaps of fewer layers of BLSTM.

        What follows the layers that it lacks stays as it is, and so does what tells other phones.
        """
        taken = {k: v for k, v in other.state_dict().items() if not k.startswith("spread")}
        if (other.shape, other.phones) != (self.shape, self.phones):
            taken = {k: v for k, v in taken.items() if not k.startswith("leave")}
        self.load_state_dict({**self.state_dict(), **taken})

    def maps(self, x: Tensor) -> list[Tensor]:
        """Maps of both stages for x [B, T, M] in [-1, 1]: [B, width, T / k, M / k], k = 2 and 4."""
        first = self.stages[0](x[:, None] * 2.0 + 1.0)
        return [first, self.stages[1](F.max_pool2d(first, 2))]

    def encode(self, x: Tensor) -> Tensor:
        """x: [B, T, M] -> states of the BLSTM [B, T // 4, 2 * hidden]."""
        h = F.max_pool2d(self.maps(x)[-1], (1, 2))
        h = F.relu(self.project(h.permute(0, 2, 1, 3).flatten(2)))
        with torch.autocast(x.device.type, enabled=False):
            h, _ = self.recurrent(F.dropout(h.float(), _DROPOUT, self.training))
            return F.dropout(h, _DROPOUT, self.training)

    def classify(self, states: Tensor) -> Tensor:
        """states: [B, T // 4, 2 * hidden] -> log probabilities [B, T // 4, phones + 1]."""
        with torch.autocast(states.device.type, enabled=False):
            return F.log_softmax(self.leave(states), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, M] -> log probabilities [B, T // 4, phones + 1]."""
        return self.classify(self.encode(x))


class AttentionDecoder(nn.Module):
    """The phones of an utterance in order, each from the phones before it and the BLSTM's states.

    The queries are the states of an LSTM over the phones before (Luong et al. 2015). What attention
    finds does not enter the LSTM, so that all phones of a transcript are trained on at once.
    """

    heads = 4

    def __init__(self, shape: FeatureShape, phones: int) -> None:
        super().__init__()
        width = 2 * shape.hidden
        self.embedding = nn.Embedding(phones + 1, shape.hidden)
        self.recurrent = nn.LSTM(shape.hidden, width, batch_first=True)
        self.attention = nn.MultiheadAttention(width, self.heads, batch_first=True)
        self.leave = nn.Linear(2 * width, phones + 1)

    def forward(self, states: Tensor, steps: Tensor, phones: Tensor) -> Tensor:
        """Logits [B, L + 1, phones + 1] of each phone and of the end, which is class 0.

        states: [B, T, 2 * hidden], the first `steps` [B] of each utterance; phones: classes [B, L],
        padded with 0.
        """
        queries, _ = self.recurrent(self.embedding(F.pad(phones, (1, 0))))
        padding = torch.arange(states.shape[1], device=states.device) >= steps[:, None]
        context, _ = self.attention(
            queries, states, states, key_padding_mask=padding, need_weights=False
        )
        context = F.dropout(context, _CONTEXT_DROPOUT, self.training)
        logits: Tensor = self.leave(torch.cat((queries, context), -1))
        return logits


class FeatureDistance(SignalDistance):
    """Mean squared distance of the normalised maps; differentiable in the decoded frames."""

    def __init__(self, network: PhoneRecogniser) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FeatureDistance:
        """The network stays in evaluation mode: its batch statistics are those of its training."""
        return super().train(False)

    def _maps(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            map_ * (getattr(self.network, f"spread_{k}") + 1e-6).rsqrt()[:, None, None]
            for k, map_ in enumerate(self.network.maps(x))
        )

    def reference(self, x: Tensor) -> tuple[Tensor, ...]:
        """The target's part, computed once: normalised maps of x [B, T, M]."""
        return self._maps(x)

    def against(self, reference: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """Distance of decoded y [B, T, M] to a `reference`: [B]; near 2 for unrelated speech."""
        parts = [
            (b - a).float().square().mean((1, 2, 3))
            for a, b in zip(reference, self._maps(y), strict=True)
        ]
        return torch.stack(parts).mean(0)


def greedy_phones(log_probabilities: Tensor, phones: tuple[str, ...] = PHONES) -> list[str]:
    """Best path of one utterance [steps, classes]: repeats merged, blanks dropped."""
    best = torch.unique_consecutive(log_probabilities.argmax(-1)).tolist()
    return [phones[k - 1] for k in best if k != BLANK]


def save_features(network: PhoneRecogniser, folder: Path, about: dict[str, Any]) -> None:
    """Write a feature network: float16 `features.safetensors` and `features.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v for k, v in network.state_dict().items() if v.is_floating_point()}
    save_file(halved(state), folder / "features.safetensors")
    description = {"shape": asdict(network.shape), "phones": list(network.phones), **about}
    (folder / "features.json").write_text(json.dumps(description, indent=2) + "\n")


def load_features(folder: Path | None = None) -> PhoneRecogniser:
    """The shipped (or given) feature network, frozen. Raises BadInput when it is unusable."""
    folder = folder or WEIGHTS / "features"
    with loading("the feature network", folder):
        description = read_description(folder / "features.json")
        state = widened(tensors_of(read_arrays(folder / "features.safetensors", MAX_FILE_BYTES)))
        phones = tuple(description["phones"])
        if phones not in (PHONES, TIMIT_PHONES):
            raise BadInput(f"{folder}: trained for another set of phones")
        network = PhoneRecogniser(FeatureShape(**sizes(description)), phones)
        # How many batches the normalisations have seen is not stored.
        counters = {k: v for k, v in network.state_dict().items() if not v.is_floating_point()}
        network.load_state_dict({**state, **counters})
    return network.eval().requires_grad_(False)
