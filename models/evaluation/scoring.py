"""Scoring what was coded, several clips at a time, after all timing is done."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from numpy.typing import NDArray

from codec.errors import SottoError
from models.evaluation import metrics, phones
from models.evaluation.clips import Clip
from models.evaluation.coding import Coding, Step
from models.evaluation.report import ClipResult, SystemResult
from models.evaluation.systems import Coded, family

Work = tuple[NDArray[np.float32], NDArray[np.float32], bool, bool]


def score_codings(
    codings: Sequence[Coding],
    clips: Sequence[Clip],
    *,
    workers: int = 2,
    with_phones: bool = True,
    step: Step = lambda name: None,
) -> list[SystemResult]:
    """Score everything that was coded, against the clips it was coded from.

    workers: processes to use; 0 scores in this one. Raises SottoError if a scoring process dies.
    """
    originals = [Coded(clip.samples, 0, 0, 0.0, 0.0) for clip in clips]
    tasks = [(-1, at) for at in range(len(clips))] if with_phones else []
    tasks += [(s, c) for s, coding in enumerate(codings) for c in range(len(coding.coded))]
    scored: dict[tuple[int, int], tuple[dict[str, float], list[str]]] = {}
    work = {
        key: (
            clips[key[1]].samples,
            (originals if key[0] < 0 else codings[key[0]].coded)[key[1]].decoded,
            key[0] >= 0,
            with_phones,
        )
        for key in tasks
    }
    for key, value in _map(work, workers):
        scored[key] = value
        step("scoring")
    results = []
    for s, coding in enumerate(codings):
        rows = []
        for c, coded in enumerate(coding.coded):
            values, heard = scored[s, c]
            reference = scored[-1, c][1] if with_phones else []
            rows.append(_clip_result(clips[c], coded, values, reference, heard, with_phones))
        results.append(
            SystemResult(
                coding.system.name, family(coding.system), rows, coding.peak_bytes, coding.failure
            )
        )
    return results


def _score_one(work: Work) -> tuple[dict[str, float], list[str]]:
    reference, decoded, with_scores, with_phones = work
    values = metrics.score(reference, decoded) if with_scores else {}
    return values, phones.decode_phones(decoded) if with_phones else []


def _map(
    work: dict[tuple[int, int], Work], workers: int
) -> Iterator[tuple[tuple[int, int], tuple[dict[str, float], list[str]]]]:
    if workers == 0:
        for key, item in work.items():
            yield key, _score_one(item)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs: dict[Future[tuple[dict[str, float], list[str]]], tuple[int, int]] = {
            pool.submit(_score_one, item): key for key, item in work.items()
        }
        try:
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        except BrokenProcessPool:
            raise SottoError("a scoring process died") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _clip_result(
    clip: Clip,
    coded: Coded,
    values: dict[str, float],
    reference: list[str],
    heard: list[str],
    with_phones: bool,
) -> ClipResult:
    errors, count = phones.phone_errors(reference, heard)
    against_text = phones.transcript_errors(clip.text, heard) if clip.text else None
    known = with_phones and count > 0
    text_known = with_phones and against_text is not None
    return ClipResult(
        clip=clip.name,
        seconds=clip.seconds,
        payload_bits=coded.payload_bits,
        total_bits=coded.total_bits,
        encode_s=coded.encode_s,
        decode_s=coded.decode_s,
        scores=values,
        phone_errors=errors if known else math.nan,
        phones=count if known else math.nan,
        text_phone_errors=against_text[0] if text_known and against_text else math.nan,
        text_phones=against_text[1] if text_known and against_text else math.nan,
    )
