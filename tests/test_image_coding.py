"""The image codec's bitstream: integer contexts, range coder, packets and the file around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from codec.entropy import range_coder
from codec.entropy.context_model import deviations
from codec.entropy.image_context import (
    MAX_INDEX,
    QUALITIES,
    SYMBOLS,
    ImageCoder,
    ImageContext,
    between_anchors,
)
from codec.errors import BadInput, BadStream, SottoError, WrongVersion
from codec.image import container as container_module
from codec.image import tiling
from codec.image.container import (
    FILE_HEADER_BYTES,
    ImageFile,
    ImageHeader,
    read_header,
    read_image,
    write_image,
)
from codec.packet import MAX_IMAGE_PAYLOAD, Kind, Packet, checksum, pack
from models.networks import photo
from models.networks.photo import PhotoShape, Prior, neighbour_cells
from models.training.tables import image_context, integer_tables, logistic_masses

SHAPE = PhotoShape(channels=12, prior_unit=8, prior_groups=(2, 4, 6), prior_values=5)
MODEL_ID = "0123456789abcdef"


def latents(height: int, width: int, seed: int) -> NDArray[np.int16]:
    """A smooth first channel and sparse others, busier in some places."""
    random = np.random.default_rng(seed)
    busy = random.random((height, width, 1)) < 0.4
    fall = 6.0 * np.exp(-np.arange(12) / 3.0)
    q = random.laplace(0.0, 1.0, (height, width, 12)) * fall * (0.1 + busy)
    q[:, :, 0] += 3.0 * np.add.outer(np.arange(height), np.arange(width))
    return q.round().astype(np.int16)


@pytest.fixture(scope="module")
def prior() -> Prior:
    torch.manual_seed(3)
    prior = Prior(SHAPE)
    with torch.no_grad():
        prior.bands.copy_(torch.arange(12) % 5)
        prior.predict[:2, 0] = 0.5
        prior.leave.weight.normal_(0.0, 0.02)
        prior.log_scale.uniform_(-1.5, 1.0)
    return prior.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def coder(prior: Prior) -> ImageCoder:
    examples = [(latents(6, 5, seed), 16 * seed) for seed in range(8)]
    return ImageCoder(image_context(prior, examples))


def test_cells_find_their_neighbours() -> None:
    assert photo.LOG_SCALES[0] == ImageContext.log_scale_start
    found = neighbour_cells(3, 4, torch.device("cpu")).tolist()
    none = 12
    assert found[0] == [none] * 6
    assert found[1] == [0, 0, 0, 0, none, none]  # left of it, and so in place of those above
    assert found[5] == [4, 1, 0, 2, none, none]
    assert found[7] == [6, 3, 2, 6, 5, none]  # nothing above to the right
    assert found[9] == [8, 5, 4, 6, none, 1]


@pytest.mark.parametrize("quality", [0, 1, 64, 100, QUALITIES - 1])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 1), (5, 9)])
def test_tiles_come_back(coder: ImageCoder, quality: int, size: tuple[int, int]) -> None:
    q = latents(*size, seed=quality)
    data = coder.encode(q, quality)
    found, cells = coder.decode(data, quality, *size)
    assert (found == q).all()
    assert cells == size[0] * size[1]


def test_extreme_indices_come_back(coder: ImageCoder) -> None:
    q = np.zeros((3, 3, 12), np.int16)
    q[0, 0] = MAX_INDEX
    q[1, 1, ::2] = -MAX_INDEX
    q[2, 2] = 77
    assert (coder.decode(coder.encode(q, 5), 5, 3, 3)[0] == q).all()
    with pytest.raises(ValueError, match="1023"):
        coder.encode(q + 1, 5)


@given(st.integers(0, 2**32 - 1), st.integers(0, QUALITIES - 1))
def test_any_indices_come_back(coder: ImageCoder, seed: int, quality: int) -> None:
    random = np.random.default_rng(seed)
    size = (*random.integers(1, 5, 2), 12)
    q = (random.standard_cauchy(size) * random.exponential(3.0)).clip(-MAX_INDEX, MAX_INDEX)
    q = q.round().astype(np.int16)
    found, _ = coder.decode(coder.encode(q, quality), quality, *size[:2])
    assert (found == q).all()


def test_the_fixed_point_prior_is_the_float_one(prior: Prior, coder: ImageCoder) -> None:
    q = latents(7, 6, 11)
    quality = 80
    z = torch.from_numpy(q.astype(np.float32)).permute(2, 0, 1)[None]
    location, log_scale = prior(z, torch.tensor([quality / 64.0]))
    deviation, tables = deviations(coder.model, q, quality)
    eighths = 8 * (q - deviation) + tables // 60 - 4
    wanted = location[0].permute(1, 2, 0).numpy()
    assert np.abs(eighths / 8.0 - wanted).max() < 0.2
    classes = (log_scale[0].permute(1, 2, 0).numpy() - ImageContext.log_scale_start) * 8.0
    off = np.abs(tables % 60 + 0.5 - classes)
    assert np.quantile(off, 0.99) < 1.0


def test_real_bits_are_the_ideal_ones(coder: ImageCoder) -> None:
    q = latents(16, 16, 5)
    ideal = coder.bits(q, 30) / 8.0
    assert ideal - 1 <= len(coder.encode(q, 30)) <= 1.01 * ideal + 6


def test_the_context_saves_bits(coder: ImageCoder) -> None:
    q = latents(16, 16, 6)
    shuffled = np.random.default_rng(0).permutation(q.reshape(-1, 12)).reshape(q.shape)
    assert coder.bits(q, 30) < 0.95 * coder.bits(shuffled, 30)


def test_what_is_left_of_a_tile_is_decoded(coder: ImageCoder) -> None:
    q = latents(12, 12, 8)
    data = coder.encode(q, 30)
    found, cells = coder.decode(data[: len(data) // 2], 30, 12, 12, whole=False)
    assert 30 < cells < 110
    flat, original = found.reshape(144, 12), q.reshape(144, 12)
    assert (flat[:cells] == original[:cells]).all()
    assert not flat[cells:].any()


@given(st.binary(max_size=200), st.integers(0, QUALITIES - 1), st.booleans())
def test_any_payload_decodes_or_is_refused(
    coder: ImageCoder, payload: bytes, quality: int, whole: bool
) -> None:
    try:
        q, _ = coder.decode(payload, quality, 3, 4, whole=whole)
    except BadStream:
        return
    assert np.abs(q).max() <= MAX_INDEX


def test_qualities_out_of_range_are_refused(coder: ImageCoder) -> None:
    with pytest.raises(BadStream):
        coder.decode(b"", QUALITIES, 1, 1)


def test_tables_are_whole() -> None:
    tables = integer_tables(logistic_masses(ImageContext))
    assert tables.shape[1] == SYMBOLS
    assert (tables.sum(axis=1) == 1 << 16).all()
    assert (tables[:, [0, -1]] > 0).all()


def test_anchors_are_interpolated_in_integers() -> None:
    rows = np.array([[0, -64], [64, 0], [640, 1], [0, 3]], np.int32)
    assert between_anchors(rows, 0).tolist() == [0, -64]
    assert between_anchors(rows, 64).tolist() == [64, 0]
    assert between_anchors(rows, 32).tolist() == [32, -32]
    assert between_anchors(rows, 192).tolist() == [0, 3]


@pytest.mark.parametrize("seed", range(4))
def test_the_range_coder_is_exact(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 2000, 3000)
    starts = random.integers(0, (1 << 16) - 2000, 3000)
    if seed == 1:
        starts[:400], sizes[:400] = (1 << 16) - 1, 1  # carries and long runs of 0xFF
    if seed == 2:
        starts[:], sizes[:] = 0, 1
    out = np.zeros(3000 * 2 + 64, np.uint8)
    state = range_coder.new_encoder()
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        range_coder.put(state, out, start, size)
    data = out[1 : range_coder.finish(state, out)]
    assert len(data) <= np.sum(16 - np.log2(sizes)) / 8 * 1.002 + 5
    state = range_coder.new_decoder(data)
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        assert start <= range_coder.peek(state) < start + size
        range_coder.take(state, data, start, size)


def container(sizes: list[int], **kinds: bool) -> tuple[bytes, list[bytes]]:
    header = ImageHeader(700, 600, MODEL_ID, tile=32, **kinds)
    assert len(header.tiles()) == 4
    payloads = [bytes((7 * k + 13 * n) % 256 for k in range(size)) for n, size in enumerate(sizes)]
    return write_image(header, 42, payloads, b"alpha" if header.alpha else None), payloads


def test_tiles_cover_the_picture_once() -> None:
    for width, height in ((1, 1), (16, 17), (768, 512), (30_000, 10), (1025, 513)):
        header = ImageHeader(width, height, MODEL_ID)
        count = np.zeros(header.cells, int)
        for t in header.tiles():
            assert max(t.shape) <= 32
            t.cells_of(count)[:] += 1
        assert (count == 1).all()


@pytest.mark.parametrize(
    "size", [0, 1, MAX_IMAGE_PAYLOAD - 1, MAX_IMAGE_PAYLOAD, 2 * MAX_IMAGE_PAYLOAD - 1, 20_000]
)
def test_files_come_back(size: int) -> None:
    data, payloads = container([size, 10, 0, 5000], alpha=True)
    file = read_image(data)
    assert file.intact
    assert [p.data for p in file.payloads if p] == payloads
    assert all(p.whole and p.quality == 42 for p in file.payloads if p)
    assert file.alpha is not None
    assert file.alpha.data == b"alpha"
    assert file.header == read_header(data)


def test_every_flipped_bit_is_noticed_and_costs_one_tile() -> None:
    data, payloads = container([60, 50, 40, 30])
    for bit in range(8 * len(data)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        if bit < 8 * FILE_HEADER_BYTES:
            with pytest.raises(SottoError):
                read_image(bytes(broken))
            continue
        file = read_image(bytes(broken))
        assert not file.intact
        assert file.damaged_tiles == 1
        right = [
            p is not None and p.data == q for p, q in zip(file.payloads, payloads, strict=True)
        ]
        assert sum(right) == 3


def test_a_broken_packet_leaves_the_start_of_its_tile() -> None:
    data, payloads = container([3 * MAX_IMAGE_PAYLOAD, 50, 40, 30])
    at = FILE_HEADER_BYTES + 2 * (10 + MAX_IMAGE_PAYLOAD) + 100  # in the third packet
    broken = data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]
    file = read_image(broken)
    first = file.payloads[0]
    assert first is not None
    assert not first.whole
    assert payloads[0].startswith(first.data)
    assert len(first.data) == 2 * MAX_IMAGE_PAYLOAD - 1
    assert file.damaged_tiles == 1


def test_truncation_costs_what_is_missing() -> None:
    data, _ = container([600, 500, 400, 300])
    for end in range(FILE_HEADER_BYTES, len(data), 37):
        file = read_image(data[:end])
        assert file.damaged_tiles >= 1
        assert not file.intact


def test_what_is_left_after_a_long_gap_is_found() -> None:
    data, payloads = container([60, 50, 40, 30])
    at = data.index(payloads[2])
    gap = np.random.default_rng(1).bytes(3 << 20)
    file = read_image(data[:at] + gap + data[at:])
    assert [p and p.data for p in file.payloads] == [payloads[0], payloads[1], None, payloads[3]]
    lost = 10 + len(payloads[2])  # the record's head, and what it holds
    assert file.notes[1] == f"{len(gap) + lost} bytes unreadable"


@pytest.mark.parametrize("kind", ["false starts", "the same tile", "no such tile", "short pieces"])
def test_hostile_files_are_given_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at is bounded, so that no file takes minutes."""
    data, _ = container([60, 50, 40, 30])
    if kind == "false starts":
        junk = b"\x0f\xff" + bytes([1 << 5 | 1 << 3, 100]) + bytes.fromhex(MODEL_ID)[:2]
    elif kind == "short pieces":
        parts = [Packet(3, 42, bytes([k]), 0x0123, Kind.IMAGE, chained=True) for k in range(1, 256)]
        junk = b"".join(len(pack(p)).to_bytes(2, "big") + pack(p) for p in parts)
    else:
        sequence = 1 if kind == "the same tile" else 9
        packet = pack(Packet(sequence, 42, b"", 0x0123, Kind.IMAGE))
        junk = len(packet).to_bytes(2, "big") + packet
    looked = []
    unpacked = container_module.unpack

    def counted(data: bytes) -> Packet:
        looked.append(1)
        return unpacked(data)

    monkeypatch.setattr(container_module, "unpack", counted)
    monkeypatch.setattr(container_module, "MAX_FALSE_STARTS", 500, raising=False)
    file = read_image(
        data[:FILE_HEADER_BYTES] + junk * (200_000 // len(junk)) + data[FILE_HEADER_BYTES:]
    )
    assert len(looked) < 600
    assert "bytes unreadable" in file.notes[-1]


def test_files_over_the_limit_are_neither_written_nor_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, _ = container([600, 500, 400, 300])
    monkeypatch.setattr(container_module, "MAX_FILE", len(data) - 1)
    with pytest.raises(BadStream, match="over the limit"):
        read_image(data)
    with pytest.raises(BadInput, match=f"takes {len(data)} bytes, over the limit"):
        container([600, 500, 400, 300])
    monkeypatch.undo()
    assert container_module.MAX_FILE <= 1 << 27


@pytest.mark.parametrize("grey", [False, True])
def test_pictures_are_rounded_in_strips(monkeypatch: pytest.MonkeyPatch, grey: bool) -> None:
    """As a whole picture would be, with no copy of one in 32-bit numbers."""
    y = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    file = ImageFile(ImageHeader(61, 45, MODEL_ID, grey=grey), [], None, 0)
    wanted = np.rint(255.0 * y[0, :, :45, :61].numpy()).astype(np.uint8).transpose(1, 2, 0)
    if grey:
        wanted = np.repeat(wanted[:, :, 1:2], 3, axis=2)
    monkeypatch.setattr(tiling, "STRIP", 7)
    with LargestResult() as largest:
        found = tiling.picture_of(file, y, [])
    assert (found.rgb == wanted).all()
    assert largest.numbers == 3 * 7 * 61


class LargestResult(TorchDispatchMode):
    """Knows the most numbers that any rounding gave."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if "round" in str(func):
            self.numbers = max(self.numbers, result.numel())
        return result


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_no_picture(data: bytes) -> None:
    with pytest.raises(SottoError):
        read_image(data)


@given(st.data())
def test_arbitrary_bytes_after_a_header_are_survived(data: st.DataObject) -> None:
    whole, _ = container([30, 0, 3, 9])
    noise = data.draw(st.binary(max_size=300))
    file = read_image(whole[:FILE_HEADER_BYTES] + noise)
    assert file.damaged_tiles == 4


def test_later_versions_and_impossible_sizes_are_refused() -> None:
    data = bytearray(container([1, 1, 1, 1])[0])

    def resigned(place: int, value: int) -> bytes:
        data[place] = value
        crc = checksum(bytes(data[: FILE_HEADER_BYTES - 2]))
        return bytes(data[: FILE_HEADER_BYTES - 2]) + crc.to_bytes(2, "big")

    with pytest.raises(WrongVersion):
        read_image(resigned(4, 2))
    data[4] = 1
    with pytest.raises(BadStream, match="reserved"):
        read_image(resigned(5, 0x80))
    data[5] = 0
    with pytest.raises(BadStream, match="impossible"):
        read_image(resigned(7, 3))
    data[8:12] = b"\0" * 4
    with pytest.raises(BadStream, match="impossible"):
        read_image(resigned(7, 32))
    with pytest.raises(BadInput, match="million"):
        ImageHeader(65_535, 65_535, MODEL_ID)
