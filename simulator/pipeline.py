"""Batches on their way through the stages of a pipeline: who leaves when."""


class Pipeline:
    """Stages that each work on one batch at a time; batches keep their order.

    A stage takes an equal part of a batch's duration: layers are split evenly, and the LM head,
    which only the last stage has, counts for little.
    """

    def __init__(self, stages: int) -> None:
        self._free_at = [0] * stages  # when each stage has done what it was given. [as]

    def enter(self, now: int, duration: int) -> int:
        """When a batch that is handed over now comes out of the last stage. [as]

        >>> pipeline = Pipeline(2)
        >>> pipeline.enter(0, 10), pipeline.enter(0, 10), pipeline.enter(100, 10)
        (10, 15, 110)
        """
        stages = len(self._free_at)
        part, rest = divmod(duration, stages)
        at = now
        for stage in range(stages):
            at = max(at, self._free_at[stage]) + part + (rest if stage == 0 else 0)
            self._free_at[stage] = at
        return at
