"""While somebody decodes, other people's prompts and pictures come in small portions."""

import numpy as np

from scoring.block_manager import BlockManager
from scoring.encoder_progress import CROP_PARTS, EncoderProgress
from scoring.image_processor import HDPicture
from scoring.scheduler import SampledToken, ScheduledRow, Scheduler

from .scripted import make_sequence

CROP = 2
TOKENS_OF_PICTURE = 6


def picture(name: str, crops: int) -> HDPicture:
    """A strip of so many crops; the global view is one more."""
    pixels = np.zeros((CROP, CROP * crops, 3), dtype=np.uint8)
    return HDPicture(pixels, name.encode(), TOKENS_OF_PICTURE)


def scheduler(max_crops: int = 34, crops_share: float = 2) -> Scheduler:
    return Scheduler(
        BlockManager(32, 4),
        max_num_seqs=4,
        max_num_batched_tokens=32,
        max_model_len=64,
        short_rope_len=1000,
        crop_size=CROP,
        max_crops=max_crops,
        prompt_share=3,
        crops_share=crops_share,
    )


def prompt_with(name: str, *pictures: HDPicture) -> object:
    """Two tokens, then each picture and two tokens after it."""
    ids, starts = [5, 5], {}
    for number, each in enumerate(pictures, start=1):
        starts[len(ids)] = each
        ids += [-number] * TOKENS_OF_PICTURE + [5, 5]
    return make_sequence(name, ids, max_tokens=50, pictures=starts)


def step(scheduler: Scheduler) -> list[ScheduledRow]:
    rows = scheduler.schedule()
    scheduler.advance(rows)
    scheduler.update(rows, [SampledToken(7) if row.emits else None for row in rows])
    return rows


def crops_of(rows: list[ScheduledRow]) -> list[tuple[str, float, float]]:
    jobs = [job for row in rows for job in row.encoder_jobs]
    return [
        (job.picture.digest.decode(), job.first / CROP_PARTS, job.end / CROP_PARTS) for job in jobs
    ]


def test_a_prompt_comes_in_small_chunks_while_another_sequence_decodes():
    s = scheduler()
    s.add(make_sequence("early", range(4), max_tokens=50))
    step(s)
    s.add(make_sequence("late", range(100, 108)))

    shares = [[(r.sequence.id, r.num_tokens) for r in step(s)] for _ in range(4)]

    assert shares == [
        [("early", 1), ("late", 3)],
        [("early", 1), ("late", 3)],
        [("early", 1), ("late", 2)],
        [("early", 1), ("late", 1)],
    ]


def test_each_waiting_prompt_brings_its_share_up_to_four():
    s = scheduler()
    s.add(make_sequence("early", range(4), max_tokens=50))
    step(s)
    for number in range(3):
        s.add(make_sequence(f"late{number}", range(100 * number, 100 * number + 28)))
    shares = [sum(r.num_tokens for r in step(s) if r.sequence.id != "early")]
    s.add(make_sequence("late3", range(400, 428)))
    shares.append(sum(r.num_tokens for r in step(s) if r.sequence.id != "early"))
    s.add(make_sequence("late4", range(500, 528)))
    shares.append(sum(r.num_tokens for r in step(s) if r.sequence.id != "early"))

    assert shares == [9, 12, 12]


def test_a_picture_is_encoded_and_placed_in_one_step_when_nobody_waits():
    s = scheduler()
    s.add(prompt_with("a", picture("p", 4)))

    (row,) = step(s)

    assert crops_of([row]) == [("p", 0, 5)]
    assert (row.start, row.end) == (0, 10)


def test_a_prompt_waits_at_its_picture_until_all_crops_are_encoded():
    s = scheduler()
    s.add(make_sequence("early", range(4), max_tokens=50))
    step(s)
    s.add(prompt_with("late", picture("p", 4)))

    parts = []
    for _ in range(5):
        (row,) = (row for row in step(s) if row.sequence.id == "late")
        parts.append((crops_of([row]), row.start, row.end))

    assert parts == [
        ([("p", 0, 2)], 0, 2),
        ([("p", 2, 4)], 2, 2),
        ([("p", 4, 5)], 2, 5),
        ([], 5, 8),
        ([], 8, 10),
    ]


def test_a_crop_takes_several_steps_where_the_limit_is_a_part_of_one():
    s = scheduler(crops_share=0.5)
    s.add(make_sequence("early", range(4), max_tokens=50))
    step(s)
    s.add(prompt_with("late", picture("p", 1)))

    shares = [crops_of(step(s)) for _ in range(5)]

    assert shares == [[("p", 0, 0.5)], [("p", 0.5, 1)], [("p", 1, 1.5)], [("p", 1.5, 2)], []]


def test_a_step_takes_crops_of_several_pictures_up_to_its_limit():
    s = scheduler(max_crops=6)
    s.add(prompt_with("a", picture("p", 3), picture("q", 3)))
    s.add(prompt_with("b", picture("r", 3)))

    first, second = step(s), step(s)

    assert crops_of(first) == [("p", 0, 4), ("q", 0, 2)]
    assert [(r.sequence.id, r.end) for r in first] == [("a", 10), ("b", 2)]
    assert crops_of(second) == [("q", 2, 4), ("r", 0, 4)]
    assert [(r.sequence.id, r.end) for r in second] == [("a", 18), ("b", 10)]


def test_a_picture_that_two_prompts_share_is_encoded_once():
    s = scheduler()
    s.add(prompt_with("a", picture("p", 4)))
    s.add(prompt_with("b", picture("q", 4), picture("p", 4)))

    assert crops_of(step(s)) == [("p", 0, 5), ("q", 0, 5)]


def test_a_picture_that_stands_twice_in_a_prompt_is_encoded_once():
    s = scheduler()
    s.add(prompt_with("a", picture("p", 4), picture("p", 4)))

    assert crops_of(step(s)) == [("p", 0, 5)]


def test_a_failed_sequences_picture_is_encoded_anew():
    """Whatever broke may lie in what had been encoded."""
    s = scheduler()
    sequence = prompt_with("a", picture("p", 4))
    s.add(sequence)
    step(s)
    s.fail(sequence, "broken")
    s.add(prompt_with("b", picture("p", 4)))

    assert crops_of(step(s)) == [("p", 0, 5)]


def test_progress_is_bounded_by_the_budget_and_ends():
    progress, p = EncoderProgress(CROP), picture("p", 2)

    assert progress.next_job(p, 0) is None
    job = progress.next_job(p, 2)
    assert (job.first, job.end, job.num_parts) == (0, 2, 3 * CROP_PARTS)
    progress.enter(job)
    progress.enter(progress.next_job(p, 99))
    assert progress.is_done(p)
    progress.forget(p)
    assert not progress.is_done(p)
