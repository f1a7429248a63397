"""What one request's misfortune costs the others: nothing."""

import gc
import logging
import time
import weakref

import numpy as np

from scoring.sequence import Failure, FinishReason

from .scripted import ScriptedRunner, make_engine, make_scheduler, make_sequence


class HoldingRunner(ScriptedRunner):
    """Fails with a large array in the frame that raises, as a step on a device does."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[weakref.ref[np.ndarray]] = []

    def execute(self, rows):
        activations = np.zeros(1000)
        self.held.append(weakref.ref(activations))
        if any(row.sequence.id == "culprit" for row in rows):
            raise MemoryError("out of memory")
        return super().execute(rows)


def test_a_failed_step_keeps_no_tensor_alive_and_gives_memory_back():
    runner = HoldingRunner()
    engine = make_engine(runner)
    for name in ("before", "culprit", "after"):
        engine.add(make_sequence(name, max_tokens=2))
    gc.disable()  # a reference cycle would hide until the collector runs
    try:
        outputs = {output.sequence_id: output for output in engine.step()}

        assert all(reference() is None for reference in runner.held)
    finally:
        gc.enable()
    assert outputs["culprit"].finish_reason is FinishReason.ERROR
    assert outputs["culprit"].failure is Failure.MEMORY
    assert (
        outputs["culprit"].error == "there was not enough memory for this request beside the others"
    )
    assert outputs["before"].token_id == outputs["after"].token_id == 7
    assert runner.num_releases == 2  # after the batch, and after the culprit alone


def test_a_hundred_failures_leave_nothing_behind():
    runner = HoldingRunner()
    engine = make_engine(runner)
    for _ in range(100):
        engine.add(make_sequence("culprit"))
        engine.add(make_sequence("other", max_tokens=1))
        while engine.has_work:
            engine.step()
    stats = engine.stats()

    assert stats.num_blocks_free + stats.num_blocks_cached == stats.num_blocks
    assert stats.num_blocks_leaked == 0


def test_a_sequence_whose_time_is_up_ends_with_what_it_has():
    engine = make_engine(ScriptedRunner())
    late, other = make_sequence("late"), make_sequence("other", max_tokens=3)
    late.deadline = time.monotonic() + 60
    engine.add(late)
    engine.add(other)
    engine.step()
    late.deadline = time.monotonic() - 1

    outputs = {output.sequence_id: output for output in engine.step()}

    assert outputs["late"].finish_reason is FinishReason.LENGTH
    assert outputs["late"].token_id is None
    assert outputs["other"].token_id == 7
    engine.step()
    assert not engine.has_work
    stats = engine.stats()
    assert stats.num_blocks_free + stats.num_blocks_cached == stats.num_blocks


def test_a_waiting_sequence_expires_too():
    engine = make_engine(ScriptedRunner(), make_scheduler(max_num_seqs=1))
    engine.add(make_sequence("running", max_tokens=2))
    waiting = make_sequence("waiting")
    waiting.deadline = time.monotonic() - 1
    engine.add(waiting)

    assert [o.sequence_id for o in engine.step() if o.finish_reason] == ["waiting"]


def test_a_sequence_that_waits_too_long_is_not_begun():
    engine = make_engine(ScriptedRunner(), make_scheduler(max_num_seqs=1))
    for name in ("running", "patient", "impatient"):
        sequence = make_sequence(name, max_tokens=2)
        sequence.queue_deadline = time.monotonic() + (60 if name == "patient" else 0)
        if name == "running":
            sequence.queue_deadline = time.monotonic() + 60
        engine.add(sequence)

    first = engine.step()
    ended = [(o.sequence_id, o.finish_reason) for o in first + engine.step() if o.finish_reason]

    assert ended == [("impatient", FinishReason.ABORT), ("running", FinishReason.LENGTH)]
    assert [o.sequence_id for o in engine.step()] == ["patient"]


def test_a_sequence_that_has_begun_may_wait_again():
    """One that was preempted is not new in the queue."""
    engine = make_engine(ScriptedRunner())
    sequence = make_sequence("begun", max_tokens=3)
    engine.add(sequence)
    engine.step()
    sequence.queue_deadline = time.monotonic() - 1

    assert [o.token_id for o in engine.step()] == [7]


def test_lost_blocks_are_counted_and_logged_but_serving_goes_on(caplog):
    scheduler = make_scheduler()
    engine = make_engine(ScriptedRunner(), scheduler)
    thief = make_sequence("thief")
    scheduler.blocks.grow(thief, 1)  # a block that nobody will give back

    with caplog.at_level(logging.ERROR):
        for name in ("a", "b"):
            engine.add(make_sequence(name, max_tokens=1))
            engine.step()

    assert engine.stats().num_blocks_leaked == 1
    assert [record.message for record in caplog.records] == ["1 of 16 cache blocks are lost"]
