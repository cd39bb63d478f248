"""Phase reconstruction and synthesis: exact given the true phase, seamless, causal, silent."""

from __future__ import annotations

import hashlib
from pathlib import Path

import ltfatpy
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.signal import analysis, phase
from codec.signal.analysis import FRAME_HOPS, FRAME_SAMPLES, HOP, LEAD, N_BINS, N_FFT, WINDOW
from codec.signal.phase import EARLY, LOOK_AHEAD, PhaseSynthesiser
from codec.signal.phase_kernels import loudest_first
from codec.signal.samples import SAMPLE_RATE, FloatArray
from models.evaluation.phase import dual_window_error, gaussian, slope_errors, window
from tests.waveforms import synthesise

NO_TAIL = np.zeros(WINDOW - HOP, np.float32)


def columns(samples: FloatArray) -> FloatArray:
    """Magnitudes [len(samples) / HOP, N_BINS] of a signal that is zero before and after."""
    return np.abs(phase.analyse(np.pad(samples, (LEAD, LEAD))))


def convergence(samples: FloatArray, magnitudes: FloatArray) -> float:
    """Spectral convergence in dB: how far the samples' magnitudes are from the wanted ones."""
    error = np.linalg.norm(columns(samples) - magnitudes) / np.linalg.norm(magnitudes)
    return float(20.0 * np.log10(error))


def whole_frames(samples: FloatArray, frames: int) -> FloatArray:
    return samples[: frames * FRAME_SAMPLES]


def in_pushes(magnitudes: FloatArray, sizes: list[int], variable: bool = False) -> FloatArray:
    synthesiser = PhaseSynthesiser(variable)
    samples, start = [], 0
    for size in [*sizes, len(magnitudes)]:
        samples.append(synthesiser.push(magnitudes[start : start + size]))
        start += size
    return np.concatenate([*samples, synthesiser.finish()])


def test_true_phase_reconstructs_the_signal(clip: FloatArray) -> None:
    speech = whole_frames(clip, 2)
    spectra = phase.analyse(np.pad(speech, (LEAD, LEAD)))
    total, weight = phase.overlap_add(spectra, NO_TAIL, NO_TAIL)
    inside = slice(LEAD, LEAD + len(speech))
    assert np.abs(total[inside] / weight[inside] - speech).max() < 1e-6


def test_overlap_add_in_two_parts_is_the_same(clip: FloatArray) -> None:
    spectra = phase.analyse(whole_frames(clip, 1))
    whole, whole_weight = phase.overlap_add(spectra, NO_TAIL, NO_TAIL)
    first, weight = phase.overlap_add(spectra[:50], NO_TAIL, NO_TAIL)
    tail, tail_weight = first[50 * HOP :], weight[50 * HOP :]
    second, second_weight = phase.overlap_add(spectra[50:], tail, tail_weight)
    assert np.abs(np.concatenate([first[: 50 * HOP], second]) - whole).max() < 1e-6
    assert np.allclose(np.concatenate([weight[: 50 * HOP], second_weight]), whole_weight)


def test_columns_are_those_of_the_analysis(clip: FloatArray) -> None:
    speech = whole_frames(clip, 1)
    to_the_middle = np.exp(2j * np.pi * np.arange(N_BINS) * (WINDOW // 2) / N_FFT)
    expected = analysis.stft_columns(speech) * to_the_middle
    assert np.abs(phase.analyse(speech) - expected).max() < 1e-6


def test_dual_window_is_that_of_ltfatpy() -> None:
    assert dual_window_error() < 1e-9


def test_transform_and_inverse_are_those_of_ltfatpy(clip: FloatArray) -> None:
    # ltfatpy centres column n on sample n * HOP and wraps around; the zeros keep the ends apart.
    room = np.zeros(WINDOW)
    speech = whole_frames(clip, 1).astype(np.float64)
    padded = np.concatenate([room, speech, room])
    reference_window = window()
    reference, _, _ = ltfatpy.dgtreal(padded, reference_window, HOP, N_FFT, pt="timeinv")
    scale = 2.0 / analysis.hann().sum()
    first = WINDOW // 2 // HOP
    ours = phase.analyse(padded.astype(np.float32))
    theirs = scale * reference.T[first : first + len(ours)]
    assert np.abs(ours - theirs).max() < 1e-6

    dual = ltfatpy.gabdual(reference_window, HOP, N_FFT)
    back, _ = ltfatpy.idgtreal(reference, dual, HOP, N_FFT, pt="timeinv")
    assert np.abs(back[: len(padded)] - padded).max() < 1e-9
    total, weight = phase.overlap_add(ours, NO_TAIL, NO_TAIL)
    inside = slice(WINDOW, WINDOW + len(speech))
    assert np.abs(total[inside] / weight[inside] - back[inside]).max() < 1e-6


def test_slopes_of_a_tone_burst_under_the_gaussian_they_assume() -> None:
    """Under the window exp(-pi t^2 / GAMMA) the relations are exact but for the differences."""
    time = (np.arange(FRAME_SAMPLES) - FRAME_SAMPLES / 2) / SAMPLE_RATE
    pulse = np.exp(-((time / 0.02) ** 2)) * np.sin(2 * np.pi * (2000.0 * time + 8000.0 * time**2))
    along_time, along_frequency = slope_errors(pulse, gaussian(len(pulse)))
    assert along_time < 1e-6
    assert along_frequency < 1e-6


def test_slopes_are_near_those_of_speech(clip: FloatArray) -> None:
    """Partials that beat within one hop make the differences between columns coarse."""
    speech = whole_frames(clip, 2).astype(np.float64)
    along_time, along_frequency = slope_errors(speech, window(len(speech)))
    assert along_time < 0.2
    assert along_frequency < 0.5


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (lambda t: np.sin(2 * np.pi * 440.0 * t), -30.0),
        (lambda t: np.sin(2 * np.pi * (200.0 * t + 900.0 * t**2)), -30.0),
        (
            lambda t: sum(np.sin(2 * np.pi * k * (180.0 * t + 20.0 * t**2)) for k in range(1, 9)),
            -25.0,
        ),
    ],
    ids=["sinusoid", "chirp", "harmonics"],
)
def test_tones_converge(make, limit: float) -> None:
    time = np.arange(2 * FRAME_SAMPLES) / SAMPLE_RATE
    magnitudes = columns((0.1 * make(time)).astype(np.float32))
    assert convergence(synthesise(magnitudes), magnitudes) < limit


def test_speech_converges_and_projections_help(
    clip: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    magnitudes = columns(whole_frames(clip, 4))
    results = []
    for count in (0, 1, phase.PROJECTIONS):
        monkeypatch.setattr(phase, "PROJECTIONS", count)
        results.append(convergence(synthesise(magnitudes), magnitudes))
    assert results[0] < -18.0
    assert results[1] < results[0] - 2.0
    assert results[2] < results[1]
    # Random phase, for comparison, does far worse: the integration is what converges.
    index = np.arange(magnitudes.size, dtype=np.uint64).reshape(magnitudes.shape)
    noise = (magnitudes * np.exp(1j * phase.random_phase(index, 0))).astype(np.complex64)
    total, weight = phase.overlap_add(noise, NO_TAIL, NO_TAIL)
    inside = slice(LEAD, LEAD + len(magnitudes) * HOP)
    assert convergence(total[inside] / weight[inside], magnitudes) > results[0] + 6.0


def test_speech_scores_well(clip_paths: list[Path]) -> None:
    """The median over clips: rumble below 80 Hz makes PESQ-WB of one of them fall by a point, and
    return when both signals are high-passed there, so that no single score is to be trusted."""
    pesq = pytest.importorskip("pesq").pesq
    true, mel = [], []
    for path in clip_paths:
        speech = whole_frames(soundfile.read(path, dtype="float32")[0], 3)
        magnitudes = columns(speech)
        log_mel = analysis.normalise(analysis.magnitudes_to_mel(magnitudes))
        through_mel = analysis.mel_to_magnitudes(analysis.denormalise(log_mel))
        true.append(pesq(SAMPLE_RATE, speech, synthesise(magnitudes), "wb"))
        mel.append(pesq(SAMPLE_RATE, speech, synthesise(through_mel), "wb"))
    assert np.median(true) > 4.3
    assert np.median(mel) > 4.2


@pytest.mark.parametrize("count", [0, 1, 2, 126, 127, 128, 129, 300])
def test_streaming_is_bit_exact(clip: FloatArray, count: int) -> None:
    magnitudes = columns(clip[: 300 * HOP])[:count]
    whole = synthesise(magnitudes)
    assert whole.shape == (count * HOP,)
    assert whole.dtype == np.float32
    assert np.isfinite(whole).all()
    for size in (1, 37, FRAME_HOPS):
        assert np.array_equal(in_pushes(magnitudes, [size] * (count // size)), whole)


@settings(max_examples=8)
@given(sizes=st.lists(st.integers(0, 120), max_size=8))
def test_any_partition_gives_the_same_samples(sizes: list[int]) -> None:
    rng = np.random.default_rng(4)
    magnitudes = rng.random((270, N_BINS), np.float32) ** 4
    magnitudes[140:152] = 0.0
    assert np.array_equal(in_pushes(magnitudes, sizes), synthesise(magnitudes))


def test_a_pushed_frame_comes_out_but_for_20_ms(clip: FloatArray) -> None:
    magnitudes = columns(whole_frames(clip, 3))
    synthesiser = PhaseSynthesiser()
    out = 0
    for frame in range(3):
        start = frame * FRAME_HOPS
        out += len(synthesiser.push(magnitudes[start : start + FRAME_HOPS]))
        assert out == (frame + 1) * FRAME_SAMPLES - LEAD - LOOK_AHEAD * HOP
    assert out + len(synthesiser.finish()) == 3 * FRAME_SAMPLES


def test_finish_starts_anew(clip: FloatArray) -> None:
    magnitudes = columns(whole_frames(clip, 1))
    synthesiser = PhaseSynthesiser()
    first = np.concatenate([synthesiser.push(magnitudes), synthesiser.finish()])
    second = np.concatenate([synthesiser.push(magnitudes), synthesiser.finish()])
    assert np.array_equal(first, second)
    assert len(synthesiser.finish()) == 0


def test_pushed_columns_may_be_overwritten_by_the_caller(clip: FloatArray) -> None:
    magnitudes = columns(whole_frames(clip, 1))
    synthesiser = PhaseSynthesiser()
    buffer = magnitudes[:50].copy()
    first = synthesiser.push(buffer)
    buffer[:] = 0.5
    rest = [synthesiser.push(magnitudes[50:]), synthesiser.finish()]
    assert np.array_equal(np.concatenate([first, *rest]), synthesise(magnitudes))


def seam_error(samples: FloatArray, magnitudes: FloatArray) -> float:
    """Relative error of the magnitudes beside frame borders over that of all other columns.

    A jump of the phase between two columns shows as columns of the output that are not what was
    asked for; the loudness of the columns is divided out.
    """
    error = np.sum((columns(samples) - magnitudes) ** 2, axis=1)
    energy = np.sum(magnitudes.astype(np.float64) ** 2, axis=1)
    place = np.arange(len(magnitudes)) % FRAME_HOPS
    border = (place < 3) | (place >= FRAME_HOPS - 3)
    border[:3] = border[-3:] = False
    loud = energy > 1e-3 * energy.max()
    beside = np.mean((error / energy.clip(1e-12))[border & loud])
    elsewhere = np.mean((error / energy.clip(1e-12))[~border & loud])
    return float(beside / elsewhere)


def test_no_seam_between_frames(clip: FloatArray) -> None:
    """Speech whose voiced parts lie on the borders, several shifts of it."""
    joined, apart = [], []
    for shift in range(0, 8000, 1600):
        magnitudes = columns(clip[shift : shift + 4 * FRAME_SAMPLES])
        joined.append(seam_error(synthesise(magnitudes), magnitudes))
        frames = [synthesise(frame) for frame in magnitudes.reshape(-1, FRAME_HOPS, N_BINS)]
        apart.append(seam_error(np.concatenate(frames), magnitudes))
    assert np.mean(joined) < 1.5
    assert np.mean(apart) > 2.0 * np.mean(joined)  # what the measure says where there are seams


def test_silence_is_exactly_silent(clip: FloatArray) -> None:
    assert not synthesise(np.zeros((200, N_BINS), np.float32)).any()
    speech = columns(whole_frames(clip, 1))
    pause = np.zeros((200, N_BINS), np.float32)
    samples = synthesise(np.concatenate([pause, speech, pause]))
    start, end = 200 * HOP - LEAD, (200 + FRAME_HOPS) * HOP + LEAD
    assert not samples[:start].any()
    assert samples[start:end].any()
    assert not samples[end:].any()


def test_single_columns_and_faint_magnitudes_are_finite() -> None:
    for value in (1e-38, 1e-20, 1e-8, 1.0):
        magnitudes = np.zeros((20, N_BINS), np.float32)
        magnitudes[7] = value
        magnitudes[12, 100] = value
        samples = synthesise(magnitudes)
        assert np.isfinite(samples).all()
        assert np.abs(samples).max() < 1000 * value


def test_deterministic_for_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    magnitudes = np.full((40, N_BINS), 1e-9, np.float32)
    magnitudes[:, :50] = rng.random((40, 50), np.float32)
    default = synthesise(magnitudes)
    assert np.array_equal(default, synthesise(magnitudes))
    monkeypatch.setattr(phase, "SEED", phase.SEED + 1)
    assert not np.array_equal(default, synthesise(magnitudes))


def test_random_phase_is_uniform_and_belongs_to_the_bin() -> None:
    bins = np.arange(100_000, dtype=np.uint64)
    angles = phase.random_phase(bins, 3)
    assert np.array_equal(phase.random_phase(bins[500:600], 3), angles[500:600])
    counts, _ = np.histogram(angles, bins=20, range=(-np.pi, np.pi))
    assert counts.sum() == len(bins)
    assert np.abs(counts - 5000).max() < 5 * np.sqrt(5000)
    assert abs(np.mean(np.exp(1j * np.diff(angles)))) < 0.02


def test_bad_magnitudes_are_refused_and_change_nothing(clip: FloatArray) -> None:
    magnitudes = columns(whole_frames(clip, 1))
    synthesiser = PhaseSynthesiser()
    first = synthesiser.push(magnitudes[:64])
    for value in (np.nan, np.inf, -np.inf, -1e-6):
        bad = magnitudes[64:].copy()
        bad[3, 5] = value
        with pytest.raises(ValueError, match="finite and not negative"):
            synthesiser.push(bad)
    for shape in ((4, N_BINS - 1), (N_BINS,), (1, 4, N_BINS)):
        with pytest.raises(ValueError, match=r"must be \[n, 513\]"):
            synthesiser.push(np.zeros(shape, np.float32))
    rest = [synthesiser.push(magnitudes[64:]), synthesiser.finish()]
    assert np.array_equal(np.concatenate([first, *rest]), synthesise(magnitudes))


@settings(max_examples=10)
@given(sizes=st.lists(st.integers(0, 128), min_size=1, max_size=12))
def test_variable_blocks_give_what_is_there_but_for_8_ms(sizes: list[int]) -> None:
    rng = np.random.default_rng(7)
    synthesiser = PhaseSynthesiser(variable=True)
    pushed = out = 0
    for size in sizes:
        samples = synthesiser.push(rng.random((size, N_BINS), np.float32) ** 4)
        assert np.isfinite(samples).all()
        pushed, out = pushed + size, out + len(samples)
        assert out == (pushed * HOP - 128 if pushed > LOOK_AHEAD else 0)
    assert out + len(synthesiser.finish()) == pushed * HOP


def test_variable_blocks_as_long_as_frames_are_the_fixed_grid(clip: FloatArray) -> None:
    """But for the samples that come early, which are not far from it."""
    magnitudes = columns(whole_frames(clip, 3))
    parts = in_pushes(magnitudes, [FRAME_HOPS] * 3, variable=True)
    whole = synthesise(magnitudes)
    ends = (np.arange(1, 4) * FRAME_HOPS - LOOK_AHEAD) * HOP - LEAD
    early = (ends[:, None] + np.arange(EARLY)).ravel()
    assert np.array_equal(np.delete(parts, early), np.delete(whole, early))
    error = parts[early] - whole[early]
    assert 0 < np.mean(error**2) < 0.1 * np.mean(whole[early] ** 2)


def test_variable_blocks_join_without_seams(clip: FloatArray) -> None:
    """Blocks of eight columns have a border every eight; errors there are those of whole frames."""
    magnitudes = columns(whole_frames(clip, 4))
    whole = convergence(synthesise(magnitudes), magnitudes)
    rng = np.random.default_rng(2)
    for sizes in ([8] * 64, [1] * 40 + [2] * 20, [int(n) for n in rng.integers(1, 129, 20)]):
        parts = in_pushes(magnitudes, sizes, variable=True)
        assert len(parts) == len(magnitudes) * HOP
        assert convergence(parts, magnitudes) < whole + 6.0
        assert np.abs(np.diff(parts, 2)).max() < 1.5 * np.abs(np.diff(clip, 2)).max()


@settings(max_examples=10)
@given(pushes=st.lists(st.tuples(st.booleans(), st.integers(1, 40)), min_size=1, max_size=8))
def test_spectra_come_out_as_soon_as_magnitudes(pushes: list[tuple[bool, int]]) -> None:
    rng = np.random.default_rng(7)
    synthesiser = PhaseSynthesiser(variable=True)
    pushed = out = 0
    for known, size in pushes:
        magnitudes = rng.random((size, N_BINS), np.float32) ** 4
        if known:
            samples = synthesiser.push_spectra(magnitudes.astype(np.complex64))
        else:
            samples = synthesiser.push(magnitudes)
        assert np.isfinite(samples).all()
        pushed, out = pushed + size, out + len(samples)
        assert out == (pushed * HOP - 128 if pushed > LOOK_AHEAD else 0)
    assert out + len(synthesiser.finish()) == pushed * HOP


def test_spectra_between_magnitudes_are_the_signal_again(clip: FloatArray) -> None:
    speech = whole_frames(clip, 3)
    spectra = phase.analyse(np.pad(speech, (LEAD, LEAD)))
    synthesiser = PhaseSynthesiser(variable=True)
    parts = [
        synthesiser.push(np.abs(spectra[:100])),
        *(synthesiser.push_spectra(spectra[at : at + 8]) for at in range(100, 300, 8)),
        synthesiser.push(np.abs(spectra[300:])),
        synthesiser.finish(),
    ]
    made = np.concatenate(parts)
    assert len(made) == len(speech)
    inside = slice(100 * HOP + WINDOW, 300 * HOP - WINDOW)
    assert np.abs(made - speech)[inside].max() < 1e-5
    assert np.abs(np.diff(made, 2)).max() < 1.5 * np.abs(np.diff(clip, 2)).max()


def test_the_order_of_equally_loud_bins_stays_as_it_is() -> None:
    """It decides where islands start, and so what streams decode to; pinned from NumPy in numba."""
    loud = (np.arange(1000) * 7919 % 61).astype(np.float32)
    order = np.flatnonzero(np.arange(1000) % 7)
    loudest_first.function(order, loud, np.empty(1000, np.int32))
    assert (np.diff(loud[order]) <= 0.0).all()
    digest = hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()
    assert digest == "3492e882c4aea2cbad88b61cd25ff0d9e3d646836b943997ca3b967ff9a87895"
