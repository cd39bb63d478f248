"""Devices: their names, and whether bfloat16 is fast on them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from codec.device import choose_device, fast_in_half
from codec.errors import BadInput
from codec.image.settings import EncodeSettings
from models.folder import load_speech_model, search_networks
from tests.tiny_image_model import photograph, psnr, tiny_codec

CPU = torch.device("cpu")


def test_names_stand_for_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    for name in ("cuda", "tpu"):
        with pytest.raises(BadInput):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_cards_that_emulate_bfloat16_do_without(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fast: bool
) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fast_in_half(torch.device("cuda", 1)) is fast


def test_without_onednn_everything_runs_in_single_precision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a PyTorch that was built without it: its operators are not there at all."""
    for name in ("mkldnn", "quantized"):
        monkeypatch.setattr(torch.ops, name, SimpleNamespace())
    assert not fast_in_half(CPU)
    codec, picture = tiny_codec(tmp_path), photograph(48, 48)
    found = codec.decode(codec.encode(picture, EncodeSettings(iterations=2)))
    assert psnr(found, np.asarray(picture)) > 15.0
    networks = search_networks(load_speech_model("speech"))
    rate = torch.ones(1)
    z = torch.zeros_like(networks.encoder(torch.zeros(1, 128, 128), rate))
    fast, exact = networks.fast_generator(z, rate), networks.generator(z, rate)
    torch.testing.assert_close(fast, exact, atol=1e-4, rtol=0.0)
